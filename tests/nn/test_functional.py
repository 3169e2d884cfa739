"""Attention, norms, activations and rotary embedding against plain numpy, values and gradients, in both modes."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone.nn import functional as F
from mindone.nn.kernels import plain

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def gradients(cell, *inputs):
    """Gradients of ``sum(cell(*inputs))`` for all inputs."""

    class Gradients(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.cell = cell
            self.grad = ops.GradOperation(get_all=True)

        def construct(self, *args):
            return self.grad(self.cell)(*args)

    return [value.asnumpy() for value in Gradients()(*[Tensor(value) for value in inputs])]


def numerical_gradient(function, inputs, index, step=1e-6):
    """Central differences of ``sum(function)`` for one input, in float64."""
    inputs = [np.asarray(value, np.float64) for value in inputs]
    result = np.zeros_like(inputs[index])
    for place in np.ndindex(result.shape):
        there, back = ([value.copy() for value in inputs] for _ in range(2))
        there[index][place] += step
        back[index][place] -= step
        result[place] = (function(*there).sum() - function(*back).sum()) / (2 * step)
    return result


def check(cell, reference, inputs, atol=2e-5):
    """Compares a cell with a numpy function: values, and gradients for the inputs that are floats."""
    np.testing.assert_allclose(cell(*[Tensor(v) for v in inputs]).asnumpy(), reference(*inputs), atol=atol)
    for index, gradient in enumerate(gradients(cell, *inputs)):
        expected = numerical_gradient(reference, inputs, index)
        np.testing.assert_allclose(gradient, expected, atol=atol * max(1, np.abs(expected).max()), err_msg=f"{index=}")


# --- attention -------------------------------------------------------------------------------------------------------

QUERY_MASK = RNG.random((2, 1, 4, 7)) < 0.6
QUERY_MASK[0, 0, 2] = False
KEY_MASK = np.array([[1, 1, 1, 0, 1, 0, 0], [0] * 7], bool)[:, None, None]


def reference_attention(q, k, v, mask=None, scale=0.5, bias=0.0):
    scores = scale * q @ k.swapaxes(-1, -2) + bias
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
        empty = ~mask.any(-1, keepdims=True)
        scores = np.where(empty, 0, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ v
    return out if mask is None else np.where(empty, 0, out)


MASKS = (None, KEY_MASK, QUERY_MASK)

# In the plain form all scores of 2 samples x 2 heads x 4 queries x 7 keys at once, those of three queries, of two, of
# one; or by the compiled operator, if there is one.
forms = pytest.mark.parametrize("form", [1000, 84, 56, 1, "as installed"])


@pytest.fixture
def attention_form(form, monkeypatch):
    if form != "as installed":
        monkeypatch.setattr("mindone.nn.kernels.on_cpu", plain)
        monkeypatch.setattr(plain, "MAX_SCORES", form)


class EveryMask(nn.Cell):
    """Weighted attention for every mask, so that one compilation covers all."""

    def __init__(self, weights):
        super().__init__()
        self.weights = [Tensor(weight) for weight in weights]
        self.masks = [None if mask is None else Tensor(mask) for mask in MASKS]

    def construct(self, q, k, v):
        outs = ()
        for i in range(len(self.masks)):
            outs = (*outs, F.attention(q, k, v, self.masks[i], 0.5) * self.weights[i])
        return ops.stack(outs)


def by_heads(function, *inputs):
    """A numpy function of (B, h, N, d) on (B, N, h, d)."""
    return function(*(x.swapaxes(1, 2) for x in inputs)).swapaxes(1, 2)


@forms
def test_attention_in_parts_equals_attention_at_once_with_any_mask(mode, attention_form):
    inputs = [draw(2, 4, 2, 4), draw(2, 7, 2, 4), draw(2, 7, 2, 6)]
    weights = [draw(2, 4, 2, 6) for _ in MASKS]

    def reference(*inputs):
        attended = [by_heads(lambda *x: reference_attention(*x, mask), *inputs) for mask in MASKS]  # noqa: B023
        return np.stack([out * weight for out, weight in zip(attended, weights)])

    check(EveryMask(weights), reference, inputs)


class BiasedAttention(nn.Cell):
    def __init__(self, weight):
        super().__init__()
        self.weight, self.mask = Tensor(weight), Tensor(KEY_MASK)

    def construct(self, q, k, v, bias):
        return F.attention(q, k, v, self.mask, 0.5, bias) * self.weight


@pytest.mark.parametrize("form", [1000, 60, "as installed"])
def test_attention_bias_is_added_to_the_scores_and_gets_its_gradient(mode, attention_form):
    inputs, weight = [draw(2, 5, 3, 4), draw(2, 7, 3, 4), draw(2, 7, 3, 4), draw(1, 3, 5, 7)], draw(2, 5, 3, 4)

    def reference(q, k, v, bias):
        return by_heads(lambda *x: reference_attention(*x, KEY_MASK, 0.5, bias), q, k, v) * weight

    check(BiasedAttention(weight), reference, inputs)


class PartsOfKeys(nn.Cell):
    """Attention among some keys at a time, merged, and its gradients from those of the parts."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def construct(self, q, k, v, d_out):
        found, first = (), 0
        for count in self.counts:
            part = F.attention_part(q, k[:, first : first + count], v[:, first : first + count])
            found = F.merged(found, part) if found else part
            first += count
        d_q, d_k, d_v, first = 0.0, (), (), 0
        for count in self.counts:
            some, values = k[:, first : first + count], v[:, first : first + count]
            slopes = F.attention_part_gradients(q, some, values, found[0], found[1], d_out)
            d_q, d_k, d_v = d_q + slopes[0], d_k + (slopes[1],), d_v + (slopes[2],)
            first += count
        return found[0], d_q, ops.concat(d_k, 1), ops.concat(d_v, 1)


