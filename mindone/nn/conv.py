"""Convolutions, group norm and nearest upsampling, fast on a CPU and native on Ascend, forward and backward.

MindSpore's own 3x3 and 3D convolution kernels are two orders of magnitude slower than a matrix product on a CPU. There
`_ShiftConv` computes a convolution of stride 1 from shifted copies of the flattened input and one matrix product, and
other strides gather their windows (`ops.unfold`) first. Ascend gets its native operators.

Legend: `B` batch, `N` images, `C` channels in, `O` channels out, `T` frames, `H`/`W` height/width, `L` their padded
product, `(kt, kh, kw)` kernel.
"""

from __future__ import annotations

import functools
import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Uniform, initializer
from mindspore.ops import constexpr

from mindone import runtime
from mindone.errors import UserError

Padding = tuple[tuple[int, int], ...]
Triple = tuple[int, int, int]

# Up to this many pixels gathering windows is as fast as shifting, and compiles faster.
SMALL_IMAGE = 100


@constexpr
def _shift_plan(size: Triple, kernel: Triple, before: Triple) -> tuple[Triple, int, tuple[int, ...], tuple[int, ...]]:
    """Padded size of a (T, H, W) input, its product, and the flat offsets of the outer and inner taps of a kernel.

    One margin of zeros after each axis serves both sides: flattened, what follows one row precedes the next. Outer taps
    (time, height) come in descending order, inner taps (width) in ascending order.
    """
    frames, rows, width = (n + max(b, k - 1 - b) for n, k, b in zip(size, kernel, before))
    taps = [(t - before[0], h - before[1]) for t in range(kernel[0]) for h in range(kernel[1])]
    outer = tuple((t * rows + h) * width for t, h in reversed(taps))
    return (frames, rows, width), frames * rows * width, outer, tuple(w - before[2] for w in range(kernel[2]))


@constexpr
def _negative(offsets: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-offset for offset in offsets)


