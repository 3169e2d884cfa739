"""Convolutions on a CPU from gathered rows and one matrix product.

MindSpore's own 3x3 and 3D convolution kernels are two orders of magnitude slower than a matrix product on a CPU. Where
there are compiled kernels (`mindone.nn.native`) those are used.

Legend: `B` batch times groups, `C` channels in and `O` channels out of a group, `G` groups, `T` frames, `H`/`W`
height/width, `M` width with its margin, `(kt, kh, kw)` kernel.
"""

from __future__ import annotations

import functools

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

PIECE = 2**22
"""About how many values of gathered rows and bands a convolution has in memory, and in the cache, at a time."""
MAX_PIECES = 16
"""Largest number of pieces that a convolution is cut into for that; the graph has the operators of each one."""

GATHERED, MIXED, SPREAD = "gathered", "mixed", "spread"
"""Where the taps of a kernel are: all are channels of the input, those along the width of the result, or all of it."""

Pair = tuple[int, int]
Triple = tuple[int, int, int]
Shifts = tuple[int, ...]


@constexpr
def _form(channels: int, out: int, kernel: Triple, strided: bool) -> str:
    """The form with the least values between gather and sum, of so many channels in and out.

    Where all taps are summed the product has all rows of the input, with a stride far too many.
    """
    if channels * kernel[0] * kernel[1] <= out:
        return GATHERED
    return SPREAD if 2 * out * kernel[2] <= channels and not strided else MIXED