@pytest.mark.parametrize("form", [1000, 30, "as installed"])
def test_attention_among_some_keys_at_a_time_adds_up_to_that_among_all(mode, attention_form):
    q, k, v, weight = draw(2, 5, 2, 4), 9 * draw(2, 7, 2, 4), draw(2, 7, 2, 4), draw(2, 5, 2, 4)

    def reference(q, k, v):
        return by_heads(reference_attention, q, k, v) * weight

    out, *slopes = PartsOfKeys((3, 1, 3))(*[Tensor(x) for x in (q, k, v, weight)])
    np.testing.assert_allclose(out.asnumpy() * weight, reference(q, k, v), atol=2e-5)
    for index, slope in enumerate(slopes):
        expected = numerical_gradient(reference, (q, k, v), index)
        np.testing.assert_allclose(slope.asnumpy(), expected, atol=2e-5 * np.abs(expected).max(), err_msg=f"{index=}")


class RotaryAttention(nn.Cell):
    """Attention of rotated queries and keys, by both kinds of pairs, weighted."""

    def __init__(self, weight, cos, sin):
        super().__init__()
        self.weight, self.cos, self.sin = Tensor(weight), Tensor(cos, ms.float32), Tensor(sin, ms.float32)

    def construct(self, q, k, v):
        halves = F.attention(F.apply_rope_half(q, self.cos, self.sin), F.apply_rope_half(k, self.cos, self.sin), v)
        pairs = F.attention(
            F.apply_rope_interleaved(q, self.cos, self.sin), F.apply_rope_interleaved(k, self.cos, self.sin), v
        )
        return ops.stack((halves, pairs)) * self.weight


@pytest.mark.parametrize("each_sample", [False, True], ids=["same angles", "angles of each sample"])
@pytest.mark.parametrize("form", [1000, "as installed"])
def test_queries_and_keys_are_rotated_before_attention(mode, attention_form, each_sample):
    inputs, weight = [draw(2, 7, 3, 4) for _ in range(3)], draw(2, 2, 7, 3, 4)
    angles = np.abs(draw(2, 7, 2)) if each_sample else np.abs(draw(7, 2))

    def reference(q, k, v):
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        wide = angles[:, None] if each_sample else angles
        outs = []
        for first, second in ((slice(0, 2), slice(2, None)), (slice(0, None, 2), slice(1, None, 2))):
            outs.append(reference_attention(rotated(q, first, second, wide), rotated(k, first, second, wide), v))
        return np.stack(outs).swapaxes(2, 3) * weight

    check(RotaryAttention(weight, np.cos(angles), np.sin(angles)), reference, inputs)


def test_half_precision_attention_returns_half_precision():
    q = Tensor(draw(1, 5, 2, 4)).astype(ms.float16)
    out = F.attention(q, q, q)
    expected = by_heads(reference_attention, *[q.asnumpy().astype(np.float64)] * 3)
    assert out.dtype == ms.float16
    np.testing.assert_allclose(out.asnumpy(), expected, atol=2e-3)


# --- norms, modulation, activations ----------------------------------------------------------------------------------


class Function(nn.Cell):
    """``function(*inputs) * weight``: the weight makes every output count differently."""

    def __init__(self, function, weight, *constants):
        super().__init__()
        self.function, self.weight, self.constants = function, Tensor(weight), constants

    def construct(self, *inputs):
        return self.function(*inputs, *self.constants) * self.weight


