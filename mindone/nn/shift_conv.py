"""Convolutions of stride 1 on a CPU from shifted copies of the flattened input and one matrix product.

MindSpore's own 3x3 and 3D convolution kernels are two orders of magnitude slower than a matrix product on a CPU.

Legend: `B` batch times groups, `C` channels in and `O` channels out of a group, `G` groups, `T` frames, `H`/`W`
height/width, `L` their padded product, `(kt, kh, kw)` kernel.
"""

from __future__ import annotations

import functools

from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

Triple = tuple[int, int, int]
Offsets = tuple[int, ...]


@constexpr
def _shift_plan(
    size: Triple, kernel: Triple, before: Triple, keep_size: bool
) -> tuple[Triple, int, Offsets, Offsets, Triple]:
    """Padded size of a (T, H, W) input, its product, flat offsets of the outer and inner taps, and the result's size.

    One margin of zeros after each axis serves both sides: flattened, what follows one row precedes the next. Outer taps
    (time, height) come in descending order, inner taps (width) in ascending order.
    """
    if keep_size:
        padded = tuple(n + max(b, k - 1 - b) for n, k, b in zip(size, kernel, before))
        result = size
    else:
        padded = size
        result = tuple(n - k + 1 for n, k in zip(size, kernel))
    frames, rows, width = padded
    taps = [(t - before[0], h - before[1]) for t in range(kernel[0]) for h in range(kernel[1])]
    outer = tuple((t * rows + h) * width for t, h in reversed(taps))
    return padded, frames * rows * width, outer, tuple(w - before[2] for w in range(kernel[2])), result


@constexpr
def _negative(offsets: Offsets) -> Offsets:
    return tuple(-offset for offset in offsets)


class ShiftConv(nn.Cell):
    """Convolution of stride 1: (B, C, T, H, W), (G * O, C, kt, kh, kw) → (B, O, T', H', W'), groups as batch entries.

    In flattened, padded frames a tap of the kernel is a shift. The taps along the width are stacked as input channels,
    those along time and height are output channels of ONE matrix product and are summed after it; the gradient runs the
    same steps in reverse. With ``keep_size`` the result has the size of the input, and ``before`` zeros stand before
    the first frame, row and column (``k - 1 - before`` after the last). Without it the input is taken as it is, and the
    result is smaller by ``k - 1``. Primitives are called directly: their Python wrappers double the compile time.
    """

    def __init__(self, kernel: Triple, before: Triple, keep_size: bool, groups: int):
        super().__init__()
        self.kernel, self.before, self.keep_size, self.groups = kernel, before, keep_size, groups
        self.slice = ops.Slice()
        self.zeros = ops.Zeros()
        self.join = ops.Concat(1)
        self.join_frames, self.join_rows, self.join_columns = ops.Concat(2), ops.Concat(3), ops.Concat(4)
        self.reverse = ops.ReverseV2([1])
        self.times = ops.BatchMatMul()
        self.transposed_times = ops.BatchMatMul(transpose_a=True)
        self.times_transposed = ops.BatchMatMul(transpose_b=True)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        (channels, kt, kh, kw), out = weight.shape[1:], weight.shape[0] // self.groups
        padded, length, outer, inner, size = _shift_plan(x.shape[2:], self.kernel, self.before, self.keep_size)
        stacked = self._stack(self._pad(x, padded), channels * length, inner).reshape(-1, kw * channels, length)
        bands = self.times(self._matrices(weight, x.shape[0]), stacked)
        total = self._sum(bands.reshape(-1, kt * kh * out * length), out * length, outer)
        return self._crop(total, out, padded, size)

    def bprop(self, x: Tensor, weight: Tensor, _: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        (channels, kt, kh, kw), out = weight.shape[1:], weight.shape[0] // self.groups
        padded, length, outer, inner, _ = _shift_plan(x.shape[2:], self.kernel, self.before, self.keep_size)
        stacked = self._stack(self._pad(x, padded), channels * length, inner).reshape(-1, kw * channels, length)
        d_bands = self._stack(self._pad(dy, padded), out * length, _negative(outer))
        d_bands = d_bands.reshape(-1, kt * kh * out, length)
        matrices = self._matrices(weight, x.shape[0])
        d_stacked = self.transposed_times(matrices, d_bands).reshape(-1, kw * channels * length)
        dx = self._crop(self._sum(d_stacked, channels * length, _negative(inner)), channels, padded, x.shape[2:])
        per_sample = self.times_transposed(d_bands, stacked).reshape(-1, self.groups, kt * kh * out, kw * channels)
        d_taps = self.reverse(per_sample.sum(0).reshape(self.groups, kt * kh, out, kw, channels))
        d_taps = d_taps.reshape(self.groups, kt, kh, out, kw, channels).transpose(0, 3, 5, 1, 2, 4)
        return dx, d_taps.reshape(weight.shape)

    def _matrices(self, weight: Tensor, batch: int) -> Tensor:
        """(G * O, C, kt, kh, kw) → (B, kt * kh * O, kw * C), the outer taps in the order of their offsets."""
        channels, kt, kh, kw = weight.shape[1:]
        out = weight.shape[0] // self.groups
        taps = weight.reshape(self.groups, out, channels, kt, kh, kw).transpose(0, 3, 4, 1, 5, 2)
        taps = self.reverse(taps.reshape(self.groups, kt * kh, out, kw * channels))
        matrices = taps.reshape(1, self.groups, kt * kh * out, kw * channels)
        shape = (batch // self.groups, self.groups, kt * kh * out, kw * channels)
        return ops.broadcast_to(matrices, shape).reshape(batch, kt * kh * out, kw * channels)

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

    def _crop(self, y: Tensor, channels: int, padded: Triple, size: Triple) -> Tensor:
        """(B, C * L) → (B, C, T, H, W) of the given size."""
        y = y.reshape(-1, channels, padded[0], padded[1], padded[2])
        return self.slice(y, (0, 0, 0, 0, 0), (y.shape[0], channels, size[0], size[1], size[2]))

    def _stack(self, x: Tensor, n: int, offsets: Offsets) -> Tensor:
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

    def _sum(self, bands: Tensor, n: int, offsets: Offsets) -> Tensor:
        """(B, len(offsets) * n) → (B, n): ``y[i] = sum_b bands[b, i + offsets[b]]`` for descending offsets.

        A shift may read into the neighbouring band; descending offsets keep it inside the tensor, and the margins keep
        what it reads there zero or in a position that is cropped.
        """
        batch = bands.shape[0]
        total = self.slice(bands, (0, offsets[0]), (batch, n))
        for band in range(1, len(offsets)):
            total = total + self.slice(bands, (0, band * n + offsets[band]), (batch, n))
        return total


@functools.cache
def shift_conv(kernel: Triple, before: Triple = (0, 0, 0), keep_size: bool = True, groups: int = 1) -> ShiftConv:
    """One cell for all convolutions of a kind: it has no parameters, and the compiler reads its source only once."""
    return ShiftConv(kernel, before, keep_size, groups)
