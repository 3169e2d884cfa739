"""CPU forms of the functions in `mindone.nn.functional` from MindSpore's operators, with gradients written out.

Where there are compiled kernels (`mindone.nn.native`) most of them are not used.

MindSpore's CPU kernels for most reductions, broadcasting and the gradients of softmax, GELU and layer norm are ten
times slower than its matrix products and its arithmetic on equal shapes, and broadcasting keeps buffers for the life of
a graph. So sums over an axis are products with a vector here, except those over the last axis of long rows, and a
vector is spread over rows by a product of inner size one. All cells compute in float32. Their gradients use primitives
(`ops.Softmax`) rather than functions (`ops.softmax`), which graph mode cannot resolve inside a ``bprop``.

Legend: `R` rows, `D` width, `G` groups of rows that share a modulation, `h` heads, `d` head size;
of a group norm `N` samples, `C` channels, `L` positions, `G` groups of channels.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

GELU_SLOPE = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715
MAX_PIECE = 512
"""Largest number of values that are added up in one go for a group's mean and variance."""


def full(shape: tuple[int, ...], value: float) -> Tensor:
    return ops.FillV2()(shape, Tensor(value, ms.float32))


# Two sets of products, for two axes and for more: a branch on the number of axes inside a function that both a
# `construct` and a `bprop` call leaves graph mode with an empty graph.


def times(a: Tensor, b: Tensor) -> Tensor:
    """``a b`` of the last two of at least three axes."""
    return ops.BatchMatMul()(a, b)


def times_transposed(a: Tensor, b: Tensor) -> Tensor:
    """``a b^T`` of the last two of at least three axes."""
    return ops.BatchMatMul(transpose_b=True)(a, b)


def transposed_times(a: Tensor, b: Tensor) -> Tensor:
    """``a^T b`` of the last two of at least three axes."""
    return ops.BatchMatMul(transpose_a=True)(a, b)


def rows_times(a: Tensor, b: Tensor) -> Tensor:
    """``a b`` of two axes."""
    return ops.MatMul()(a, b)


def rows_times_transposed(a: Tensor, b: Tensor) -> Tensor:
    """``a b^T`` of two axes."""
    return ops.MatMul(transpose_b=True)(a, b)


def rows_transposed_times(a: Tensor, b: Tensor) -> Tensor:
    """``a^T b`` of two axes."""
    return ops.MatMul(transpose_a=True)(a, b)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis."""
    return ops.Softmax(-1)(x)


def spread(column: Tensor, width: int) -> Tensor:
    """A column (..., R, 1) as ``width`` equal columns (..., R, width)."""
    return times(column, full((*column.shape[:-2], 1, width), 1.0))


def spread_rows(column: Tensor, width: int) -> Tensor:
    """`spread` of two axes: (R, 1) → (R, width)."""
    return rows_times(column, full((1, width), 1.0))


def row_means(x: Tensor) -> Tensor:
    """Means of rows: (R, D) → (R, 1)."""
    return rows_times(x, full((x.shape[1], 1), 1 / x.shape[1]))


def plus_column(x: Tensor, column: Tensor) -> Tensor:
    """``column`` (R,) added to the columns of ``x`` (R, D)."""
    return ops.BiasAdd()(x.reshape(1, x.shape[0], -1, 1), column).reshape(x.shape)


def weight_gradients(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias in ``y = x W^T + b``: (R, in), (R, out) → (out, in), (out,)."""
    rows = full((1, x.shape[0]), 1.0)
    return rows_transposed_times(dy, x), rows_times(rows, dy).reshape(-1)


class Linear(nn.Cell):
    """``x W^T + b`` of rows: (R, in), (out, in), (out,) → (R, out)."""

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.BiasAdd()(rows_times_transposed(x, weight), bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor):
        return rows_times(dout, weight), *weight_gradients(x, dout)