def normed(x, eps=1e-6):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def test_layer_norm_matches_its_formula(mode):
    weight = draw(2, 5, 8)
    check(
        Function(F.layer_norm, weight),
        lambda x, w, b: (normed(x) * w + b) * weight,
        [draw(2, 5, 8) * 3 + 1, draw(8), draw(8)],
    )


def test_layer_norm_without_affine_parameters():
    x = draw(3, 8)
    np.testing.assert_allclose(F.layer_norm(Tensor(x)).asnumpy(), normed(x), atol=1e-5)


def test_norms_use_their_epsilon():
    x = draw(3, 8) * 1e-3
    np.testing.assert_allclose(F.layer_norm(Tensor(x), eps=1e-2).asnumpy(), normed(x, 1e-2), atol=1e-6)
    rms = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-2)
    np.testing.assert_allclose(F.rms_norm(Tensor(x), Tensor(np.ones(8, np.float32)), 1e-2).asnumpy(), rms, atol=1e-6)


def test_rms_norm_matches_its_formula(mode):
    weight = draw(2, 5, 8)
    check(
        Function(F.rms_norm, weight),
        lambda x, w: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w * weight,
        [draw(2, 5, 8), draw(8)],
    )


@pytest.mark.parametrize("frames", [1, 3])
def test_modulated_norm_and_gated_sum_per_sample_or_per_frame(mode, frames):
    weight = draw(2, 3, 4, 8)

    class Both(nn.Cell):
        def construct(self, x, shift, scale, gate):
            return F.gated_sum(x, gate, F.modulated_norm(x, shift, scale)) * Tensor(weight)

    vectors = [draw(2, frames, 1, 8) for _ in range(3)]
    check(
        Both(),
        lambda x, shift, scale, gate: (x + gate * (normed(x) * (1 + scale) + shift)) * weight,
        [draw(2, 3, 4, 8), *vectors],
    )


def test_norms_compute_in_float32_and_return_the_dtype_they_got():
    x = draw(4, 64) * 200
    half = Tensor(x).astype(ms.float16)
    for function, expected in (
        (lambda h: F.rms_norm(h, Tensor(np.ones(64, np.float32))), x / np.sqrt((x**2).mean(-1, keepdims=True))),
        (F.layer_norm, normed(x)),
    ):
        out = function(half)
        assert out.dtype == ms.float16
        np.testing.assert_allclose(out.asnumpy(), expected, atol=5e-3)


def test_gelu_is_the_tanh_form(mode):
    weight = draw(4, 9)
    check(
        Function(F.gelu_tanh, weight),
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) * weight,
        [draw(4, 9) * 3],
    )


ACTIVATIONS = {
    F.gelu: lambda x: x * np.vectorize(math.erf)(x / np.sqrt(2)) * 0.5 + x * 0.5,
    F.quick_gelu: lambda x: x / (1 + np.exp(-1.702 * x)),
    F.silu: lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda f: f.__name__)
def test_activations_follow_their_formula(mode, activation):
    weight = draw(4, 9)
    check(Function(activation, weight), lambda x: ACTIVATIONS[activation](x) * weight, [draw(4, 9) * 3])


def test_gelu_of_large_values_stays_finite():
    x = np.array([-1e4, -50, 50, 1e4], np.float32)
    np.testing.assert_array_equal(F.gelu_tanh(Tensor(x)).asnumpy(), np.maximum(x, 0))


def test_linear_multiplies_by_the_transposed_weight(mode):
    weight = draw(2, 5, 3)
    check(Function(F.linear, weight), lambda x, w, b: (x @ w.T + b) * weight, [draw(2, 5, 4), draw(3, 4), draw(3)])


# --- rotary embedding ------------------------------------------------------------------------------------------------


def rotated(x, first, second, angles):
    """numpy rotation of the channels ``first`` with ``second``."""
    out = np.empty_like(x)
    a, b = x[..., first], x[..., second]
    out[..., first] = a * np.cos(angles) - b * np.sin(angles)
    out[..., second] = b * np.cos(angles) + a * np.sin(angles)
    return out


@pytest.mark.parametrize(
    ("function", "first", "second"),
    [
        (F.apply_rope_interleaved, slice(0, None, 2), slice(1, None, 2)),
        (F.apply_rope_half, slice(0, 4), slice(4, None)),
    ],
)
def test_rotary_embedding_rotates_the_right_pairs(mode, function, first, second):
    x, weight = draw(2, 5, 3, 8), draw(2, 5, 3, 8)
    angles = np.arange(5)[:, None] * np.array([1.0, 0.3, 0.1, 0.01])
    tables = Tensor(np.cos(angles), ms.float32), Tensor(np.sin(angles), ms.float32)
    check(Function(function, weight, *tables), lambda x: rotated(x, first, second, angles[:, None]) * weight, [x])
