"""The operators from those that MindSpore has on every device, with its gradients.

`mindone.nn.functional` says what those compute that stand there. All compute in float32 whatever the input, except
products, and return the dtype of the input.

Legend: `B` batch, `h` heads, `Nq`/`Nk` queries/keys, `d` head size, `D` width; of a convolution `C`/`O` channels
in/out, `G` groups, `K` values that a window sees in a group, `P` positions, `T`/`H`/`W` size, `(kt, kh, kw)` kernel.
"""

from __future__ import annotations

import functools
import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

from mindone.nn.padding import Padding, pad_edges

Triple = tuple[int, int, int]

MAX_SCORES = 2**25
"""Attention scores in memory at a time, 128 MB, if one query of every head has no more; of the forward pass."""
MAX_COLUMNS = 2**24
"""About as many values of the windows of a convolution are in memory at a time."""
MAX_PIECES = 16
"""Largest number of pieces that a convolution is cut into for that; the graph has the operators of each one."""

_MASKED = -1e30
_adam_weight_decay, _descend = ops.AdamWeightDecay(), ops.ApplyGradientDescent()
_times_transposed = ops.BatchMatMul(transpose_b=True)
_mul_no_nan, _square, _sum = ops.MulNoNan(), ops.Square(), ops.ReduceSum()


