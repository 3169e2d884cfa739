"""Convolutions, group norm and nearest upsampling, fast on a CPU and native on Ascend, forward and backward.

MindSpore's own 3x3 and 3D convolution kernels are two orders of magnitude slower than a matrix product on a CPU. There
`conv2d` gathers the taps of a window (`ops.unfold`) and multiplies once, and `conv3d` does so for all frames and adds
the products of the time taps with a shift. Ascend gets its native operators.

Legend: `B` batch, `N` images, `C` channels in, `O` channels out, `T` frames, `H`/`W` height/width.
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Uniform, initializer

from mindone import runtime
from mindone.errors import UserError

Padding = tuple[tuple[int, int], ...]


def output_size(size: int, kernel: int, stride: int, padding: tuple[int, int]) -> int:
    """Length of an axis after a convolution: ``floor((size + before + after - kernel) / stride) + 1``."""
    return (size + padding[0] + padding[1] - kernel) // stride + 1


def pad_hw(x: Tensor, padding: Padding) -> Tensor:
    """Zeros around the last two axes: ``((top, bottom), (left, right))``."""
    (top, bottom), (left, right) = padding
    if top == bottom == left == right == 0:
        return x
    return ops.pad(x, (left, right, top, bottom))


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: Padding = ((0, 0), (0, 0))
) -> Tensor:
    """2D convolution of ``x`` (N, C, H, W) with ``weight`` (O, C, kh, kw) and ``bias`` (O,) → (N, O, H', W')."""
    if runtime.kernels() == "Ascend":
        y = ops.conv2d(pad_hw(x, padding), weight, stride=stride)
    else:
        y = _conv2d_by_matmul(x, weight, stride, padding)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _conv2d_by_matmul(x: Tensor, weight: Tensor, stride: int, padding: Padding) -> Tensor:
    n, _, height, width = x.shape
    out, _, kh, kw = weight.shape
    h, w = output_size(height, kh, stride, padding[0]), output_size(width, kw, stride, padding[1])
    columns = _columns(x, kh, kw, stride, padding)
    return ops.matmul(weight.reshape(out, -1), columns).reshape(n, out, h, w)


def _columns(x: Tensor, kh: int, kw: int, stride: int, padding: Padding) -> Tensor:
    """The windows of ``x`` (N, C, H, W) as columns (N, C*kh*kw, H'*W'), in the order of a flattened weight."""
    n, channels, _, _ = x.shape
    if kh == kw == stride == 1:
        return pad_hw(x, padding).reshape(n, channels, -1)
    (top, bottom), (left, right) = padding
    if top == bottom and left == right:
        return ops.unfold(x, (kh, kw), padding=(top, left), stride=stride)
    return ops.unfold(pad_hw(x, padding), (kh, kw), stride=stride)


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: Padding = ((0, 0), (0, 0), (0, 0)),
) -> Tensor:
    """3D convolution of ``x`` (B, C, T, H, W) with ``weight`` (O, C, kt, kh, kw), ``bias`` (O,) → (B, O, T', H', W').

    ``stride`` is (time, height, width) with equal height and width; ``padding`` holds (before, after) of each axis.
    """
    if runtime.kernels() == "Ascend":
        (front, back), (top, bottom), (left, right) = padding
        y = ops.conv3d(ops.pad(x, (left, right, top, bottom, front, back)), weight, stride=stride)
    else:
        y = _conv3d_by_matmul(x, weight, stride, padding)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1, 1)


def _conv3d_by_matmul(x: Tensor, weight: Tensor, stride: tuple[int, int, int], padding: Padding) -> Tensor:
    batch, channels, frames, height, width = x.shape
    out, _, kt, kh, kw = weight.shape
    h, w = output_size(height, kh, stride[1], padding[1]), output_size(width, kw, stride[2], padding[2])
    t = output_size(frames, kt, stride[0], padding[0])
    images = x.transpose(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)
    columns = _columns(images, kh, kw, stride[1], padding[1:])
    taps = weight.transpose(2, 0, 1, 3, 4).reshape(kt * out, -1)
    products = ops.matmul(taps, columns).reshape(batch, frames, kt, out, h * w)
    y = _sum_of_time_taps(products, t, stride[0], padding[0])
    return y.transpose(0, 2, 1, 3).reshape(batch, out, t, h, w)


def _sum_of_time_taps(products: Tensor, length: int, stride: int, padding: tuple[int, int]) -> Tensor:
    """``y[t] = sum_k products[t * stride + k - front, k]``, frames outside count as zero.

    ``products`` is (B, T, kt, O, S); the result (B, length, O, S).
    """
    batch, frames, taps, out, size = products.shape
    if taps == 1 and stride == 1 and padding == (0, 0):
        return products[:, :, 0]
    # One frame more than the last window needs, so that every strided slice below has whole periods.
    back = length * stride + taps - 1 - frames - padding[0]
    parts = [products]
    if padding[0]:
        parts = [ops.zeros((batch, padding[0], taps, out, size), products.dtype), products]
    if back > 0:
        parts = [*parts, ops.zeros((batch, back, taps, out, size), products.dtype)]
    padded = ops.concat(parts, 1) if len(parts) > 1 else products
    total = None
    for k in range(taps):
        tap = padded[:, k : k + length * stride, k]
        if stride > 1:
            tap = tap.reshape(batch, length, stride, out, size)[:, :, 0]
        total = tap if total is None else total + tap
    return total


def nearest_upsample(x: Tensor) -> Tensor:
    """Doubles height and width of ``x`` (..., H, W) by repeating every pixel."""
    height, width = x.shape[-2:]
    lead = x.shape[:-2]
    wide = x.reshape(*lead, height, 1, width, 1)
    return ops.broadcast_to(wide, (*lead, height, 2, width, 2)).reshape(*lead, 2 * height, 2 * width)


def group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm of ``x`` (N, C, ...) in float32; result in the dtype of ``x``.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, mean and biased variance over a group of channels and all
    positions of a sample.
    """
    shape = x.shape
    n, channels = shape[:2]
    grouped = x.astype(ms.float32).reshape(n, num_groups, -1)
    centred = grouped - grouped.mean(-1, keep_dims=True)
    variance = ops.square(centred).mean(-1, keep_dims=True)
    normal = (centred * ops.rsqrt(variance + eps)).reshape(n, channels, -1)
    y = normal * weight.reshape(1, channels, 1) + bias.reshape(1, channels, 1)
    return y.reshape(shape).astype(x.dtype)


class GroupNorm(nn.Cell):
    """Group norm over (N, C, ...) with parameters ``weight`` and ``bias`` (C,)."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5):
        super().__init__()
        if num_channels % num_groups:
            raise UserError(f"{num_channels} channels cannot be divided into num_groups={num_groups} equal groups")
        self.num_groups = num_groups
        self.eps = eps
        self.weight = Parameter(initializer("ones", (num_channels,), ms.float32))
        self.bias = Parameter(initializer("zeros", (num_channels,), ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class _Conv(nn.Cell):
    """Parameters of a convolution: ``weight`` (O, C, *kernel) and ``bias`` (O,), drawn like PyTorch's defaults.

    Both are uniform in ±1/sqrt(C * prod(kernel)) (Kaiming-uniform with a = sqrt(5)). Products run in `compute_dtype`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, ...], has_bias: bool):
        super().__init__()
        self.compute_dtype = ms.float32
        bound = Uniform(1 / math.sqrt(in_channels * math.prod(kernel)))
        self.weight = Parameter(initializer(bound, (out_channels, in_channels, *kernel), ms.float32))
        self.bias = Parameter(initializer(bound, (out_channels,), ms.float32)) if has_bias else None

    def _in_compute_dtype(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        bias = None if self.bias is None else self.bias.astype(self.compute_dtype)
        return x.astype(self.compute_dtype), self.weight.astype(self.compute_dtype), bias


class Conv2d(_Conv):
    """2D convolution with a square kernel; ``padding`` is one number or ((top, bottom), (left, right))."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | Padding = 0,
        has_bias: bool = True,
    ):
        super().__init__(in_channels, out_channels, (kernel_size, kernel_size), has_bias)
        self.stride = stride
        self.padding = ((padding, padding),) * 2 if isinstance(padding, int) else padding

    def construct(self, x: Tensor) -> Tensor:
        x, weight, bias = self._in_compute_dtype(x)
        return conv2d(x, weight, bias, self.stride, self.padding)


class Conv3d(_Conv):
    """3D convolution; ``kernel_size`` and ``stride`` are (time, height, width), ``padding`` (before, after) of each."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: Padding = ((0, 0), (0, 0), (0, 0)),
        has_bias: bool = True,
    ):
        super().__init__(in_channels, out_channels, kernel_size, has_bias)
        self.stride = stride
        self.padding = padding

    def construct(self, x: Tensor) -> Tensor:
        x, weight, bias = self._in_compute_dtype(x)
        return conv3d(x, weight, bias, self.stride, self.padding)


class CausalConv3d(nn.Cell):
    """3D convolution that sees no later frame: zeros in front of the first frame, ``k // 2`` around each frame.

    ``(kernel - 1) + (1 - stride)`` zero frames go in front, so T frames become ``ceil(T / stride)`` for T a multiple of
    the time stride. The parameters are those of the inner ``conv``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        time_stride: int = 1,
        has_bias: bool = True,
    ):
        super().__init__()
        around = (kernel_size // 2, kernel_size // 2)
        front = kernel_size - 1 + 1 - time_stride
        self.conv = Conv3d(
            in_channels,
            out_channels,
            (kernel_size,) * 3,
            (time_stride, 1, 1),
            ((front, 0), around, around),
            has_bias,
        )

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)
