"""Convolutions, group norm and upsampling against definitions written in numpy, with gradients."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone import runtime
from mindone.errors import UserError
from mindone.nn.conv import CausalConv3d, Conv2d, Conv3d, GroupNorm, nearest_upsample
from mindone.nn.kernels import kernels, plain
from mindone.testing import golden

PADDED = ((0, 1), (0, 1))
AROUND = ((1, 1),) * 3


def reference(x, weight, bias, stride, padding):
    """A convolution over the trailing axes of ``x`` (N, C, ...) in float64, window by window."""
    axes = tuple(range(2, x.ndim))
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *padding))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=axes)
    windows = windows[(slice(None), slice(None), *(slice(None, None, step) for step in stride))]
    dims = len(axes)
    taps = tuple(range(2 + dims, 2 + 2 * dims))
    y = np.tensordot(windows, weight.astype(np.float64), axes=((1, *taps), tuple(range(1, 2 + dims))))
    y = np.moveaxis(y, -1, 1)
    return y if bias is None else y + bias.reshape(1, -1, *[1] * dims)


CASES = {
    "3x3": (lambda: Conv2d(3, 5, 3, padding=1), (2, 3, 12, 11), (1, 1), ((1, 1), (1, 1))),
    "3x3 on a small image": (lambda: Conv2d(3, 5, 3, padding=1), (2, 3, 4, 5), (1, 1), ((1, 1), (1, 1))),
    "5x5 without bias": (lambda: Conv2d(2, 3, 5, padding=2, has_bias=False), (1, 2, 13, 9), (1, 1), ((2, 2),) * 2),
    "1x1": (lambda: Conv2d(3, 4, 1), (2, 3, 12, 11), (1, 1), ((0, 0), (0, 0))),
    "downsampling": (lambda: Conv2d(3, 4, 3, stride=2, padding=PADDED), (2, 3, 12, 8), (2, 2), PADDED),
    "stride 2, padded around": (lambda: Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 9, 8), (2, 2), ((1, 1), (1, 1))),
    "4x4 of stride 4": (lambda: Conv2d(3, 5, 4, stride=4), (2, 3, 8, 12), (4, 4), ((0, 0), (0, 0))),
    "without padding": (lambda: Conv2d(3, 4, 3), (2, 3, 6, 7), (1, 1), ((0, 0), (0, 0))),
    "causal": (lambda: CausalConv3d(3, 4, 3), (2, 3, 5, 4, 3), (1, 1, 1), ((2, 0), (1, 1), (1, 1))),
    "causal, more positions": (lambda: CausalConv3d(3, 4, 3), (1, 3, 5, 6, 5), (1, 1, 1), ((2, 0), (1, 1), (1, 1))),
    "causal, fewer channels": (lambda: CausalConv3d(5, 2, 3), (1, 5, 5, 6, 5), (1, 1, 1), ((2, 0), (1, 1), (1, 1))),
    "causal, one frame": (lambda: CausalConv3d(2, 3, 3), (1, 2, 1, 3, 4), (1, 1, 1), ((2, 0), (1, 1), (1, 1))),
    "causal, half the frames": (
        lambda: CausalConv3d(3, 4, 3, (2, 1, 1)),
        (2, 3, 6, 4, 3),
        (2, 1, 1),
        ((1, 0), (1, 1), (1, 1)),
    ),
    "3x3x3 of stride 2": (
        lambda: Conv3d(3, 4, (3, 3, 3), (2, 2, 2), AROUND),
        (2, 3, 6, 5, 4),
        (2, 2, 2),
        AROUND,
    ),
    "3x3x3 of stride 2, more positions": (
        lambda: Conv3d(3, 4, (3, 3, 3), (2, 2, 2), AROUND),
        (1, 3, 6, 5, 6),
        (2, 2, 2),
        AROUND,
    ),
    "3x3x3 of stride 2 in space, one frame": (
        lambda: Conv3d(3, 4, (3, 3, 3), (1, 2, 2), AROUND),
        (1, 3, 1, 6, 3),
        (1, 2, 2),
        AROUND,
    ),
    "3x3 to many channels": (lambda: Conv2d(2, 6, 3, padding=1), (2, 2, 12, 11), (1, 1), ((1, 1), (1, 1))),
    "3x3 to few channels": (lambda: Conv2d(6, 1, 3, padding=1), (2, 6, 12, 11), (1, 1), ((1, 1), (1, 1))),
    "few channels without padding": (lambda: Conv2d(6, 1, 3), (2, 6, 6, 7), (1, 1), ((0, 0), (0, 0))),
    "causal, to many channels": (lambda: CausalConv3d(1, 9, 3), (2, 1, 5, 6, 5), (1, 1, 1), ((2, 0), (1, 1), (1, 1))),
    "causal, to few channels": (lambda: CausalConv3d(12, 2, 3), (2, 12, 5, 6, 5), (1, 1, 1), ((2, 0), (1, 1), (1, 1))),
    "3x3x3 of stride 2 to many channels": (
        lambda: Conv3d(1, 18, (3, 3, 3), (2, 2, 2), AROUND),
        (1, 1, 6, 5, 6),
        (2, 2, 2),
        AROUND,
    ),
    "causal 1x1x1": (lambda: CausalConv3d(3, 4, 1, has_bias=False), (2, 3, 3, 4, 3), (1, 1, 1), ((0, 0),) * 3),
}


class AllAtOnce(nn.Cell):
    """Outputs of all cells and the gradients of ``sum(output * direction)``: one compilation for a whole table."""

    def __init__(self, cells):
        super().__init__(auto_prefix=False)
        self.parts = nn.CellList(cells)

    def construct(self, *tensors):
        outputs, loss = (), 0.0
        count = len(self.parts)
        for i in range(count):
            y = self.parts[i](tensors[i])
            outputs += (y,)
            loss = loss + (y * tensors[count + i]).sum()
        return loss, outputs


class Differentiated(nn.Cell):
    def __init__(self, network):
        super().__init__(auto_prefix=False)
        inputs = tuple(range(len(network.parts)))
        parameters = ms.ParameterTuple(network.trainable_params())
        self.run = ms.value_and_grad(network, inputs, weights=parameters, has_aux=True)

    def construct(self, *tensors):
        return self.run(*tensors)


def run_all(cells, inputs, directions):
    """Outputs, gradients of the inputs, and gradients of the parameters by name."""
    network = AllAtOnce(cells)
    (_, outputs), (d_inputs, d_weights) = Differentiated(network)(*(Tensor(x) for x in (*inputs, *directions)))
    names = [parameter.name for parameter in network.trainable_params()]
    return outputs, d_inputs, dict(zip(names, (g.asnumpy() for g in d_weights)))


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_convolutions_and_their_gradients_follow_the_definition(mode):
    follows_the_definition()


@pytest.mark.skipif(kernels() is plain, reason="the test before has this form")
def test_plain_convolutions_do(mode, monkeypatch):
    monkeypatch.setattr("mindone.nn.kernels.on_cpu", plain)
    follows_the_definition()


def test_plain_convolutions_in_pieces_do(mode, monkeypatch):
    monkeypatch.setattr("mindone.nn.kernels.on_cpu", plain)
    monkeypatch.setattr(plain, "MAX_COLUMNS", 500)
    monkeypatch.setattr(plain, "MAX_PIECES", 3)  # a first, a middle and a last one
    follows_the_definition()


def follows_the_definition():
    cells = [make() for make, *_ in CASES.values()]
    inputs = [normal(shape, 1) for _, shape, *_ in CASES.values()]
    convs = [getattr(cell, "conv", cell) for cell in cells]
    weights = [conv.weight.asnumpy() for conv in convs]
    biases = [None if conv.bias is None else conv.bias.asnumpy() for conv in convs]
    rules = [(stride, padding) for *_, stride, padding in CASES.values()]
    expected = [reference(x, w, b, *rule) for x, w, b, rule in zip(inputs, weights, biases, rules)]
    directions = [normal(y.shape, 2) for y in expected]
    outputs, d_inputs, d_weights = run_all(cells, inputs, directions)
    for i, (name, rule) in enumerate(zip(CASES, rules)):
        assert outputs[i].shape == expected[i].shape, name
        np.testing.assert_allclose(outputs[i].asnumpy(), expected[i], atol=2e-6, rtol=2e-5, err_msg=name)
        # The map is linear in input and weight, so gradients are its transposes: <dx, u> = <dy, conv(u, w)>.
        u, v = normal(inputs[i].shape, 3), normal(weights[i].shape, 4)
        along_input = (directions[i] * reference(u, weights[i], None, *rule)).sum()
        along_weight = (directions[i] * reference(inputs[i], v, None, *rule)).sum()
        prefix = convs[i].weight.name
        np.testing.assert_allclose((d_inputs[i].asnumpy() * u).sum(), along_input, rtol=1e-4, atol=1e-3, err_msg=name)
        np.testing.assert_allclose((d_weights[prefix] * v).sum(), along_weight, rtol=1e-4, atol=1e-3, err_msg=name)
        if biases[i] is not None:
            sums = directions[i].sum(axis=(0, *range(2, directions[i].ndim)))
            np.testing.assert_allclose(d_weights[convs[i].bias.name], sums, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("form", ["as installed", "plain"])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_repeated_edges_and_their_gradients_follow_the_definition(frames, form, monkeypatch):
    golden.use_mode("pynative")
    if form == "plain":
        monkeypatch.setattr("mindone.nn.kernels.on_cpu", plain)
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2)]
    cells = [CausalConv3d(3, 4, 3, stride, replicate=True) for stride in strides]
    inputs = [normal((2, 3, frames, 7, 6), seed) for seed in range(3)]
    padding = ((0, 0), (0, 0), (2, 0), (1, 1), (1, 1))
    none = ((0, 0),) * 3

    def expected(x, cell, stride):
        return reference(np.pad(x, padding, mode="edge"), cell.conv.weight.asnumpy(), None, stride, none)

    biases = [cell.conv.bias.asnumpy().reshape(1, -1, 1, 1, 1) for cell in cells]
    wanted = [expected(x, *rule) for x, *rule in zip(inputs, cells, strides)]
    directions = [normal(y.shape, 2) for y in wanted]
    outputs, d_inputs, _ = run_all(cells, inputs, directions)
    for i, stride in enumerate(strides):
        np.testing.assert_allclose(outputs[i].asnumpy(), wanted[i] + biases[i], atol=2e-6, rtol=2e-5)
        u = normal(inputs[i].shape, 3)
        along = (directions[i] * expected(u, cells[i], stride)).sum()
        np.testing.assert_allclose((d_inputs[i].asnumpy() * u).sum(), along, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "kernel,groups,channels",
    [
        ((3, 3, 3), 6, 6),
        ((3, 5, 3), 6, 6),
        ((5, 5, 5), 2, 6),
        ((1, 1, 1), 3, 6),
        ((3, 1, 3), 6, 6),
        ((1, 3, 3), 6, 18),
        ((3, 3, 1), 2, 2),
    ],
)
@pytest.mark.parametrize("form", ["as installed", "plain"])
def test_groups_of_channels_are_convolutions_of_their_own(kernel, groups, channels, form, monkeypatch):
    golden.use_mode("pynative")
    if form == "plain":
        monkeypatch.setattr("mindone.nn.kernels.on_cpu", plain)
    padding = tuple((k // 2, k // 2) for k in kernel)
    cell = Conv3d(6, channels, kernel, padding=padding, groups=groups, has_bias=False)
    x, weight = normal((2, 6, 3, 4, 5)), cell.weight.asnumpy()
    wide, each = 6 // groups, channels // groups
    parts = [
        reference(x[:, g * wide : (g + 1) * wide], weight[g * each : (g + 1) * each], None, (1, 1, 1), padding)
        for g in range(groups)
    ]
    direction = normal((2, channels, *x.shape[2:]), 2)
    (output,), _, d_weights = run_all([cell], [x], [direction])
    np.testing.assert_allclose(output.asnumpy(), np.concatenate(parts, 1), atol=2e-6, rtol=2e-5)
    with runtime.use_kernels("Ascend"):
        np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), output.asnumpy(), atol=1e-5)
    v = normal(weight.shape, 4)
    along = sum(
        (
            direction[:, g * each : (g + 1) * each]
            * reference(x[:, g * wide : (g + 1) * wide], v[g * each : (g + 1) * each], None, (1, 1, 1), padding)
        ).sum()
        for g in range(groups)
    )
    np.testing.assert_allclose((d_weights[cell.weight.name] * v).sum(), along, rtol=1e-4, atol=1e-3)


def group_norm_reference(x, weight, bias, groups, eps):
    grouped = x.astype(np.float64).reshape(x.shape[0], groups, -1)
    normal_ = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + eps)
    per_channel = (1, -1) + (1,) * (x.ndim - 2)
    return normal_.reshape(x.shape) * weight.reshape(per_channel) + bias.reshape(per_channel)


def slope(function, at, along, step=1e-5):
    """Central difference of a scalar function in float64."""
    return (function(at + step * along) - function(at - step * along)) / (2 * step)


class Upsample(nn.Cell):
    def construct(self, x):
        return nearest_upsample(x)


def test_group_norm_and_upsampling_and_their_gradients_follow_the_definition(mode):
    cells = [GroupNorm(2, 6, eps=1e-3), GroupNorm(4, 4), Upsample()]
    inputs = [normal((3, 6, 5, 4), 1) * 2 + 1, normal((2, 4, 3, 4, 2), 2), normal((2, 3, 4, 5), 3)]
    directions = [normal(x.shape, 5) for x in inputs[:2]] + [normal((2, 3, 8, 10), 5)]
    for cell in cells[:2]:
        cell.weight.set_data(Tensor(1 + 0.3 * normal(cell.weight.shape, 6)))
        cell.bias.set_data(Tensor(normal(cell.bias.shape, 7)))
    outputs, d_inputs, d_weights = run_all(cells, inputs, directions)
    for i, (groups, eps) in enumerate(((2, 1e-3), (4, 1e-5))):
        weight, bias = (p.asnumpy().astype(np.float64) for p in (cells[i].weight, cells[i].bias))
        x, u, d = inputs[i].astype(np.float64), normal(inputs[i].shape, 8), directions[i]
        np.testing.assert_allclose(
            outputs[i].asnumpy(), group_norm_reference(x, weight, bias, groups, eps), atol=2e-6, rtol=2e-5
        )
        along = slope(lambda x: (d * group_norm_reference(x, weight, bias, groups, eps)).sum(), x, u)  # noqa: B023
        np.testing.assert_allclose((d_inputs[i].asnumpy() * u).sum(), along, rtol=1e-4, atol=1e-4)
        axes = (0, *range(2, x.ndim))
        normalised = group_norm_reference(x, np.ones_like(weight), np.zeros_like(bias), groups, eps)
        np.testing.assert_allclose(d_weights[cells[i].weight.name], (d * normalised).sum(axes), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(d_weights[cells[i].bias.name], d.sum(axes), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(outputs[2].asnumpy(), inputs[2].repeat(2, axis=2).repeat(2, axis=3))
    blocks = directions[2].reshape(2, 3, 4, 2, 5, 2).sum((3, 5))
    np.testing.assert_allclose(d_inputs[2].asnumpy(), blocks, rtol=1e-5, atol=1e-6)


def test_group_norm_keeps_its_digits_far_from_zero(mode):
    x = normal((2, 4, 3, 40, 40)) + 20
    y = GroupNorm(2, 4)(Tensor(x)).asnumpy()
    np.testing.assert_allclose(y, group_norm_reference(x, np.ones(4), np.zeros(4), 2, 1e-5), atol=1e-4)


def test_causal_convolution_never_looks_ahead():
    golden.use_mode("pynative")
    conv, x = CausalConv3d(2, 3, 3), normal((1, 2, 6, 4, 4))
    changed = x.copy()
    changed[:, :, 4:] += 1
    before, after = conv(Tensor(x)).asnumpy(), conv(Tensor(changed)).asnumpy()
    np.testing.assert_allclose(before[:, :, :4], after[:, :, :4], atol=1e-6)
    assert np.abs(before[:, :, 4:] - after[:, :, 4:]).max() > 0.1


def test_ascends_operators_compute_the_same():
    golden.use_mode("pynative")
    for name, (make, shape, *_) in CASES.items():
        conv, x = make(), Tensor(normal(shape))
        with runtime.use_kernels("Ascend"):
            fused = conv(x).asnumpy()
        np.testing.assert_allclose(conv(x).asnumpy(), fused, atol=1e-5, err_msg=name)


def test_weights_are_drawn_like_pytorchs():
    conv = Conv2d(16, 64, 3)
    bound = 1 / np.sqrt(16 * 9)
    weight = conv.weight.asnumpy()
    assert weight.shape == (64, 16, 3, 3) and conv.bias.shape == (64,)
    assert 0.95 * bound < np.abs(weight).max() <= bound
    assert abs(weight.std() / (bound / np.sqrt(3)) - 1) < 0.05


def test_products_run_in_the_compute_dtype():
    golden.use_mode("pynative")
    conv = Conv2d(2, 3, 1)
    conv.compute_dtype = ms.float16
    assert conv(ops.ones((1, 2, 2, 2), ms.float32)).dtype == ms.float16
    assert GroupNorm(1, 2)(ops.ones((1, 2, 2, 2), ms.float16)).dtype == ms.float16


def test_channels_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(UserError, match="num_groups=4"):
        GroupNorm(4, 6)