class _ShiftConv(nn.Cell):
    """Convolution of stride 1 that keeps the size: (B, C, T, H, W), (O, C, kt, kh, kw) → (B, O, T, H, W).

    In flattened, padded frames a tap of the kernel is a shift. The taps along the width are stacked as input channels,
    those along time and height are output channels of ONE matrix product and are summed after it; the gradient runs the
    same steps in reverse. ``before`` zeros stand before the first frame, row and column (``k - 1 - before`` after the
    last). Primitives are called directly, because their Python wrappers double the compile time.
    """

    def __init__(self, kernel: Triple, before: Triple):
        super().__init__()
        self.kernel = kernel
        self.before = before
        self.slice = ops.Slice()
        self.zeros = ops.Zeros()
        self.join = ops.Concat(1)
        self.join_frames, self.join_rows, self.join_columns = ops.Concat(2), ops.Concat(3), ops.Concat(4)
        self.reverse = ops.ReverseV2([0])
        self.times = ops.BatchMatMul()
        self.transposed_times = ops.BatchMatMul(transpose_a=True)
        self.times_transposed = ops.BatchMatMul(transpose_b=True)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        out, channels, kt, kh, kw = weight.shape
        padded, length, outer, inner = _shift_plan(x.shape[2:], self.kernel, self.before)
        stacked = self._stack(self._pad(x, padded), channels * length, inner).reshape(-1, kw * channels, length)
        matrix = ops.broadcast_to(self._matrix(weight), (x.shape[0], kt * kh * out, kw * channels))
        bands = self.times(matrix, stacked)
        return self._crop(self._sum(bands.reshape(-1, kt * kh * out * length), out * length, outer), out, padded, x)

    def bprop(self, x: Tensor, weight: Tensor, _: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        out, channels, kt, kh, kw = weight.shape
        padded, length, outer, inner = _shift_plan(x.shape[2:], self.kernel, self.before)
        stacked = self._stack(self._pad(x, padded), channels * length, inner).reshape(-1, kw * channels, length)
        d_bands = self._stack(self._pad(dy, padded), out * length, _negative(outer))
        d_bands = d_bands.reshape(-1, kt * kh * out, length)
        matrix = ops.broadcast_to(self._matrix(weight), (x.shape[0], kt * kh * out, kw * channels))
        d_stacked = self.transposed_times(matrix, d_bands).reshape(-1, kw * channels * length)
        dx = self._crop(self._sum(d_stacked, channels * length, _negative(inner)), channels, padded, x)
        d_taps = self.times_transposed(d_bands, stacked).sum(0).reshape(kt * kh, out, kw * channels)
        return dx, self.reverse(d_taps).reshape(kt, kh, out, kw, channels).transpose(2, 4, 0, 1, 3)

    def _matrix(self, weight: Tensor) -> Tensor:
        """(O, C, kt, kh, kw) → (kt * kh * O, kw * C), the outer taps in the order of their offsets."""
        out, channels, kt, kh, kw = weight.shape
        taps = self.reverse(weight.transpose(2, 3, 0, 4, 1).reshape(kt * kh, out, kw * channels))
        return taps.reshape(kt * kh * out, kw * channels)

    def _pad(self, x: Tensor, padded: Triple) -> Tensor:
        """(B, C, T, H, W) → (B, C * L) with zeros after the last column, row and frame."""
        b, c, t, h, w = x.shape
        if padded[2] > w:
            x = self.join_columns((x, self.zeros((b, c, t, h, padded[2] - w), x.dtype)))
        if padded[1] > h:
            x = self.join_rows((x, self.zeros((b, c, t, padded[1] - h, padded[2]), x.dtype)))
        if padded[0] > t:
            x = self.join_frames((x, self.zeros((b, c, padded[0] - t, padded[1], padded[2]), x.dtype)))
        return x.reshape(b, -1)

    def _crop(self, y: Tensor, channels: int, padded: Triple, like: Tensor) -> Tensor:
        """(B, C * L) → (B, C, T, H, W) of the size of ``like``."""
        b, _, t, h, w = like.shape
        y = y.reshape(b, channels, padded[0], padded[1], padded[2])
        return self.slice(y, (0, 0, 0, 0, 0), (b, channels, t, h, w))

    def _stack(self, x: Tensor, n: int, offsets: tuple[int, ...]) -> Tensor:
        """(B, n) → (B, len(offsets) * n): one copy per offset with ``copy[i] = x[i + offset]``, zero outside."""
        batch = x.shape[0]
        pieces = ()
        for offset in offsets:
            if offset < 0:
                pieces += (self.zeros((batch, -offset), x.dtype), self.slice(x, (0, 0), (batch, n + offset)))
            elif offset > 0:
                pieces += (self.slice(x, (0, offset), (batch, n - offset)), self.zeros((batch, offset), x.dtype))
            else:
                pieces += (x,)
        return self.join(pieces)

    def _sum(self, bands: Tensor, n: int, offsets: tuple[int, ...]) -> Tensor:
        """(B, len(offsets) * n) → (B, n): ``y[i] = sum_b bands[b, i + offsets[b]]`` for descending offsets.

        A shift may read into the neighbouring band; descending offsets keep it inside the tensor, and the margins of
        `_pad` keep what it reads there zero or in a position that is cropped.
        """
        batch = bands.shape[0]
        total = self.slice(bands, (0, offsets[0]), (batch, n))
        for band in range(1, len(offsets)):
            total = total + self.slice(bands, (0, band * n + offsets[band]), (batch, n))
        return total


@functools.cache
def _shift_conv(kernel: Triple, before: Triple) -> _ShiftConv:
    """One cell for all convolutions of a kind: it has no parameters, and the compiler reads its source only once."""
    return _ShiftConv(kernel, before)


def _columns(x: Tensor, kernel: int, stride: int, padding: Padding) -> Tensor:
    """The windows of ``x`` (N, C, H, W) as columns (N, C*k*k, H'*W'), in the order of a flattened weight."""
    (top, bottom), (left, right) = padding
    if (top, left) == (bottom, right):
        return ops.unfold(x, kernel, padding=(top, left), stride=stride)
    return ops.unfold(pad_zeros(x, padding), kernel, stride=stride)


def pad_zeros(x: Tensor, padding: Padding) -> Tensor:
    """Zeros (before, after) on each of the last axes; joined, because `ops.pad` is slower and takes no bfloat16."""
    for axis, (before, after) in enumerate(padding, start=x.ndim - len(padding)):
        head, tail = x.shape[:axis], x.shape[axis + 1 :]
        if before:
            x = ops.concat((ops.zeros((*head, before, *tail), x.dtype), x), axis)
        if after:
            x = ops.concat((x, ops.zeros((*head, after, *tail), x.dtype)), axis)
    return x


def _output_size(size: int, kernel: int, stride: int, padding: tuple[int, int]) -> int:
    return (size + padding[0] + padding[1] - kernel) // stride + 1


def _keeps_size(kernel: tuple[int, ...], padding: Padding) -> bool:
    return all(before + after == k - 1 for k, (before, after) in zip(kernel, padding))


def add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    """``bias`` (C,) added to the channels of ``x`` (N, C, ...)."""
    if bias is None:
        return x
    return ops.bias_add(x.reshape(x.shape[0], x.shape[1], -1, x.shape[-1]), bias).reshape(x.shape)


def nearest_upsample(x: Tensor) -> Tensor:
    """Doubles height and width of ``x`` (..., H, W) by repeating every pixel."""
    height, width = x.shape[-2:]
    lead = x.shape[:-2]
    wide = x.reshape(*lead, height, 1, width, 1)
    return ops.broadcast_to(wide, (*lead, height, 2, width, 2)).reshape(*lead, 2 * height, 2 * width)


class _GroupNorm(nn.Cell):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` on (N, C, ...), with its gradient written out.

    Mean and biased variance are those of a group of channels at all positions of a sample. Scaling by ``weight / sqrt``
    and all sums are per channel first, so that every pass over the input is a plain row operation.
    """

    def __init__(self, num_groups: int, eps: float):
        super().__init__()
        self.num_groups = num_groups
        self.eps = eps
        self.mean = ops.ReduceMean(keep_dims=True)
        self.sum = ops.ReduceSum(keep_dims=True)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        n, channels = x.shape[0], x.shape[1]
        centred, inverse = self._centred(x)
        y = centred * self._per_channel(inverse, weight, n, channels)
        return (y.reshape(n, channels, -1) + bias.reshape(1, channels, 1)).reshape(x.shape)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, _: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, channels = x.shape[0], x.shape[1]
        width = channels // self.num_groups
        centred, inverse = self._centred(x)
        dy = dy.reshape(n * channels, -1)
        sums = self.sum(dy, -1).reshape(n, self.num_groups, width)
        products = self.sum(dy * centred, -1).reshape(n, self.num_groups, width) * inverse
        grouped = weight.reshape(1, self.num_groups, width)
        mean = self.sum(sums * grouped, -1) / (width * dy.shape[1])
        slope = self.sum(products * grouped, -1) * inverse / (width * dy.shape[1])
        rows = (n * self.num_groups, -1)
        shift = (centred.reshape(rows) * slope.reshape(rows) + mean.reshape(rows)) * inverse.reshape(rows)
        dx = dy * self._per_channel(inverse, weight, n, channels) - shift.reshape(n * channels, -1)
        d_weight = products.sum(0).reshape(channels)
        return dx.reshape(x.shape), d_weight, sums.sum(0).reshape(channels)

    def _centred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x - mean`` as (N * C, positions) and ``1 / sqrt(var + eps)`` as (N, groups, 1)."""
        n, channels = x.shape[0], x.shape[1]
        rows = x.reshape(n * self.num_groups, -1)
        centred = rows - self.mean(rows, -1)
        inverse = ops.rsqrt(self.mean(centred * centred, -1) + self.eps)
        return centred.reshape(n * channels, -1), inverse.reshape(n, self.num_groups, 1)

    def _per_channel(self, inverse: Tensor, weight: Tensor, n: int, channels: int) -> Tensor:
        return (inverse * weight.reshape(1, self.num_groups, -1)).reshape(n * channels, 1)


@functools.cache
def _group_norm(num_groups: int, eps: float) -> _GroupNorm:
    return _GroupNorm(num_groups, eps)


class GroupNorm(nn.Cell):
    """Group norm over (N, C, ...) with parameters ``weight`` and ``bias`` (C,); computes in float32."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5):
        super().__init__()
        if num_channels % num_groups:
            raise UserError(f"{num_channels} channels cannot be divided into num_groups={num_groups} equal groups")
        self.weight = Parameter(initializer("ones", (num_channels,), ms.float32))
        self.bias = Parameter(initializer("zeros", (num_channels,), ms.float32))
        self.norm = _group_norm(num_groups, eps)

    def construct(self, x: Tensor) -> Tensor:
        return self.norm(x.astype(ms.float32), self.weight, self.bias).astype(x.dtype)


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
    """2D convolution of (N, C, H, W), square kernel; ``padding`` is one number or ((top, bottom), (left, right))."""

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
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = ((padding, padding),) * 2 if isinstance(padding, int) else padding
        kernel = (1, kernel_size, kernel_size)
        padding = ((0, 0), *self.padding)
        fits = stride == 1 and kernel_size > 1 and _keeps_size(kernel, padding)
        self.by_shifts = _shift_conv(kernel, tuple(before for before, _ in padding)) if fits else None

    def construct(self, x: Tensor) -> Tensor:
        x, weight, bias = self._in_compute_dtype(x)
        if runtime.kernels() == "Ascend":
            return add_bias(ops.conv2d(pad_zeros(x, self.padding), weight, stride=self.stride), bias)
        return add_bias(self._on_cpu(x, weight), bias)

    def _on_cpu(self, x: Tensor, weight: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        if self.by_shifts is not None and height * width > SMALL_IMAGE:
            return self.by_shifts(x.expand_dims(2), weight.expand_dims(2)).squeeze(2)
        h = _output_size(height, self.kernel_size, self.stride, self.padding[0])
        w = _output_size(width, self.kernel_size, self.stride, self.padding[1])
        if self.kernel_size == self.stride == 1 and (h, w) == (height, width):
            columns = x.reshape(n, channels, -1)
        else:
            columns = _columns(x, self.kernel_size, self.stride, self.padding)
        return ops.matmul(weight.reshape(weight.shape[0], -1), columns).reshape(n, -1, h, w)


class Conv3d(_Conv):
    """3D convolution of (B, C, T, H, W) that keeps height and width and divides time by ``time_stride``.

    ``kernel_size`` is (time, height, width), ``padding`` the zeros (before, after) of each axis, together ``k - 1`` in
    height and width, and ``k - time_stride`` in time. T must be a multiple of ``time_stride``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        time_stride: int = 1,
        padding: Padding = ((0, 0), (0, 0), (0, 0)),
        has_bias: bool = True,
    ):
        super().__init__(in_channels, out_channels, kernel_size, has_bias)
        self.time_stride = time_stride
        self.padding = padding
        full = ((padding[0][0], padding[0][1] + time_stride - 1), *padding[1:])
        if not _keeps_size(kernel_size, full):
            raise UserError(f"padding={padding} does not fit kernel_size={kernel_size} with time_stride={time_stride}")
        self.pointwise = math.prod(kernel_size) == 1
        self.by_shifts = _shift_conv(kernel_size, tuple(before for before, _ in padding))

    def construct(self, x: Tensor) -> Tensor:
        x, weight, bias = self._in_compute_dtype(x)
        if runtime.kernels() == "Ascend":
            x = pad_zeros(x, self.padding)
            return add_bias(ops.conv3d(x, weight, stride=(self.time_stride, 1, 1)), bias)
        return add_bias(self._on_cpu(x, weight), bias)

    def _on_cpu(self, x: Tensor, weight: Tensor) -> Tensor:
        batch, channels, frames, height, width = x.shape
        if self.pointwise:
            y = ops.matmul(weight.reshape(-1, channels), x.reshape(batch, channels, -1))
            return y.reshape(batch, -1, frames, height, width)
        y = self.by_shifts(x, weight)
        if self.time_stride == 1:
            return y
        return y.reshape(batch, -1, frames // self.time_stride, self.time_stride, height, width)[:, :, :, 0]


class CausalConv3d(nn.Cell):
    """3D convolution that sees no later frame: zeros in front of the first frame, ``k // 2`` around each frame.

    ``(kernel - 1) + (1 - stride)`` zero frames go in front, so T frames become ``T / time_stride``. The parameters are
    those of the inner ``conv``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, time_stride: int = 1, has_bias: bool = True
    ):
        super().__init__()
        around = (kernel_size // 2, kernel_size // 2)
        padding = ((kernel_size - time_stride, 0), around, around)
        self.conv = Conv3d(in_channels, out_channels, (kernel_size,) * 3, time_stride, padding, has_bias)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)