def cast(x: Tensor, dtype) -> Tensor:
    """``x`` in ``dtype``, without an operator if it is that already."""
    return x if x.dtype == dtype else x.astype(dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return ops.dense(x, weight, bias)


# --- attention -------------------------------------------------------------------------------------------------------


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, bias: Tensor | None) -> Tensor:
    """The scores of some queries at a time."""
    dtype, queries = q.dtype, q.shape[1]
    q, k, v = cast(q, ms.float32) * scale, cast(k, ms.float32), cast(v, ms.float32)
    q, k, v = q.transpose(0, 2, 1, 3), k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    dropped = None if mask is None else (1.0 - cast(mask, ms.float32)) * _MASKED
    rows, outs = max(1, MAX_SCORES // (q.shape[0] * q.shape[1] * k.shape[3])), ()
    for first in range(0, queries, rows):
        # Each part waits for the one before: else all scores might be computed first.
        k = ops.depend(k, outs[-1]) if outs else k
        scores = ops.matmul(_part(q, first, rows), k)
        scores = scores if bias is None else scores + _part(bias, first, rows)
        scores = scores if dropped is None else scores + _part(dropped, first, rows)
        outs += (ops.matmul(ops.softmax(scores, -1), v),)
    out = outs[0] if len(outs) == 1 else ops.concat(outs, 2)
    out = out if mask is None else out * cast(mask.any(-1, keep_dims=True), ms.float32)
    return cast(out.transpose(0, 2, 1, 3), dtype)


def attention_part(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The scores of some queries at a time."""
    q, k, v, rows = *_by_heads(q, k, v), _rows_at_once(q, k)
    q, outs, log_sums = q * scale, (), ()
    for first in range(0, q.shape[2], rows):
        k = ops.depend(k, outs[-1]) if outs else k
        scores = _times_transposed(_part(q, first, rows), k)
        largest = scores.max(-1, keepdims=True)
        weights = ops.exp(scores - largest)
        total = weights.sum(-1, keepdims=True)
        outs += (ops.matmul(weights, v) / total,)
        log_sums += ((largest + ops.log(total)).squeeze(-1),)
    out = outs[0] if len(outs) == 1 else ops.concat(outs, 2)
    return out.transpose(0, 2, 1, 3), log_sums[0] if len(log_sums) == 1 else ops.concat(log_sums, 2)


def attention_part_gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sums: Tensor, d_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The scores of some queries at a time."""
    rows = _rows_at_once(q, k)
    (q, k, v), (out, d_out, _) = _by_heads(q, k, v), _by_heads(out, d_out, d_out)
    q, means = q * scale, (out * d_out).sum(-1, keepdims=True)
    log_sums, d_q, d_k, d_v = log_sums[..., None], (), 0.0, 0.0
    for first in range(0, q.shape[2], rows):
        k = ops.depend(k, d_q[-1]) if d_q else k
        some, d_some = _part(q, first, rows), _part(d_out, first, rows)
        weights = ops.exp(_times_transposed(some, k) - _part(log_sums, first, rows))
        slopes = weights * (_times_transposed(d_some, v) - _part(means, first, rows))
        d_q += (ops.matmul(slopes, k) * scale,)
        d_k = d_k + ops.matmul(slopes.swapaxes(2, 3), some)
        d_v = d_v + ops.matmul(weights.swapaxes(2, 3), d_some)
    return _by_heads(d_q[0] if len(d_q) == 1 else ops.concat(d_q, 2), d_k, d_v)


def _by_heads(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, h, d) → (B, h, N, d) float32, and back."""
    order = (0, 2, 1, 3)
    return (
        cast(x, ms.float32).transpose(order),
        cast(y, ms.float32).transpose(order),
        cast(z, ms.float32).transpose(order),
    )


def _rows_at_once(q: Tensor, k: Tensor) -> int:
    """Queries whose scores are in memory at a time; of q and k (B, N, h, d)."""
    return max(1, MAX_SCORES // (q.shape[0] * q.shape[2] * k.shape[1]))


def _part(x: Tensor, first: int, rows: int) -> Tensor:
    """Rows of (.., .., N, ..): all if there are no more, for a slice of everything would be a copy, or if N is 1."""
    return x if x.shape[2] == 1 or x.shape[2] <= rows else x[:, :, first : first + rows]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, halves: bool) -> Tensor:
    """`apply_rope_half` if ``halves``, else `apply_rope_interleaved`; no gradient of the angles.

    ``x cos + x' sin`` with ``x'`` the other channel of each pair, signed; a product is faster than slicing.
    """
    wide, size = cast(x, ms.float32), x.shape[-1]
    table = (-1, x.shape[1], 1, size)
    cos, sin = for_channels(cos, halves).reshape(table), for_channels(sin, halves).reshape(table)
    others = ops.matmul(wide.reshape(-1, size), _partners(size, halves)).reshape(x.shape)
    return cast(wide * cos + others * sin, x.dtype)


def for_channels(pairs: Tensor, halves: bool) -> Tensor:
    """A value for each channel from one for each pair: (..., d / 2) → (..., d)."""
    return ops.concat((pairs, pairs), -1) if halves else ops.repeat_interleave(pairs, 2, -1)


@constexpr
def _partners(size: int, halves: bool) -> Tensor:
    """The matrix (d, d) that gives each channel the other one of its pair, signed."""
    first, second = np.arange(size).reshape(2, -1) if halves else np.arange(size).reshape(-1, 2).T
    partner = np.zeros((size, size), np.float32)
    partner[second, first] = -1
    partner[first, second] = 1
    return Tensor(partner)


# --- norms, gates, activations ---------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = cast(x, ms.float32)
    return cast(wide * ops.rsqrt(_mean(ops.square(wide), -1) + eps) * weight, x.dtype)


def channel_rms_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    wide, per_channel = cast(x, ms.float32).reshape(*x.shape[:2], -1), (1, -1, 1)
    y = wide * ops.rsqrt(_mean(ops.square(wide), 1) + eps) * weight.reshape(per_channel)
    return cast((y + bias.reshape(per_channel)).reshape(x.shape), x.dtype)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    y = _normalised(cast(x, ms.float32), eps)
    y = y if weight is None else y * weight
    return cast(y if bias is None else y + bias, x.dtype)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    y = _normalised(cast(x, ms.float32), eps)
    return cast(y * (1.0 + cast(scale, ms.float32)) + cast(shift, ms.float32), x.dtype)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
    """`layer_norm` over all positions of a group of channels of (B, C, ...), with (C,) for weight and bias."""
    per_channel = (1, -1) + (1,) * (x.ndim - 2)
    y = _normalised(cast(x, ms.float32).reshape(x.shape[0], num_groups, -1), eps).reshape(x.shape)
    return cast(y * weight.reshape(per_channel) + bias.reshape(per_channel), x.dtype)


def _normalised(x: Tensor, eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps)`` over the last axis, the mean in two steps: long sums lose digits."""
    x = x - _mean(x, -1)
    x = x - _mean(x, -1)
    return x * ops.rsqrt(_mean(ops.square(x), -1) + eps)


def _mean(x: Tensor, axis: int) -> Tensor:
    return x.mean(axis, keep_dims=True)


def gated_sum(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    return x + cast(gate, x.dtype) * y


def silu(x: Tensor) -> Tensor:
    wide = cast(x, ms.float32)
    return cast(wide * ops.sigmoid(wide), x.dtype)


def gelu_tanh(x: Tensor) -> Tensor:
    """``0.5 x (1 + tanh(z))`` with ``z = sqrt(2 / pi) (x + 0.044715 x^3)``, which is ``x sigmoid(2 z)``."""
    wide = cast(x, ms.float32)
    return cast(wide * ops.sigmoid(wide * ((ops.square(wide) * 0.044715 + 1.0) * math.sqrt(8 / math.pi))), x.dtype)


def quick_gelu(x: Tensor) -> Tensor:
    wide = cast(x, ms.float32)
    return cast(wide * ops.sigmoid(wide * 1.702), x.dtype)


# --- convolution -----------------------------------------------------------------------------------------------------


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Triple, padding: Padding, groups: int, replicate: bool
) -> Tensor:
    """(B, C, T, H, W), (O, C / G, kt, kh, kw), (O,) → (B, O, T', H', W').

    Args:
        stride, padding: of time, height and width; (before, after) zeros, or copies of the edges if ``replicate``.
    """
    if math.prod(weight.shape[2:]) == math.prod(stride) == 1 and padding == ((0, 0),) * 3:
        return pointwise(x, weight, bias, groups)
    if replicate:
        x, padding = pad_edges(x, padding), ((0, 0),) * 3
    return add_bias(_convolution(stride, padding, groups)(x, weight), bias)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """`convolution` with a kernel of one, which is a product."""
    batch, channels = x.shape[0], x.shape[1] // groups
    y = ops.matmul(weight.reshape(1, groups, -1, channels), x.reshape(batch, groups, channels, -1))
    return add_bias(y.reshape(batch, -1, *x.shape[2:]), bias)


def add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    """``bias`` (C,) added to the channels of ``x`` (B, C, T, H, W)."""
    if bias is None:
        return x
    return ops.bias_add(x.reshape(x.shape[0], x.shape[1], -1, x.shape[-1]), bias).reshape(x.shape)


class _Convolution(nn.Cell):
    """One gather of what the windows see, and one product; a large result in pieces of whole rows.

    The gradients are the same: of the input with what each position of it is seen by. Autodiff would add up gathered
    values one by one, and keep those of all layers in memory.
    """

    def __init__(self, stride: Triple, padding: Padding, groups: int):
        super().__init__()
        self.stride, self.padding, self.groups = stride, padding, groups
        self.gather, self.after, self.zeros = ops.Gather(), ops.Depend(), ops.Zeros()
        self.join_rows, self.join = ops.Concat(1), ops.Concat(2)
        self.times, self.times_transposed = ops.BatchMatMul(), ops.BatchMatMul(transpose_b=True)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        size = result_size(x.shape[2:], weight.shape[2:], self.stride, self.padding)
        matrices = weight.reshape(self.groups, weight.shape[0] // self.groups, -1)
        return self._product(matrices, x, self._plan(x, size, weight, False), weight.shape[4]).reshape(
            x.shape[0], -1, *size
        )

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        shape = (self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
        matrices = weight.reshape(shape).transpose(0, 2, 1, 3).reshape(self.groups, weight.shape[1], -1)
        dx = self._product(matrices, dy, self._plan(dy, x.shape[2:], weight, True), weight.shape[4]).reshape(x.shape)
        along, pieces = self._plan(x, dy.shape[2:], weight, False)
        rows, d_rows = self._rows(x, along, weight.shape[4]), dy.reshape(x.shape[0] * self.groups, shape[1], -1)
        d_weight, first = 0.0, 0
        for piece in pieces:
            columns = self._columns(rows, piece, x.shape[0])
            last = first + columns.shape[2]
            d_weight = d_weight + self.times_transposed(d_rows[:, :, first:last], columns)
            rows, first = self.after(rows, d_weight), last
        return dx, d_weight.reshape(x.shape[0], -1).sum(0).reshape(weight.shape)

    def _plan(self, x: Tensor, size: Triple, weight: Tensor, back: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        values = x.shape[0] * x.shape[1] * math.prod(weight.shape[2:]) * size[2]
        return _windows(x.shape[2:], size, weight.shape[2:], self.stride, self.padding, values, back)

    def _product(self, matrices: Tensor, x: Tensor, plan: tuple[Tensor, tuple[Tensor, ...]], taps: int) -> Tensor:
        """(G, M, K), (B, G * C, T, H, W) → (B * G, M, P)."""
        (along, pieces), shape = plan, (x.shape[0], *matrices.shape)
        matrices = ops.BroadcastTo(shape)(matrices[None]).reshape(-1, *matrices.shape[1:])
        rows, parts = self._rows(x, along, taps), ()
        for piece in pieces:
            parts += (self.times(matrices, self._columns(rows, piece, x.shape[0])),)
            # Each piece waits for the one before: else all would be gathered first.
            rows = self.after(rows, parts[-1])
        return self.join(parts) if len(parts) > 1 else parts[0]

    def _rows(self, x: Tensor, along: Tensor, taps: int) -> Tensor:
        """What the taps along the width see: (B, C, T, H, W) → (B * C, (T * H + 1) * taps, W'), zeros at the end."""
        rows = x.reshape(x.shape[0] * x.shape[1], -1, x.shape[4])
        rows = self.join_rows((rows, self.zeros((rows.shape[0], 1, rows.shape[2]), rows.dtype)))
        rows = self.join((rows, self.zeros((*rows.shape[:2], 1), rows.dtype)))
        return self.gather(rows, along, 2).reshape(rows.shape[0], rows.shape[1] * taps, -1)

    def _columns(self, rows: Tensor, piece: Tensor, batch: int) -> Tensor:
        """What the taps see from a piece (taps, rows) of the result: (B * G, C * taps, rows * W')."""
        columns = self.gather(rows, piece.reshape(-1), 1)
        return columns.reshape(batch * self.groups, -1, piece.shape[1] * rows.shape[2])


@functools.cache
def _convolution(stride: Triple, padding: Padding, groups: int) -> _Convolution:
    """One cell for all convolutions of a kind: it has no parameters, and the compiler reads its source only once."""
    return _Convolution(stride, padding, groups)


@constexpr
def result_size(size: Triple, kernel: Triple, stride: Triple, padding: Padding) -> Triple:
    return tuple((n + sum(around) - k) // s + 1 for n, k, s, around in zip(size, kernel, stride, padding))


@constexpr
def _windows(
    size: Triple, result: Triple, kernel: Triple, stride: Triple, padding: Padding, values: int, back: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What the taps see of a ``size`` from each place of a ``result``, or ``back``: which place sees that by them.

    The column (kw * W',) that each tap sees along the width, W if none; and the row of (T, H, kw) that each tap
    (kt, kh, kw) sees from each row of (T', H'), ``T * H * kw`` if none, for pieces of these rows of ``values`` each.
    """
    seen = []
    for n, count, k, s, (before, _) in zip(size, result, kernel, stride, padding):
        taps, places = np.arange(k)[:, None], np.arange(count)
        place, rest = np.divmod(places - taps + before, s) if back else (s * places + taps - before, 0)
        seen.append(np.where((rest == 0) & (place >= 0) & (place < n), place, -1))
    along = np.where(seen[2] < 0, size[2], seen[2]).reshape(-1)
    time, height, width = seen[0][:, None, None, :, None], seen[1][:, None, None, :], np.arange(kernel[2])
    rows = (time * size[1] + height) * kernel[2] + width[:, None, None]
    rows = np.where((time < 0) | (height < 0), size[0] * size[1] * kernel[2], rows).astype(np.int32)
    rows = rows.reshape(math.prod(kernel), -1)
    count = min(MAX_PIECES, rows.shape[1], -(-values * rows.shape[1] // MAX_COLUMNS))
    pieces = tuple(Tensor(np.ascontiguousarray(piece)) for piece in np.array_split(rows, count, axis=1))
    return Tensor(along.astype(np.int32)), pieces


# --- training updates ------------------------------------------------------------------------------------------------


def square_sum(x: Tensor) -> Tensor:
    """The sum of the squares of a tensor, ()."""
    # Not L2Loss: on a CPU it is off by 1 % for a few million elements. In two steps: a sum over all axes takes five
    # times as long there as one over long rows.
    return _sum(_sum(_square(x).reshape(*x.shape[:1], -1), -1))


def adamw(
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    rate: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    eps: Tensor,
    decay: Tensor,
    scale: Tensor,
) -> Tensor:
    """In place ``p - rate * (m / (sqrt(v) + eps) + decay * p)`` with the moments of ``scale * gradient``.

    With ``scale`` 0 a gradient that is not finite counts as zero. What is returned has no meaning.
    """
    gradient = _mul_no_nan(gradient, scale)
    return _adam_weight_decay(parameter, exp_avg, exp_avg_sq, rate, beta1, beta2, eps, decay, gradient)


def move_towards(average: Tensor, parameter: Tensor, rate: Tensor) -> Tensor:
    """In place ``average - rate * (average - parameter)``. What is returned has no meaning."""
    return _descend(average, rate, average - parameter)
