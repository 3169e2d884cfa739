"""The compiled operators: sizes beyond one tile, one piece or one vector."""

import numpy as np
import pytest
from mindspore import Tensor

from mindone.nn.conv import Conv3d, GroupNorm
from mindone.nn.kernels import compiled
from mindone.nn.kernels.library import compiled_library
from mindone.testing import golden

RNG = np.random.default_rng(0)
pytestmark = pytest.mark.skipif(compiled_library() is None, reason="there are no compiled operators here")


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "cell,inputs,sentence",
    [
        ("silu", [np.ones((2, 3), np.float16)], r"mindone_silu: tensor 0 is float16 \(2, 3\); .* float32"),
        ("silu", [np.ones((0, 3), np.float32)], r"mindone_silu: tensor 0 is float32 \(0, 3\), without any values"),
        ("square_sum", [np.ones(3, np.int32)], "mindone_square_sum: tensor 0 is int32 "),
    ],
)
def test_a_kernel_refuses_tensors_that_it_is_not_made_for(mode, cell, inputs, sentence):
    cells = {"silu": compiled._silu, "square_sum": compiled._square_sum}
    with pytest.raises(RuntimeError, match=sentence):
        cells[cell](*map(Tensor, inputs)).asnumpy()


def convolved(x, weight, stride, padding):
    """In float64, tap by tap."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *padding))
    size = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], weight.shape[2:], stride)]
    y = np.zeros((x.shape[0], weight.shape[0], *size))
    for tap in np.ndindex(weight.shape[2:]):
        part = [slice(t, t + s * (n - 1) + 1, s) for t, s, n in zip(tap, stride, size)]
        y += np.einsum("oc,bcthw->bothw", weight[(slice(None), slice(None), *tap)], x[(slice(None),) * 2 + (*part,)])
    return y


@pytest.mark.parametrize(
    "channels,outs,kernel,stride,size",
    [
        (20, 37, (3, 3, 3), (1, 1, 1), (3, 21, 50)),
        (3, 70, (1, 3, 3), (1, 2, 2), (2, 33, 31)),
        (7, 12, (1, 1, 25), (1, 1, 1), (1, 3, 60)),
        (40, 3, (1, 1, 1), (1, 1, 1), (2, 9, 31)),
        (5, 9, (2, 4, 4), (2, 4, 4), (4, 16, 20)),
    ],
)
def test_convolutions_of_many_tiles_and_blocks_follow_the_definition(channels, outs, kernel, stride, size):
    golden.use_mode("pynative")
    padding = tuple((0, 0) if k in (1, 2, 4) else (k // 2, k // 2) for k in kernel)
    x, weight, bias = draw(2, channels, *size), draw(outs, channels, *kernel), draw(outs)
    cell = compiled.Convolution(stride, padding, 1, False)
    expected = convolved(x, weight, stride, padding)
    y = cell(Tensor(x), Tensor(weight), Tensor(bias))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(y.asnumpy(), expected + bias.reshape(1, -1, 1, 1, 1), atol=2e-6 * scale)
    # Linear in input and weight, so the gradients are transposes.
    dy, u, v = draw(*expected.shape), draw(*x.shape), draw(*weight.shape)
    dx, d_weight, d_bias = cell.bprop(Tensor(x), Tensor(weight), Tensor(bias), y, Tensor(dy))
    for gradient, along, other in (
        (dx, u, convolved(u, weight, stride, padding)),
        (d_weight, v, convolved(x, v, stride, padding)),
    ):
        wanted = (dy * other).sum()
        got = (gradient.asnumpy().astype(np.float64) * along).sum()
        assert abs(got - wanted) < 1e-5 * np.sqrt((dy.astype(np.float64) ** 2).sum() * (other**2).sum())
    np.testing.assert_allclose(d_bias.asnumpy(), dy.sum((0, 2, 3, 4)), atol=1e-3)


def test_group_norm_of_long_groups_keeps_its_digits_far_from_zero():
    golden.use_mode("pynative")
    cell = GroupNorm(4, 8)
    x = draw(2, 8, 70, 71) + 300
    grouped = x.astype(np.float64).reshape(2, 4, -1)
    expected = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected.reshape(x.shape), atol=2e-4)


def test_activations_are_exact_at_every_length_and_size():
    golden.use_mode("pynative")
    x = np.concatenate([np.linspace(-100, 100, 20011), [0, -0.0, 1e-30, -1e-30]]).astype(np.float32)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(compiled._silu(Tensor(x)).asnumpy(), wide / (1 + np.exp(-wide)), rtol=1e-6, atol=1e-35)
    for length in range(1, 40):
        part = x[10000 : 10000 + length]
        np.testing.assert_array_equal(
            compiled._silu(Tensor(part)).asnumpy(), compiled._silu(Tensor(x)).asnumpy()[10000 : 10000 + length]
        )


def test_a_value_that_is_no_number_stays_none():
    golden.use_mode("pynative")
    x = np.array([np.nan, 1.0], np.float32)
    for y in (compiled._silu(Tensor(x)), compiled._gelu_tanh(Tensor(x)), compiled._quick_gelu(Tensor(x))):
        y = y.asnumpy()
        assert np.isnan(y[0]) and np.isfinite(y[1])


def test_kernels_take_views_in_pynative_mode():
    golden.use_mode("pynative")
    x = draw(5, 7)
    view = Tensor(x).T
    np.testing.assert_allclose(compiled._silu(view).asnumpy(), (x / (1 + np.exp(-x))).T, rtol=1e-5)


def test_a_convolution_is_the_same_in_every_run():
    golden.use_mode("graph")
    cell, x = Conv3d(16, 24, (3, 3, 3), padding=((1, 1),) * 3), Tensor(draw(1, 16, 4, 20, 20))
    first = cell(x).asnumpy()
    for _ in range(5):
        np.testing.assert_array_equal(cell(x).asnumpy(), first)


@pytest.mark.parametrize("rows,width,outs", [(1, 1, 1), (5, 7, 3), (100, 300, 45), (130, 900, 160), (9, 16, 48)])
def test_products_of_any_size_and_their_gradients_follow_the_definition(rows, width, outs):
    golden.use_mode("pynative")
    x, weight, bias, dy = draw(rows, width), draw(outs, width), draw(outs), draw(rows, outs)
    cell = compiled.Linear()
    y = cell(*map(Tensor, (x, weight, bias)))
    gradients = cell.bprop(*map(Tensor, (x, weight, bias)), y, Tensor(dy))
    wide = x.astype(np.float64)
    for got, wanted in zip(
        (y, *gradients), (wide @ weight.T + bias, dy.astype(np.float64) @ weight, dy.T @ wide, dy.sum(0))
    ):
        np.testing.assert_allclose(got.asnumpy(), wanted, atol=1e-6 * np.sqrt(width * rows) * 5)


def test_large_weights_are_multiplied_by_our_own_product(monkeypatch):
    used = []

    class Watched(compiled.Linear):
        def construct(self, x, weight, bias):
            used.append((x.shape[0], weight.shape))
            return x @ weight.T

    golden.use_mode("pynative")
    monkeypatch.setattr(compiled, "_large_linear", Watched())
    large = compiled.LARGE_WEIGHT
    for n in (large, large - 1):
        compiled.linear(Tensor(draw(2, large)), Tensor(draw(n, large)), None)
    assert used == [(2, (large, large))]


def attended(q, k, v, bias, mask, scale, d):
    """Attention in float64, and the gradients of q, k, v and of the scores for that of the result."""
    scores = np.where(mask, scale * q @ k.swapaxes(-1, -2) + bias, -1e30)
    weights = np.where(mask, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
    slopes = d @ v.swapaxes(-1, -2)
    slopes = weights * (slopes - (slopes * weights).sum(-1, keepdims=True))
    dq, dk, dv = scale * slopes @ k, scale * slopes.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ d
    return weights @ v, dq, dk, dv, slopes


@pytest.mark.parametrize(
    "queries,keys,size,values,bias_shape,mask_shape",
    [
        (50, 130, 20, 33, (1, 1, 50, 130), (1, 1, 1, 1)),
        (100, 49, 64, 64, (1, 1, 1, 1), (2, 1, 1, 49)),
        (1, 1, 1, 1, (1, 1, 1, 1), (1, 1, 1, 1)),
        (97, 300, 72, 72, (1, 3, 97, 300), (2, 1, 97, 300)),
        (60, 70, 16, 16, (2, 1, 60, 1), (1, 3, 60, 1)),
        (60, 70, 16, 16, (2, 3, 1, 70), (2, 3, 1, 70)),
    ],
)
def test_attention_of_many_blocks_and_its_gradients_follow_the_definition(
    queries, keys, size, values, bias_shape, mask_shape
):
    golden.use_mode("pynative")
    q, k, v, dy = (draw(2, 3, *shape) for shape in ((queries, size), (keys, size), (keys, values), (queries, values)))
    bias, mask, scale = draw(*bias_shape), RNG.random(mask_shape) < 0.7, size**-0.5
    if mask.size == 1:
        mask[:] = True
    cell, biased = compiled.Attention(scale, False), compiled.Attention(scale, True)
    inputs = [Tensor(np.ascontiguousarray(x)) for x in (*(x.swapaxes(1, 2) for x in (q, k, v)), bias, mask)]
    out, d_out = cell(*inputs), (Tensor(np.ascontiguousarray(dy.swapaxes(1, 2))), None)
    gradients = cell.bprop(*inputs, out, d_out)[:3]
    *of_biased, d_bias = biased.bprop(*inputs, biased(*inputs), d_out)[:4]
    *expected, slopes = attended(*(x.astype(np.float64) for x in (q, k, v, bias)), mask, scale, dy.astype(np.float64))
    for got, wanted in zip((out[0], *gradients, *of_biased), (*expected, *expected[1:])):
        np.testing.assert_allclose(got.asnumpy().swapaxes(1, 2), wanted, atol=1e-5 * max(1, np.abs(wanted).max()))
    if bias.size > 1:
        wanted = slopes.sum(tuple(axis for axis in range(4) if bias.shape[axis] == 1), keepdims=True)
        np.testing.assert_allclose(d_bias.asnumpy(), wanted, atol=1e-5 * max(1, np.abs(wanted).max()))


def test_a_query_without_any_key_gets_zeros_and_gives_no_gradient():
    golden.use_mode("pynative")
    q, k, v, dy = (Tensor(draw(1, 64, 1, 16)) for _ in range(4))
    mask = np.ones((1, 1, 64, 64), np.bool_)
    mask[:, :, 5] = False
    inputs = (q, k, v, Tensor(draw(1, 1, 64, 64)), Tensor(mask))
    cell, biased = compiled.Attention(0.25, False), compiled.Attention(0.25, True)
    out = cell(*inputs)
    gradients, of_biased = cell.bprop(*inputs, out, (dy, None))[:3], biased.bprop(*inputs, out, (dy, None))[:4]
    assert not out[0].asnumpy()[0, 5].any() and not of_biased[3].asnumpy()[0, 0, 5].any()
    assert not gradients[0].asnumpy()[0, 5].any() and not of_biased[0].asnumpy()[0, 5].any()
    assert all(np.isfinite(x.asnumpy()).all() for x in (out[0], *gradients, *of_biased))