class Gelu(nn.Cell):
    """GELU in its tanh form, as ``x sigmoid(z)`` with ``z = 2 sqrt(2/pi) (x + 0.044715 x^3)``."""

    def construct(self, x: Tensor) -> Tensor:
        slope = ops.Square()(x) * (GELU_SLOPE * GELU_CUBIC) + GELU_SLOPE
        return x * ops.Sigmoid()(x * slope)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        square = ops.Square()(x)
        gate = ops.Sigmoid()(x * (square * (GELU_SLOPE * GELU_CUBIC) + GELU_SLOPE))
        slope = square * (3 * GELU_SLOPE * GELU_CUBIC) + GELU_SLOPE
        return (dout * (gate + out * (1.0 - gate) * slope),)


class Silu(nn.Cell):
    """``x sigmoid(x)``."""

    def construct(self, x: Tensor) -> Tensor:
        return x * ops.Sigmoid()(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        gate = ops.Sigmoid()(x)
        return (dout * (gate + out - out * gate),)


class RmsNorm(nn.Cell):
    """``x / sqrt(mean(x^2) + eps) * weight`` of rows (R, D) and (D,); also the factor (R, 1)."""

    def construct(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        factor = ops.Rsqrt()(row_means(ops.Square()(x)) + eps)
        return x * rows_times(factor, weight.reshape(1, -1)), factor

    def bprop(self, x: Tensor, weight: Tensor, eps: float, out: tuple[Tensor, Tensor], dout: tuple[Tensor, Tensor]):
        width = x.shape[1]
        dy, factor, row = dout[0], out[1], weight.reshape(1, -1)
        product = dy * x
        pull = rows_times_transposed(product, row) * (factor * factor * factor) * (1 / width)
        dx = dy * rows_times(factor, row) - x * spread_rows(pull, width)
        return dx, rows_transposed_times(factor, product).reshape(-1), eps


class ChannelRmsNorm(nn.Cell):
    """``x / sqrt(mean(x^2) + eps) * weight + bias`` over the channels of (B, C, N); also the factor (B, 1, N)."""

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        batch, channels, _ = x.shape
        factor = ops.Rsqrt()(times(full((batch, 1, channels), 1 / channels), ops.Square()(x)) + eps)
        column = ops.BroadcastTo((batch, channels, 1))(weight.reshape(1, channels, 1))
        y = (x * times(column, factor)).reshape(batch, channels, 1, -1)
        return ops.BiasAdd()(y, bias).reshape(x.shape), factor

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float, out, dout):
        batch, channels, length = x.shape
        dy, factor = dout[0], out[1]
        product = dy * x
        column = ops.BroadcastTo((batch, channels, 1))(weight.reshape(1, channels, 1))
        pull = transposed_times(column, product) * (factor * factor * factor) * (1 / channels)
        dx = dy * times(column, factor) - x * times(full((batch, channels, 1), 1.0), pull)
        d_bias = times(dy, full((batch, length, 1), 1.0)).sum(0).reshape(-1)
        return dx, times_transposed(product, factor).sum(0).reshape(-1), d_bias, eps


class LayerNorm(nn.Cell):
    """``(x - mean) / sqrt(var + eps) * gain + shift``, gain and shift (G, 1, D) for every group of ``x`` (G, R, D).

    Also the centred ``x`` (G, R, D) and the factor ``1 / sqrt(var + eps)`` (G, R, 1), which the gradient uses.
    """

    def construct(self, x: Tensor, gain: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        groups, rows, width = x.shape
        average = full((groups, width, 1), 1 / width)
        centred = x - spread(times(x, average), width)
        factor = ops.Rsqrt()(times(ops.Square()(centred), average) + eps)
        y = centred * times(factor, gain) + times(full((groups, rows, 1), 1.0), shift)
        return y, centred, factor

    def bprop(self, x: Tensor, gain: Tensor, shift: Tensor, eps: float, out, dout):
        groups, rows, width = x.shape
        dy, centred, factor = dout[0], out[1], out[2]
        product = dy * centred
        dgain = transposed_times(factor, product)
        dshift = times(full((groups, 1, rows), 1.0), dy)
        mean = times_transposed(dy, gain) * factor * (1 / width)
        pull = times_transposed(product, gain) * (factor * factor * factor) * (1 / width)
        dx = dy * times(factor, gain) - centred * spread(pull, width) - spread(mean, width)
        return dx, dgain, dshift, eps


@constexpr
def _piece(length: int) -> int:
    """The largest divisor of ``length`` up to `MAX_PIECE`."""
    return next(size for size in range(min(length, MAX_PIECE), 0, -1) if length % size == 0)


class GroupNorm(nn.Cell):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` of (N, C, ...); also the group's means and factors (N * G, 1).

    Mean and biased variance are those of a group of channels at all positions of a sample. The variance is
    ``mean(x^2) - mean^2`` in float64, which needs no pass for the centred ``x``. What is one number per channel is
    added as a bias or spread by a product.
    """

    def __init__(self, num_groups: int, eps: float):
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.mean = ops.ReduceMean(keep_dims=True)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, channels = x.shape[0], x.shape[1]
        rows = x.reshape(n * channels, -1)
        mean, square = self._of_groups(rows, n), self._of_groups(ops.Square()(rows), n)
        variance = ops.Cast()(square - mean * mean, ms.float32)
        factor, mean = ops.Rsqrt()(ops.ReLU()(variance) + self.eps), ops.Cast()(mean, ms.float32)
        gain = self._for_samples(weight, n) * factor
        shift = self._for_samples(bias, n) - gain * mean
        y = plus_column(rows * spread_rows(gain.reshape(-1, 1), rows.shape[1]), shift.reshape(-1))
        return y.reshape(x.shape), mean, factor

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, Tensor, Tensor]:
        n, channels = x.shape[0], x.shape[1]
        _, mean, factor = out
        dy, rows = dout[0].reshape(n * channels, -1), x.reshape(n * channels, -1)
        length = dy.shape[1]
        grouped = (n * self.num_groups, -1)
        sums = self.mean(dy, 1).reshape(grouped)
        products = (self.mean(dy * rows, 1).reshape(grouped) - sums * mean) * factor
        gain = self._for_samples(weight, n) * factor
        slope = self.mean(gain * products, 1) * factor
        shift = slope * mean - self.mean(gain * sums, 1)
        slope, shift = ops.BroadcastTo(gain.shape)(slope), ops.BroadcastTo(gain.shape)(shift)
        dx = dy * spread_rows(gain.reshape(-1, 1), length) - rows * spread_rows(slope.reshape(-1, 1), length)
        dx = plus_column(dx, shift.reshape(-1)).reshape(x.shape)
        dweight, dbias = products.reshape(n, -1).sum(0) * length, sums.reshape(n, -1).sum(0) * length
        return dx, dweight, dbias

    def _of_groups(self, rows: Tensor, n: int) -> Tensor:
        """Means (N * G, 1) float64 of the groups of (N * C, L), from those of short pieces: long sums lose digits."""
        pieces = ops.Cast()(self.mean(rows.reshape(-1, _piece(rows.shape[1])), 1), ms.float64)
        return self.mean(pieces.reshape(n * self.num_groups, -1), 1)

    def _for_samples(self, vector: Tensor, n: int) -> Tensor:
        """(C,) → (N * G, C / G)."""
        return ops.BroadcastTo((n, vector.shape[0]))(vector.reshape(1, -1)).reshape(n * self.num_groups, -1)


class GatedSum(nn.Cell):
    """``x + gate * y``: (G, R, D), (G, 1, D), (G, R, D) → (G, R, D)."""

    def construct(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        return x + y * times(full((x.shape[0], x.shape[1], 1), 1.0), gate)

    def bprop(self, x: Tensor, gate: Tensor, y: Tensor, out: Tensor, dout: Tensor):
        groups, rows, _ = x.shape
        dgate = times(full((groups, 1, rows), 1.0), dout * y)
        return dout, dgate, dout * times(full((groups, rows, 1), 1.0), gate)


class Rotation(nn.Cell):
    """Rotates pairs of the last axis of (B, h, N, d) by angles (N, d / 2) or (B, N, d / 2): neighbours, or ``halves``.

    ``x cos + x' sin`` with ``x'`` the other channel of each pair, signed; a product is faster than slicing.
    """

    def __init__(self, halves: bool):
        super().__init__()
        self.halves = halves

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape, size = x.shape, x.shape[-1]
        if self.halves:
            cos, sin = ops.concat((cos, cos), -1), ops.concat((sin, sin), -1)
        else:
            cos, sin = ops.repeat_interleave(cos, 2, -1), ops.repeat_interleave(sin, 2, -1)
        rows = x.reshape(-1, size)
        positions, tables = (-1, shape[-2] * size), (1, shape[-2] * size)
        if cos.ndim == 3:
            positions, tables = (shape[0], -1, shape[-2] * size), (shape[0], 1, shape[-2] * size)
        others = rows_times(rows, _partners(size, self.halves)).reshape(positions)
        rotated = rows.reshape(positions) * cos.reshape(tables) + others * sin.reshape(tables)
        return rotated.reshape(shape)


@constexpr
def _partners(size: int, halves: bool) -> Tensor:
    """The matrix (d, d) that gives each channel the other one of its pair, signed."""
    first, second = np.arange(size).reshape(2, -1) if halves else np.arange(size).reshape(-1, 2).T
    partner = np.zeros((size, size), np.float32)
    partner[second, first] = -1
    partner[first, second] = 1
    return Tensor(partner)


class Attention(nn.Cell):
    """``softmax(q k^T) v`` of (B, h, N, d); also the softmax (B, h, Nq, Nk), which the gradient uses."""

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        weights = softmax(times_transposed(q, k))
        return times(weights, v), weights

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, out: tuple[Tensor, Tensor], dout: tuple[Tensor, Tensor]):
        return attention_gradients(q, k, v, out[1], out[0], dout[0])


class BlockedAttention(nn.Cell):
    """`Attention` of one block after another, whose scores are computed again for the gradient.

    q (K, g, n, d) and k, v (K / repeat, g, Nk, d) → (K, g, n, d): ``repeat`` blocks of queries share keys and values.
    A loop of the graph, rather than blocks written one after another, keeps one block's scores in memory.
    """

    def construct(self, q: Tensor, k: Tensor, v: Tensor, repeat: int) -> Tensor:
        out = full((*q.shape[:-1], v.shape[-1]), 0.0)
        i = Tensor(0, ms.int32)
        while i < q.shape[0]:
            j = i // repeat
            weights = softmax(times_transposed(block(q, i), block(k, j)))
            out = ops.TensorScatterUpdate()(out, i.reshape(1, 1), times(weights, block(v, j))[None])
            i = i + 1
        return out

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, repeat: int, out: Tensor, dout: Tensor):
        dq, dk, dv = full(q.shape, 0.0), full(k.shape, 0.0), full(v.shape, 0.0)
        i = Tensor(0, ms.int32)
        while i < q.shape[0]:
            j = i // repeat
            rows, keys, values = block(q, i), block(k, j), block(v, j)
            weights = softmax(times_transposed(rows, keys))
            new = attention_gradients(rows, keys, values, weights, block(out, i), block(dout, i))
            dq = ops.TensorScatterUpdate()(dq, i.reshape(1, 1), new[0][None])
            dk = ops.TensorScatterAdd()(dk, j.reshape(1, 1), new[1][None])
            dv = ops.TensorScatterAdd()(dv, j.reshape(1, 1), new[2][None])
            i = i + 1
        return dq, dk, dv, repeat


def block(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` for an index known at run time."""
    return ops.Gather()(x, index, 0)


def attention_gradients(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor, out: Tensor, dout: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``softmax(q k^T) v`` for queries, keys and values.

    With ``delta = sum(dout * out)`` per query, the scores' gradient is ``weights * (dout v^T - delta)``. The delta is
    one more column of ``dout`` beside a column of ones of ``v``.
    """
    delta = times(dout * out, full((*out.shape[:-2], out.shape[-1], 1), -1.0))
    ones = full((*v.shape[:-1], 1), 1.0)
    dscores = weights * times_transposed(ops.Concat(-1)((dout, delta)), ops.Concat(-1)((v, ones)))
    return times(dscores, k), transposed_times(dscores, q), transposed_times(weights, dout)