@constexpr
def _plan(size: Triple, kernel: Triple, before: Triple, keep_size: bool, stride: Pair) -> tuple[Triple, int, Shifts]:
    """Size of the result, width with its margin, and where the taps along the width look."""
    result = size if keep_size else tuple((n - k) // s + 1 for n, k, s in zip(size, kernel, (*stride, 1)))
    margin = max(before[2], kernel[2] - 1 - before[2]) if keep_size else 0
    return result, size[2] + margin, tuple(w - before[2] for w in range(kernel[2]))


@constexpr
def _pieces(rows: int, values: int, portions: int) -> tuple[Pair, ...]:
    """The ``rows`` of the result of one of ``portions``, with ``values`` each, in pieces (first, last + 1)."""
    count = min(MAX_PIECES // portions, rows, max(1, round(rows * values / PIECE)))
    return tuple((rows * i // count, rows * (i + 1) // count) for i in range(count))


@constexpr
def _rows_seen(
    videos: int,
    size: Triple,
    result: Triple,
    kernel: Triple,
    before: Triple,
    stride: Pair,
    sign: int,
    pieces: tuple[Pair, ...],
    each_tap: bool = False,
) -> tuple[Tensor | tuple[Tensor, ...], ...]:
    """The row of (N, T, H) that each tap in time and height sees from each row of the result.

    For each piece of P of the N * T' * H' rows (kt * kh * P,). Row ``N * T * H``, which is zero, stands for all that is
    outside. ``sign`` is -1 for the way back, from input to result. With ``each_tap`` the taps have such rows of their
    own, one after the other, and there is a list (P,) for each of them.
    """
    seen, inside = [], []
    for n, count, k, b, s in zip(size, result, kernel, before, stride):
        position = s * np.arange(count)[None] + sign * (np.arange(k)[:, None] - b)
        seen.append(position)
        inside.append((position >= 0) & (position < n))
    rows = seen[0][:, None, :, None] * size[1] + seen[1][None, :, None, :]
    rows = _of_videos(rows, inside, videos, size[0] * size[1], videos * size[0] * size[1])
    rows = rows.reshape(kernel[0] * kernel[1], -1).astype(np.int32)
    if not each_tap:
        return tuple(Tensor(rows[:, first:last].reshape(-1)) for first, last in pieces)
    rows += (np.arange(len(rows), dtype=np.int32) * (videos * size[0] * size[1] + 1))[:, None]
    return tuple(tuple(Tensor(tap[first:last]) for tap in rows) for first, last in pieces)


def _of_videos(rows: np.ndarray, inside: list[np.ndarray], videos: int, each: int, none: int) -> np.ndarray:
    """Rows (i, j, T, H) of one video → (i * j, N, T * H) of all, ``each`` apart, with ``none`` for what is outside."""
    inside = (inside[0][:, None, :, None] & inside[1][None, :, None, :]).reshape(rows.shape[0] * rows.shape[1], 1, -1)
    rows = rows.reshape(inside.shape) + each * np.arange(videos)[None, :, None]
    return np.where(inside, rows, none)


@constexpr
def _rows_returned(videos: int, size: Triple, result: Triple, kernel: Triple, stride: Pair) -> tuple[Tensor, ...]:
    """The way back of `_rows_seen` with a stride: the rows of (kt, kh, N, T', H') that each row of (N, T, H) adds up.

    As many lists of N * T * H rows as taps can see a row, ``ceil(kt / st) * ceil(kh / sh)``; the row after the last
    one, which is zero, fills them.
    """
    taps, back, inside = [], [], []
    for n, count, k, s in zip(size, result, kernel, stride):
        tap = np.arange(n) % s + s * np.arange(-(-k // s))[:, None]
        position = (np.arange(n) - tap) // s
        taps.append(tap)
        back.append(position)
        inside.append((tap < k) & (position >= 0) & (position < count))
    tap = taps[0][:, None, :, None] * kernel[1] + taps[1][None, :, None, :]
    each = result[0] * result[1]
    rows = tap * videos * each + back[0][:, None, :, None] * result[1] + back[1][None, :, None, :]
    rows = _of_videos(rows, inside, videos, each, kernel[0] * kernel[1] * videos * each)
    return tuple(Tensor(part.reshape(-1).astype(np.int32)) for part in rows)


@constexpr
def _values(taps: Triple, width: int) -> int:
    """How many values of columns and bands there are for each row of a result."""
    return taps[0] * (taps[1] + taps[2]) * width


@constexpr
def _apart(videos: int, values: int) -> bool:
    """Whether each of several ``videos`` of so many values is enough for a product of its own."""
    return 1 < videos <= MAX_PIECES and values >= PIECE // 2


@constexpr
def _overlap(n: int, start: int, stop: int) -> tuple[int, int, int, int]:
    """Of ``start`` to ``stop`` of a line of ``n``: how much is before it, first and length inside, how much after."""
    first, last = max(start, 0), min(stop, n)
    return first - start, first, last - first, stop - last


@constexpr
def _reversed(shifts: Shifts) -> Shifts:
    return tuple(reversed(shifts))


@constexpr
def _negative(shifts: Shifts) -> Shifts:
    return tuple(-shift for shift in shifts)


class RowConv(nn.Cell):
    """Convolution: (B, C, T, H, W), (G * O, C, kt, kh, kw) → (B, O, T', H', W'), groups as batch entries.

    The rows that the taps along time and height see are gathered as input channels; the taps along the width are output
    channels of ONE matrix product, and are summed after it with a shift. From few channels to many all taps are
    gathered, from many to few all are summed. One margin of zeros after each row serves both of its sides: flattened,
    what follows one row precedes the next. The gradient of the input is such a convolution again, and that of the
    weight shares its gathered rows. With ``keep_size`` the result has the size of the input, and
    ``before`` zeros stand before the first frame, row and column (``k - 1 - before`` after the last). Without it the
    input is taken as it is, and the result is smaller by ``k - 1``; then the kernel may move by a ``stride`` in time
    and height, whose gradient adds up the rows that were gathered.

    Without groups the videos of a batch stand side by side, (1, C, B * T, H, W), so that all share one product; but
    large ones come one by one. A large result is made in pieces of whole rows, each after the one before (`ops.Depend`;
    else all would be gathered first), so that what lies between gather and sum is small and stays in the cache.

    Primitives are called directly: their Python wrappers double the compile time.
    """

    def __init__(self, kernel: Triple, before: Triple, keep_size: bool, groups: int, stride: Pair):
        super().__init__()
        self.kernel, self.before, self.keep_size, self.groups = kernel, before, keep_size, groups
        self.stride, self.strided = stride, stride != (1, 1)
        self.backwards = Tensor(np.arange(kernel[2])[::-1].astype(np.int32))
        self.slice = ops.Slice()
        self.zeros = ops.Zeros()
        self.gather = ops.Gather()
        self.add = ops.AddN()
        self.after = ops.Depend()
        self.join_videos, self.join, self.join_columns = ops.Concat(0), ops.Concat(1), ops.Concat(2)
        self.times = ops.BatchMatMul()
        self.transposed_times = ops.BatchMatMul(transpose_a=True)
        self.times_transposed = ops.BatchMatMul(transpose_b=True)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        channels, out = weight.shape[1], weight.shape[0] // self.groups
        form = _form(channels, out, self.kernel, self.strided)
        taps, parts = self._taps_of(weight, form), ()
        size = self._portion_size(x, taps)
        for first in range(0, x.shape[0], size):
            parts += (self._convolved(self._portion(x, first, size), taps, out, form, x.shape[0] // size),)
            x = self.after(x, parts[-1])
        return self._joined(parts)

    def _convolved(self, x: Tensor, taps: Tensor, out: int, form: str, portions: int) -> Tensor:
        """One of ``portions``, with the weight as `_taps_of` its form."""
        videos, size = self._videos(x), x.shape[2:]
        result, width, shifts = _plan(size, self.kernel, self.before, self.keep_size, self.stride)
        taps = self._for_each(taps, x.shape[0] // videos)
        pieces = _pieces(videos * result[0] * result[1], _values(taps.shape, width), portions)
        rows, parts = self._rows(x, videos, width), ()
        count, spread = rows.shape[1], form == SPREAD
        if form == GATHERED:
            rows = self._shifted(rows, x.shape[1], shifts, (0, count)).reshape(-1, count, width)
        rows = self._with_zeros(rows) if self.keep_size or spread else rows
        if spread:
            rows = self._product_of_taps(taps, rows)
        seen = _rows_seen(videos, size, result, self.kernel, self.before, self.stride, 1, pieces, spread)
        for i in range(len(pieces)):
            if spread:
                bands = self._gathered_sum(rows, seen[i]).reshape(taps.shape[0], len(shifts) * out, -1)
            else:
                bands = self.times(taps, self._columns(rows, seen[i], taps.shape[2]))
            y = bands if form == GATHERED else self._sum(bands, out, _reversed(shifts))
            parts += (self._crop(y, out, width, result[2]),)
            rows = self.after(rows, parts[-1])
        return self._videos_of(parts, videos, result)

    def _product_of_taps(self, taps: Tensor, rows: Tensor) -> Tensor:
        """(B / N, kw * O * kt * kh, C), (B / N * C, R, M) → (B / N * kw * O, kt * kh * R, M)."""
        batch, _, channels = taps.shape
        bands = self.times(taps, rows.reshape(batch, channels, -1))
        return bands.reshape(-1, self.kernel[0] * self.kernel[1] * rows.shape[1], rows.shape[2])

    def _gathered_sum(self, rows: Tensor, lists: tuple[Tensor, ...]) -> Tensor:
        """Sum of the rows (N, R, M) in each of the ``lists`` (P,): (N, P, M)."""
        parts = ()
        for seen in lists:
            parts += (self.gather(rows, seen, 1),)
        return self._total(parts)

    def bprop(self, x: Tensor, weight: Tensor, _: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        if self.strided:
            return self._gradients_by_result(x, weight, dy)
        return self._gradients_by_input(x, weight, dy)

    def _gradients_by_input(self, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """From the rows of ``dy`` that each row of the input is seen by."""
        (channels, kt, kh, kw), out = weight.shape[1:], weight.shape[0] // self.groups
        taps = weight.reshape(self.groups, out, channels, kt * kh, kw).transpose(0, 4, 2, 1, 3)
        taps = taps.reshape(self.groups, kw * channels, out * kt * kh)
        size = self._portion_size(x, taps)
        dx, d_taps = (), ()
        for first in range(0, x.shape[0], size):
            portion, dy_portion = self._portion(x, first, size), self._portion(dy, first, size)
            gradients = self._portion_gradients(portion, dy_portion, taps, x.shape[0] // size)
            dx += (gradients[0],)
            d_taps += gradients[1]
            dy = self.after(dy, (dx[-1], d_taps[-1]))
        d_weight = self._total(d_taps).reshape(-1, weight.shape[0] * kt * kh, kw * channels).sum(0)
        return self._joined(dx), d_weight.reshape(-1, kt, kh, kw, channels).transpose(0, 4, 1, 2, 3)

    def _portion_gradients(
        self, x: Tensor, dy: Tensor, taps: Tensor, portions: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Of the input, and of the taps (G, kw * C, O * kt * kh) transposed, from each piece."""
        videos, size, channels = self._videos(x), x.shape[2:], x.shape[1]
        _, width, shifts = _plan(size, self.kernel, self.before, self.keep_size, self.stride)
        taps = self._for_each(taps, x.shape[0] // videos)
        pieces = _pieces(videos * size[0] * size[1], _values(taps.shape, width), portions)
        seen = _rows_seen(videos, dy.shape[2:], size, self.kernel, self.before, self.stride, -1, pieces)
        rows, d_rows = self._rows(x, videos, width), self._with_zeros(self._rows(dy, videos, width))
        dx, d_taps = (), ()
        for i in range(len(pieces)):
            columns = self._columns(d_rows, seen[i], taps.shape[2])
            bands = self.times(taps, columns)
            dx += (self._crop(self._sum(bands, channels, _negative(shifts)), channels, width, size[2]),)
            d_taps += (self.times_transposed(columns, self._shifted(rows, channels, shifts, pieces[i])),)
            d_rows = self.after(d_rows, (dx[-1], d_taps[-1]))
        return self._videos_of(dx, videos, size), d_taps

    def _gradients_by_result(self, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """From the rows of the input that each row of the result sees: the steps of `construct` in reverse."""
        videos, size = self._videos(x), x.shape[2:]
        result, width, shifts = _plan(size, self.kernel, self.before, self.keep_size, self.stride)
        (channels, kt, kh, kw), out = weight.shape[1:], weight.shape[0] // self.groups
        whole = (0, videos * result[0] * result[1])
        d_bands = self._shifted(self._rows(dy, videos, width), out, _negative(_reversed(shifts)), whole)
        d_columns = self.transposed_times(self._for_each(self._taps(weight), d_bands.shape[0]), d_bands)
        rows = self._with_zeros(d_columns.reshape(-1, kt * kh * whole[1], width))
        d_rows = self._gathered_sum(rows, _rows_returned(videos, size, result, self.kernel, self.stride))
        dx = self._crop(d_rows.reshape(d_bands.shape[0], -1), channels, width, size[2])
        seen = _rows_seen(videos, size, result, self.kernel, self.before, self.stride, 1, (whole,))
        columns = self._columns(self._rows(x, videos, width), seen[0], channels * kt * kh)
        d_taps = self.times_transposed(d_bands, columns).reshape(-1, self.groups, kw, out * channels * kt * kh).sum(0)
        d_taps = self.gather(d_taps, self.backwards, 1).transpose(0, 2, 1)
        return self._videos_of((dx,), videos, size), d_taps.reshape(weight.shape)

    def _videos(self, x: Tensor) -> int:
        """How many videos stand side by side: the whole batch, or with groups each alone."""
        return x.shape[0] if self.groups == 1 else 1

    def _portion_size(self, x: Tensor, taps: Tensor) -> int:
        """How many videos are convolved at a time: one if it is large enough for a product of its own, else all."""
        _, width, _ = _plan(x.shape[2:], self.kernel, self.before, self.keep_size, self.stride)
        values = x.shape[2] * x.shape[3] * _values(taps.shape, width)
        return 1 if _apart(self._videos(x), values) else x.shape[0]

    def _portion(self, x: Tensor, first: int, size: int) -> Tensor:
        """``size`` videos of ``x``."""
        if size == x.shape[0]:
            return x
        return self.slice(x, (first, 0, 0, 0, 0), (size, *x.shape[1:]))

    def _joined(self, parts: tuple[Tensor, ...]) -> Tensor:
        return self.join_videos(parts) if len(parts) > 1 else parts[0]

    def _taps_of(self, weight: Tensor, form: str) -> Tensor:
        """(G * O, C, kt, kh, kw) as the matrices (G, rows, columns) that a form multiplies with.

        (O, kw * C * kt * kh) if gathered, (kw * O, C * kt * kh), or (kw * O * kt * kh, C) if spread; the taps along the
        width in descending order where they are rows.
        """
        (channels, kt, kh, kw), out = weight.shape[1:], weight.shape[0] // self.groups
        if form == GATHERED:
            return weight.reshape(weight.shape[0], -1, kw).transpose(0, 2, 1).reshape(self.groups, out, -1)
        if form == MIXED:
            return self._taps(weight)
        taps = weight.reshape(self.groups, out, channels, kt * kh, kw).transpose(0, 4, 1, 3, 2)
        return self.gather(taps, self.backwards, 1).reshape(self.groups, -1, channels)

    def _taps(self, weight: Tensor) -> Tensor:
        """(G * O, C, kt, kh, kw) → (G, kw * O, C * kt * kh), the taps along the width in descending order."""
        kw, out = self.kernel[2], weight.shape[0] // self.groups
        taps = weight.reshape(self.groups, -1, kw).transpose(0, 2, 1)
        return self.gather(taps, self.backwards, 1).reshape(self.groups, kw * out, -1)

    def _for_each(self, matrices: Tensor, batch: int) -> Tensor:
        """The matrices of the groups (G, ...) for each of a batch (B, ...)."""
        groups, rows, columns = matrices.shape
        shape = (batch // groups, groups, rows, columns)
        return ops.broadcast_to(matrices.reshape(1, groups, rows, columns), shape).reshape(batch, rows, columns)

    def _rows(self, x: Tensor, videos: int, width: int) -> Tensor:
        """(B, C, T, H, W) → (B / N * C, N * T * H, M), zeros after each row."""
        b, c, t, h, w = x.shape
        n, rows = b * c // videos, videos * t * h
        x = x.reshape(n, rows, w) if videos == 1 else x.transpose(1, 0, 2, 3, 4).reshape(n, rows, w)
        if width > w:
            x = self.join_columns((x, self.zeros((n, rows, width - w), x.dtype)))
        return x

    def _columns(self, rows: Tensor, seen: Tensor, channels: int) -> Tensor:
        """The rows seen by the taps: (B / N * C, N * T * H, M), (kt * kh * P,) → (B / N, C * kt * kh, P * M)."""
        batch = rows.shape[0] * self.kernel[0] * self.kernel[1] // channels
        return self.gather(rows, seen, 1).reshape(batch, channels, -1)

    def _with_zeros(self, rows: Tensor) -> Tensor:
        """(N, R, M) → (N, R + 1, M): one more row, of zeros."""
        n, _, width = rows.shape
        return self.join((rows, self.zeros((n, 1, width), rows.dtype)))

    def _shifted(self, rows: Tensor, channels: int, shifts: Shifts, piece: Pair) -> Tensor:
        """(B * C, R, M) → (B, kw * C, P * M) of a piece: a copy per shift, ``copy[i] = x[i + shift]`` or zero."""
        width = rows.shape[2]
        rows, copies = rows.reshape(rows.shape[0], -1), ()
        count, n = rows.shape
        for shift in shifts:
            before, start, length, after = _overlap(n, piece[0] * width + shift, piece[1] * width + shift)
            copy = self.slice(rows, (0, start), (count, length))
            if before > 0:
                copy = self.join((self.zeros((count, before), rows.dtype), copy))
            if after > 0:
                copy = self.join((copy, self.zeros((count, after), rows.dtype)))
            copies += (copy.reshape(count // channels, -1),)
        return self.join(copies).reshape(count // channels, len(shifts) * channels, -1)

    def _sum(self, bands: Tensor, channels: int, shifts: Shifts) -> Tensor:
        """(B, kw * C, L) → (B, C * L): ``y[i] = sum_w bands[w, i + shifts[w]]`` for descending shifts.

        A shift may read into the neighbouring band; descending shifts keep it inside the tensor, and the margins keep
        what it reads there zero or in a position that is cropped.
        """
        batch, n = bands.shape[0], channels * bands.shape[2]
        bands, parts = bands.reshape(batch, -1), ()
        for band in range(len(shifts)):
            parts += (self.slice(bands, (0, band * n + shifts[band]), (batch, n)),)
        return self._total(parts)

    def _total(self, parts: tuple[Tensor, ...]) -> Tensor:
        return self.add(parts) if len(parts) > 1 else parts[0]

    def _crop(self, y: Tensor, channels: int, margin_width: int, width: int) -> Tensor:
        """(B, C * P * M) → (B, C, P, W)."""
        y = y.reshape(y.shape[0], channels, -1, margin_width)
        return self.slice(y, (0, 0, 0, 0), (*y.shape[:3], width))

    def _videos_of(self, parts: tuple[Tensor, ...], videos: int, size: Triple) -> Tensor:
        """Pieces (B / N, C, P, W) of the rows of all videos → (B, C, T, H, W)."""
        y = self.join_columns(parts) if len(parts) > 1 else parts[0]
        if videos == 1:
            return y.reshape(y.shape[0], y.shape[1], *size)
        return y.reshape(y.shape[1], -1, *size).transpose(1, 0, 2, 3, 4)


@functools.cache
def row_conv(
    kernel: Triple, before: Triple = (0, 0, 0), keep_size: bool = True, groups: int = 1, stride: Pair = (1, 1)
) -> RowConv:
    """One cell for all convolutions of a kind: it has no parameters, and the compiler reads its source only once."""
    return RowConv(kernel, before, keep_size, groups, stride)
