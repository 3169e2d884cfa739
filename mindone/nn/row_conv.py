"""Convolutions on a CPU from gathered rows and one matrix product.

MindSpore's own 3x3 and 3D convolution kernels are two orders of magnitude slower than a matrix product on a CPU.

Legend: `B` batch times groups, `C` channels in and `O` channels out of a group, `G` groups, `T` frames, `H`/`W`
height/width, `M` width with its margin, `(kt, kh, kw)` kernel.
"""

from __future__ import annotations

import functools

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

Pair = tuple[int, int]
Triple = tuple[int, int, int]
Shifts = tuple[int, ...]


@constexpr
def _plan(size: Triple, kernel: Triple, before: Triple, keep_size: bool, stride: Pair) -> tuple[Triple, int, Shifts]:
    """Size of the result, width with its margin, and where the taps along the width look."""
    result = size if keep_size else tuple((n - k) // s + 1 for n, k, s in zip(size, kernel, (*stride, 1)))
    margin = max(before[2], kernel[2] - 1 - before[2]) if keep_size else 0
    return result, size[2] + margin, tuple(w - before[2] for w in range(kernel[2]))


@constexpr
def _rows_seen(size: Triple, result: Triple, kernel: Triple, before: Triple, stride: Pair, sign: int) -> Tensor:
    """The row of (T, H, ...) that each tap in time and height sees from each row of the result: (kt * kh * T' * H',).

    Row ``T * H``, which is zero, stands for all that is outside. ``sign`` is -1 for the way back, from input to result.
    """
    seen, inside = [], []
    for n, count, k, b, s in zip(size, result, kernel, before, stride):
        position = s * np.arange(count)[None] + sign * (np.arange(k)[:, None] - b)
        seen.append(position)
        inside.append((position >= 0) & (position < n))
    rows = seen[0][:, None, :, None] * size[1] + seen[1][None, :, None, :]
    rows = np.where(inside[0][:, None, :, None] & inside[1][None, :, None, :], rows, size[0] * size[1])
    return Tensor(rows.reshape(-1).astype(np.int32))


@constexpr
def _rows_returned(size: Triple, result: Triple, kernel: Triple, stride: Pair) -> tuple[Tensor, ...]:
    """The way back of `_rows_seen` with a stride: which rows of (kt, kh, T', H') each row of (T, H) has to add up.

    As many lists of T * H rows as taps can see a row, ``ceil(kt / st) * ceil(kh / sh)``; the row after the last one,
    which is zero, fills them.
    """
    taps, back, inside = [], [], []
    for n, count, k, s in zip(size, result, kernel, stride):
        tap = np.arange(n) % s + s * np.arange(-(-k // s))[:, None]
        position = (np.arange(n) - tap) // s
        taps.append(tap)
        back.append(position)
        inside.append((tap < k) & (position >= 0) & (position < count))
    tap = taps[0][:, None, :, None] * kernel[1] + taps[1][None, :, None, :]
    rows = (tap * result[0] + back[0][:, None, :, None]) * result[1] + back[1][None, :, None, :]
    none = kernel[0] * kernel[1] * result[0] * result[1]
    rows = np.where(inside[0][:, None, :, None] & inside[1][None, :, None, :], rows, none)
    return tuple(Tensor(part.astype(np.int32)) for part in rows.reshape(-1, size[0] * size[1]))


@constexpr
def _reversed(shifts: Shifts) -> Shifts:
    return tuple(reversed(shifts))


@constexpr
def _negative(shifts: Shifts) -> Shifts:
    return tuple(-shift for shift in shifts)


class RowConv(nn.Cell):
    """Convolution: (B, C, T, H, W), (G * O, C, kt, kh, kw) → (B, O, T', H', W'), groups as batch entries.

    The rows that the taps along time and height see are gathered as input channels; the taps along the width are output
    channels of ONE matrix product, and are summed after it with a shift. One margin of zeros after each row serves both
    of its sides: flattened, what follows one row precedes the next. The gradient of the input is such a convolution
    again, and that of the weight shares its gathered rows. With ``keep_size`` the result has the size of the input, and
    ``before`` zeros stand before the first frame, row and column (``k - 1 - before`` after the last). Without it the
    input is taken as it is, and the result is smaller by ``k - 1``; then the kernel may move by a ``stride`` in time
    and height, whose gradient adds up the rows that were gathered. Primitives are called directly: their Python
    wrappers double the compile time.
    """

    def __init__(self, kernel: Triple, before: Triple, keep_size: bool, groups: int, stride: Pair):
        super().__init__()
        self.kernel, self.before, self.keep_size, self.groups = kernel, before, keep_size, groups
        self.stride, self.strided = stride, stride != (1, 1)
        self.slice = ops.Slice()
        self.zeros = ops.Zeros()
        self.gather = ops.Gather()
        self.add = ops.AddN()
        self.join, self.join_columns = ops.Concat(1), ops.Concat(2)
        self.reverse = ops.ReverseV2([1])
        self.times = ops.BatchMatMul()
        self.transposed_times = ops.BatchMatMul(transpose_a=True)
        self.times_transposed = ops.BatchMatMul(transpose_b=True)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        result, width, shifts = _plan(x.shape[2:], self.kernel, self.before, self.keep_size, self.stride)
        seen = _rows_seen(x.shape[2:], result, self.kernel, self.before, self.stride, 1)
        rows = self._with_zeros(self._rows(x, width)) if self.keep_size else self._rows(x, width)
        columns = self._columns(rows, seen, weight.shape[1] * self.kernel[0] * self.kernel[1])
        bands = self.times(self._for_each(self._taps(weight), x.shape[0]), columns)
        return self._crop(self._sum(bands, weight.shape[0] // self.groups, _reversed(shifts)), result, width)

    def bprop(self, x: Tensor, weight: Tensor, _: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        if self.strided:
            return self._gradients_by_result(x, weight, dy)
        return self._gradients_by_input(x, weight, dy)

    def _gradients_by_input(self, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """From the rows of ``dy`` that each row of the input is seen by."""
        _, width, shifts = _plan(x.shape[2:], self.kernel, self.before, self.keep_size, self.stride)
        (channels, kt, kh, kw), out = weight.shape[1:], weight.shape[0] // self.groups
        seen = _rows_seen(dy.shape[2:], x.shape[2:], self.kernel, self.before, self.stride, -1)
        columns = self._columns(self._with_zeros(self._rows(dy, width)), seen, out * kt * kh)
        taps = weight.reshape(self.groups, out, channels, kt * kh, kw).transpose(0, 4, 2, 1, 3)
        taps = taps.reshape(self.groups, kw * channels, out * kt * kh)
        bands = self.times(self._for_each(taps, x.shape[0]), columns)
        dx = self._crop(self._sum(bands, channels, _negative(shifts)), x.shape[2:], width)
        shifted = self._shifted(self._rows(x, width), channels, shifts)
        d_taps = self.times_transposed(columns, shifted).reshape(-1, weight.shape[0] * kt * kh, kw * channels).sum(0)
        return dx, d_taps.reshape(-1, kt, kh, kw, channels).transpose(0, 4, 1, 2, 3)

    def _gradients_by_result(self, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """From the rows of the input that each row of the result sees: the steps of `construct` in reverse."""
        result, width, shifts = _plan(x.shape[2:], self.kernel, self.before, self.keep_size, self.stride)
        (channels, kt, kh, kw), out = weight.shape[1:], weight.shape[0] // self.groups
        d_bands = self._shifted(self._rows(dy, width), out, _negative(_reversed(shifts)))
        d_columns = self.transposed_times(self._for_each(self._taps(weight), x.shape[0]), d_bands)
        rows = self._with_zeros(d_columns.reshape(-1, kt * kh * result[0] * result[1], width))
        parts = ()
        for back in _rows_returned(x.shape[2:], result, self.kernel, self.stride):
            parts += (self.gather(rows, back, 1),)
        dx = self._crop(self.add(parts), x.shape[2:], width).reshape(x.shape)
        seen = _rows_seen(x.shape[2:], result, self.kernel, self.before, self.stride, 1)
        columns = self._columns(self._rows(x, width), seen, channels * kt * kh)
        d_taps = self.times_transposed(d_bands, columns).reshape(-1, self.groups, kw, out * channels * kt * kh).sum(0)
        d_taps = self.reverse(d_taps.expand_dims(-1)).reshape(self.groups, kw, -1).transpose(0, 2, 1)
        return dx, d_taps.reshape(weight.shape)

    def _taps(self, weight: Tensor) -> Tensor:
        """(G * O, C, kt, kh, kw) → (G, kw * O, C * kt * kh), the taps along the width in descending order."""
        kw = self.kernel[2]
        taps = weight.reshape(self.groups, weight.shape[0] // self.groups, -1, kw).transpose(0, 3, 1, 2)
        return self.reverse(taps).reshape(self.groups, kw * weight.shape[0] // self.groups, -1)

    def _for_each(self, matrices: Tensor, batch: int) -> Tensor:
        """The matrices of the groups (G, ...) for each of a batch (B, ...)."""
        groups, rows, columns = matrices.shape
        shape = (batch // groups, groups, rows, columns)
        return ops.broadcast_to(matrices.reshape(1, groups, rows, columns), shape).reshape(batch, rows, columns)

    def _rows(self, x: Tensor, width: int) -> Tensor:
        """(B, C, T, H, W) → (B * C, T * H, M), zeros after each row."""
        b, c, t, h, w = x.shape
        x = x.reshape(b * c, t * h, w)
        if width > w:
            x = self.join_columns((x, self.zeros((b * c, t * h, width - w), x.dtype)))
        return x

    def _columns(self, rows: Tensor, seen: Tensor, channels: int) -> Tensor:
        """The rows seen by the taps: (B * C, T * H, M) → (B, C * kt * kh, T' * H' * M)."""
        batch = rows.shape[0] * self.kernel[0] * self.kernel[1] // channels
        return self.gather(rows, seen, 1).reshape(batch, channels, -1)

    def _with_zeros(self, rows: Tensor) -> Tensor:
        """(N, R, M) → (N, R + 1, M): one more row, of zeros."""
        n, _, width = rows.shape
        return self.join((rows, self.zeros((n, 1, width), rows.dtype)))

    def _shifted(self, rows: Tensor, channels: int, shifts: Shifts) -> Tensor:
        """(B * C, T * H, M) → (B, kw * C, L): one copy per shift with ``copy[i] = x[i + shift]``, zero outside."""
        batch = rows.shape[0] // channels
        flat, pieces = rows.reshape(batch, -1), ()
        n = flat.shape[1]
        for shift in shifts:
            if shift < 0:
                pieces += (self.zeros((batch, -shift), flat.dtype), self.slice(flat, (0, 0), (batch, n + shift)))
            elif shift > 0:
                pieces += (self.slice(flat, (0, shift), (batch, n - shift)), self.zeros((batch, shift), flat.dtype))
            else:
                pieces += (flat,)
        return self.join(pieces).reshape(batch, len(shifts) * channels, -1)

    def _sum(self, bands: Tensor, channels: int, shifts: Shifts) -> Tensor:
        """(B, kw * C, L) → (B, C * L): ``y[i] = sum_w bands[w, i + shifts[w]]`` for descending shifts.

        A shift may read into the neighbouring band; descending shifts keep it inside the tensor, and the margins keep
        what it reads there zero or in a position that is cropped.
        """
        batch, n = bands.shape[0], channels * bands.shape[2]
        bands, parts = bands.reshape(batch, -1), ()
        for band in range(len(shifts)):
            parts += (self.slice(bands, (0, band * n + shifts[band]), (batch, n)),)
        return self.add(parts) if len(shifts) > 1 else bands

    def _crop(self, y: Tensor, result: Triple, width: int) -> Tensor:
        """(B, C * L) → (B, C, T, H, W) of the given size."""
        y = y.reshape(y.shape[0], -1, result[0], result[1], width)
        return self.slice(y, (0, 0, 0, 0, 0), (y.shape[0], y.shape[1], result[0], result[1], result[2]))


@functools.cache
def row_conv(
    kernel: Triple, before: Triple = (0, 0, 0), keep_size: bool = True, groups: int = 1, stride: Pair = (1, 1)
) -> RowConv:
    """One cell for all convolutions of a kind: it has no parameters, and the compiler reads its source only once."""
    return RowConv(kernel, before, keep_size, groups, stride)
