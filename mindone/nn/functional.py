"""Attention, norms, activations and rotary embedding as pure functions, for CPU and Ascend.

`runtime.kernels()` chooses between CPU and Ascend's operators; on a CPU the compiled kernels of `mindone.nn.native` are
taken where there are any, else the forms in `mindone.nn.cpu`. Norms, softmax and rotary embedding compute in float32
whatever the input; results have the dtype of the input.

Legend: `B` batch, `T` frames, `S` tokens of a frame, `h` heads, `Nq`/`Nk` queries/keys, `d` head size, `D` width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindone import runtime
from mindone.nn import cpu, native

MAX_SCORES = 2**25
"""Attention scores that the CPU form holds at a time (128 MB in float32); more are computed in blocks."""
LONG_SEQUENCE = 64
"""Least number of queries and of keys for attention by our own kernel."""
LARGE_WEIGHT = 1024
"""Least width of a weight for our own product: some of MindSpore's large ones run at a third of its speed."""
MANY_ROWS, WIDE_ROWS = 2048, 256
"""So many rows of that width are for our own product as well, which adds the bias in the same pass."""

_MASKED = -1e30
_FUSED_DTYPES = (ms.float16, ms.bfloat16)
_NO_BIAS = Tensor(np.zeros((1, 1, 1, 1), np.float32))
_NO_SHIFT = Tensor(0.0, ms.float32)
_NO_MASK = Tensor(np.ones((1, 1, 1, 1), np.bool_))

_linear, _attention, _blocked_attention = cpu.Linear(), cpu.Attention(), cpu.BlockedAttention()
_native_attention, _native_token_attention, _native_biased_attention, _native_biased_token_attention = (
    native.Attention(tokens_first, biased) if native.available() else None
    for biased in (False, True)
    for tokens_first in (False, True)
)
_rotate_neighbour_tokens, _rotate_half_tokens = (
    native.Rotation(halves, tokens_first=True) if native.available() else None for halves in (False, True)
)
_native_gelu, _native_quick_gelu = (native.Gelu(), native.QuickGelu()) if native.available() else (None, None)
_native_linear, _native_narrow_linear = (
    native.Linear(narrow) if native.available() else None for narrow in (False, True)
)
_forms = native if native.available() else cpu
_gelu, _silu, _gated_sum = cpu.Gelu(), _forms.Silu(), _forms.GatedSum()
_rms_norm, _layer_norm, _channel_rms_norm = _forms.RmsNorm(), _forms.LayerNorm(), _forms.ChannelRmsNorm()
_rotate_neighbours, _rotate_halves = _forms.Rotation(False), _forms.Rotation(True)
# What an Ascend graph gets where the fused operator refuses a shape: nothing compiled for a CPU may be in it.
_plain_rotate_neighbours, _plain_rotate_halves = cpu.Rotation(False), cpu.Rotation(True)


def cast(x: Tensor, dtype) -> Tensor:
    """``x`` in ``dtype``, without an operator if it is that already."""
    return x if x.dtype == dtype else x.astype(dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` on the last axis: (..., in), (out, in), (out,) → (..., out)."""
    if runtime.kernels() == "Ascend" or x.dtype != ms.float32:
        return ops.dense(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if _has_own_product(rows.shape[0], min(weight.shape)):
        product = _native_linear if min(weight.shape) >= LARGE_WEIGHT else _native_narrow_linear
        y = product(rows, weight, cpu.full(weight.shape[:1], 0.0) if bias is None else bias)
    else:
        y = cpu.rows_times_transposed(rows, weight) if bias is None else _linear(rows, weight, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def activated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Callable[..., Tensor]) -> Tensor:
    """``activation(x W^T + b)`` of `linear`, with one of `gelu_tanh`, `gelu` and `quick_gelu`."""
    rows = math.prod(x.shape[:-1])
    if _native_gelu is None or runtime.kernels() == "Ascend" or _has_own_product(rows, min(weight.shape)):
        return activation(linear(x, weight, bias))
    return activation(linear(x, weight), bias)


def _has_own_product(rows: int, width: int) -> bool:
    return _native_linear is not None and (width >= LARGE_WEIGHT or (rows >= MANY_ROWS and width >= WIDE_ROWS))


# --- attention -------------------------------------------------------------------------------------------------------


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
    max_scores: int = MAX_SCORES,
) -> Tensor:
    """``softmax(scale * q k^T + bias) v``.

    On a CPU no more than ``max_scores`` scores are in memory at a time, forward and backward (with a bias or a mask
    that differs between queries: forward); the compiled kernel needs those of 48 queries per thread.

    Args:
        q: (B, h, Nq, d).
        k, v: (B, h, Nk, d).
        mask: bool, four axes, broadcastable to (B, 1, Nq, Nk); True = may attend. A query without any key gives zeros.
        scale: ``1 / sqrt(d)`` if not given.
        bias: added to the scores, four axes, broadcastable to (B, h, Nq, Nk).
    Returns:
        (B, h, Nq, d) in the dtype of ``q``.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if runtime.kernels() == "Ascend" and q.dtype in _FUSED_DTYPES and bias is None:
        return _flash_attention(q, k, v, mask, scale)
    if _fits_native_attention(q.shape[2], k.shape[2]):
        return _attended(_native_attention if bias is None else _native_biased_attention, q, k, v, mask, scale, bias)
    dtype = q.dtype
    q, k, v = cast(q, ms.float32) * scale, cast(k, ms.float32), cast(v, ms.float32)
    if mask is not None and mask.shape[-2] > 1:
        bias = _with_mask(bias, mask)
        out = _biased_attention(q, k, v, bias, max_scores) * cast(mask.any(-1, keep_dims=True), ms.float32)
        return cast(out, dtype)
    if mask is not None:
        q, k, v = _with_key_mask(q, k, v, mask)
    if bias is not None:
        return cast(_biased_attention(q, k, v, bias, max_scores), dtype)
    if q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= max_scores:
        return cast(_attention(q, k, v)[0], dtype)
    return cast(_attention_in_blocks(q, k, v, max_scores), dtype)


def token_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """`attention` of (B, Nq, h, d) and (B, Nk, h, d), where tokens come before heads, to (B, Nq, h, d)."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if _fits_native_attention(q.shape[1], k.shape[1]):
        attend = _native_token_attention if bias is None else _native_biased_token_attention
        return _attended(attend, q, k, v, mask, scale, bias)
    q, k, v = q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    return attention(q, k, v, mask, scale, bias).transpose(0, 2, 1, 3)


def rotary_attention(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, halves: bool) -> Tensor:
    """`token_attention` of queries and keys that `apply_rope_half` or `apply_rope_interleaved` rotates before."""
    if _fits_native_attention(q.shape[1], k.shape[1]):
        rotate = _rotate_half_tokens if halves else _rotate_neighbour_tokens
        q, k = rotate(cast(q, ms.float32), cos, sin), rotate(cast(k, ms.float32), cos, sin)
        return cast(token_attention(q, k, v), v.dtype)
    q, k, v = q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    rotate = apply_rope_half if halves else apply_rope_interleaved
    return attention(rotate(q, cos, sin), rotate(k, cos, sin), v).transpose(0, 2, 1, 3)


def _fits_native_attention(queries: int, keys: int) -> bool:
    return _native_attention is not None and runtime.kernels() == "CPU" and min(queries, keys) >= LONG_SEQUENCE


def _attended(
    attend: native.Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, bias: Tensor | None
) -> Tensor:
    """What a compiled kernel gives, in the dtype of ``q``; a single value of bias or mask stands for none."""
    bias, mask = _NO_BIAS if bias is None else cast(bias, ms.float32), _NO_MASK if mask is None else mask
    out = attend(cast(q, ms.float32), cast(k, ms.float32), cast(v, ms.float32), bias, mask, scale)[0]
    return cast(out, q.dtype)


def frame_causal_attention(q: Tensor, k: Tensor, v: Tensor, frames: int) -> Tensor:
    """`attention` of (B, h, frames * S, d) in which the queries of a frame see the keys of it and of earlier frames.

    One attention per frame: no mask, and no scores of later frames.
    """
    size, outs = q.shape[2] // frames, ()
    for frame in range(frames):
        end = (frame + 1) * size
        outs = (*outs, attention(q[:, :, frame * size : end], k[:, :, :end], v[:, :, :end]))
    return outs[0] if frames == 1 else ops.concat(outs, 2)


def relu_linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-15) -> Tensor:
    """Linear attention with ReLU features, https://arxiv.org/abs/2205.14756, channels before positions.

    ``sum_j v_j (relu(k_j) . relu(q_i)) / (sum_j relu(k_j) . relu(q_i) + eps)``, in float32.

    Args:
        q, k, v: (B, h, d, N).
    Returns:
        (B, h, d, N) in the dtype of ``q``.
    """
    batch, heads, size, length = q.shape
    dtype, q, k = q.dtype, ops.relu(cast(q, ms.float32)), ops.relu(cast(k, ms.float32))
    values = ops.concat((cast(v, ms.float32), cpu.full((batch, heads, 1, length), 1.0)), 2)
    mixed = cpu.times(cpu.times_transposed(values, k), q)
    weights = 1.0 / (mixed[:, :, size:] + eps)
    return cast(mixed[:, :, :size] * cpu.times(cpu.full((batch, heads, size, 1), 1.0), weights), dtype)


def attention_block(pairs: int, queries: int, keys: int, max_scores: int) -> tuple[int, int]:
    """How many (sample, head) pairs and queries are computed at a time, so that the scores are at most ``max_scores``.

    Blocks are as equal as possible. A single query is the smallest block, however many keys there are.
    """
    if queries * keys <= max_scores:
        return _equal_parts(pairs, max_scores // (queries * keys)), queries
    return 1, _equal_parts(queries, max(1, max_scores // keys))


def _equal_parts(whole: int, largest: int) -> int:
    parts = -(-whole // largest)
    return -(-whole // parts)


def _attention_in_blocks(q: Tensor, k: Tensor, v: Tensor, max_scores: int) -> Tensor:
    (batch, heads, queries, size), (keys, values) = q.shape, (k.shape[2], v.shape[-1])
    pairs, rows = attention_block(batch * heads, queries, keys, max_scores)
    q = _padded(_padded(q.reshape(batch * heads, queries, size), 0, pairs), 1, rows)
    k = _padded(k.reshape(batch * heads, keys, size), 0, pairs)
    v = _padded(v.reshape(batch * heads, keys, values), 0, pairs)
    repeat = q.shape[1] // rows
    out = _blocked_attention(
        q.reshape(-1, pairs, rows, size), k.reshape(-1, pairs, keys, size), v.reshape(-1, pairs, keys, values), repeat
    )
    out = out.reshape(q.shape[0], q.shape[1], values)[: batch * heads, :queries]
    return out.reshape(batch, heads, queries, values)


def _padded(x: Tensor, axis: int, multiple: int) -> Tensor:
    """``x`` (3 axes) with zeros at the end of an axis, up to a multiple."""
    missing = -x.shape[axis] % multiple
    if missing == 0:
        return x
    shape = (missing, *x.shape[1:]) if axis == 0 else (x.shape[0], missing, x.shape[2])
    return ops.concat((x, cpu.full(shape, 0.0)), axis)


def _with_key_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values with one more channel in which the masked keys score very low, and their values zero.

    The mask is (B, 1, 1, Nk). So the scores need no second pass, and queries without any key give zeros.
    """
    valid = cast(mask.swapaxes(-1, -2), ms.float32)
    column = ops.broadcast_to((1.0 - valid) * _MASKED, (*k.shape[:-1], 1))
    q = ops.concat((q, ops.full((*q.shape[:-1], 1), 1.0, dtype=ms.float32)), -1)
    return q, ops.concat((k, column), -1), v * valid


def _with_mask(bias: Tensor | None, mask: Tensor) -> Tensor:
    dropped = cast(ops.logical_not(mask), ms.float32) * _MASKED
    return dropped if bias is None else bias + dropped


def _biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, max_scores: int) -> Tensor:
    """Attention with a bias broadcastable to (B, h, Nq, Nk), in blocks of queries."""
    rows = max(1, max_scores // (q.shape[0] * q.shape[1] * k.shape[2]))
    if rows >= q.shape[2]:  # a slice of everything would be a copy, and a slow one
        return cpu.times(cpu.softmax(cpu.times_transposed(q, k) + bias), v)
    outs = ()
    for n in range(0, q.shape[2], rows):
        part = bias if bias.shape[-2] == 1 else bias[..., n : n + rows, :]
        weights = cpu.softmax(cpu.times_transposed(q[:, :, n : n + rows], k) + part)
        outs = (*outs, cpu.times(weights, v))
    return outs[0] if len(outs) == 1 else ops.concat(outs, 2)


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Ascend's fused kernel; it takes head sizes that are multiples of 16, and masks where 1 = left out."""
    head_size = q.shape[-1]
    q, k, v = _pad_head(q), _pad_head(k), _pad_head(v)
    dropped = None
    if mask is not None:
        shape = (q.shape[0], 1, q.shape[2], k.shape[2])
        dropped = ops.broadcast_to(cast(ops.logical_not(mask), ms.uint8), shape)
    out = ops.flash_attention_score(q, k, v, q.shape[1], attn_mask=dropped, scalar_value=scale, input_layout="BNSD")
    out = out[..., :head_size]
    # What the kernel gives for a query without any key is not documented.
    return out if mask is None else out * cast(mask.any(-1, keep_dims=True), out.dtype)


def _pad_head(x: Tensor) -> Tensor:
    missing = -x.shape[-1] % 16
    if missing == 0:
        return x
    return ops.concat((x, ops.zeros((*x.shape[:-1], missing), x.dtype)), -1)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis in float32; the result stays float32."""
    return cpu.softmax(cast(x, ms.float32))


# --- norms and modulation --------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis."""
    if runtime.kernels() == "Ascend":
        return ops.rms_norm(x, cast(weight, x.dtype), eps)[0]
    rows = cast(x, ms.float32).reshape(-1, x.shape[-1])
    return cast(_rms_norm(rows, weight, eps)[0].reshape(x.shape), x.dtype)


def channel_rms_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight + bias`` over the channels of (B, C, ...), in float32."""
    batch, channels = x.shape[:2]
    rows = cast(x, ms.float32).reshape(batch, channels, -1)
    if runtime.kernels() == "Ascend":
        y = rows * ops.rsqrt(ops.square(rows).mean(1, keep_dims=True) + eps) * weight.reshape(1, channels, 1)
        y = ops.bias_add(y.reshape(batch, channels, 1, -1), bias)
    else:
        y = _channel_rms_norm(rows, weight, bias, eps)[0]
    return cast(y.reshape(x.shape), x.dtype)


def average_channels(x: Tensor, channels: int) -> Tensor:
    """Means of equally many neighbouring channels: (B, C, ...) → (B, channels, ...)."""
    count = x.shape[1] // channels
    if count == 1:
        return x
    groups = cast(x, ms.float32).reshape(x.shape[0] * channels, count, -1)
    means = cpu.times(cpu.full((groups.shape[0], 1, count), 1 / count), groups)
    return cast(means.reshape(x.shape[0], channels, *x.shape[2:]), x.dtype)


def repeat_channels(x: Tensor, count: int) -> Tensor:
    """Every channel ``count`` times in a row: (B, C, ...) → (B, count * C, ...)."""
    if count == 1:
        return x
    rows = cast(x, ms.float32).reshape(x.shape[0] * x.shape[1], 1, -1)
    copies = cpu.times(cpu.full((rows.shape[0], count, 1), 1.0), rows)
    return cast(copies.reshape(x.shape[0], count * x.shape[1], *x.shape[2:]), x.dtype)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axis."""
    width = x.shape[-1]
    if runtime.kernels() == "Ascend":
        weight = None if weight is None else cast(weight, x.dtype)
        bias = None if bias is None else cast(bias, x.dtype)
        return ops.layer_norm(x, (width,), weight, bias, eps)
    gain = cpu.full((1, 1, width), 1.0) if weight is None else weight.reshape(1, 1, width)
    shift = cpu.full((1, 1, width), 0.0) if bias is None else bias.reshape(1, 1, width)
    rows = cast(x, ms.float32).reshape(1, -1, width)
    return cast(_layer_norm(rows, gain, shift, eps)[0].reshape(x.shape), x.dtype)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """``modulate(layer_norm(x), shift, scale)`` without affine parameters.

    Args:
        x: (B, T, S, D), or (B, N, D).
        shift, scale: (B, 1, 1, D), or (B, T, 1, D) to modulate every frame by itself; (B, 1, D) for three axes.
    """
    if runtime.kernels() == "Ascend":
        return modulate(layer_norm(x, eps=eps), cast(shift, x.dtype), cast(scale, x.dtype))
    shift, gain = _rows_of_groups(shift), _rows_of_groups(scale) + 1.0
    groups = cast(x, ms.float32).reshape(shift.shape[0], -1, x.shape[-1])
    return cast(_layer_norm(groups, gain, shift, eps)[0].reshape(x.shape), x.dtype)


def gated_sum(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """``x + gate * y``; x and y are as in `modulated_norm`, the gate as its ``shift``."""
    if runtime.kernels() == "Ascend" or x.dtype != ms.float32:
        return x + cast(gate, x.dtype) * y
    gate = _rows_of_groups(gate)
    shape = (gate.shape[0], -1, x.shape[-1])
    return _gated_sum(x.reshape(shape), gate, y.reshape(shape)).reshape(x.shape)


def _rows_of_groups(vectors: Tensor) -> Tensor:
    """(B, F, 1, D) → (B * F, 1, D), (B, 1, D) as it is; float32."""
    return cast(vectors, ms.float32).reshape(-1, 1, vectors.shape[-1])


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x * (1 + scale) + shift``; shift and scale broadcast against ``x``."""
    return x * (1 + scale) + shift


# --- activations -----------------------------------------------------------------------------------------------------


def gelu_tanh(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``, of (..., D) plus a bias (D,) if there is one."""
    if runtime.kernels() == "Ascend":
        return ops.gelu(_shifted(x, bias), approximate="tanh")
    if _native_gelu is None:
        return cast(_gelu(cast(_shifted(x, bias), ms.float32)), x.dtype)
    return cast(_native_gelu(*_float_and_shift(x, bias)), x.dtype)


def gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x Phi(x)`` with the error function."""
    x = _shifted(x, bias)
    return x * (ops.erf(x * math.sqrt(0.5)) + 1) * 0.5


def quick_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x * sigmoid(1.702 x)``, of (..., D) plus a bias (D,) if there is one."""
    if _native_quick_gelu is None or runtime.kernels() == "Ascend":
        x = _shifted(x, bias)
        return x * ops.sigmoid(x * 1.702)
    return cast(_native_quick_gelu(*_float_and_shift(x, bias)), x.dtype)


def _shifted(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


def _float_and_shift(x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """For the compiled kernels, where a number is the same for all."""
    return cast(x, ms.float32), _NO_SHIFT if bias is None else cast(bias, ms.float32)


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``."""
    if runtime.kernels() == "Ascend":
        return ops.silu(x)
    return cast(_silu(cast(x, ms.float32)), x.dtype)


# --- rotary embedding ------------------------------------------------------------------------------------------------


def apply_rope_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates neighbouring channel pairs: ``(x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin)``.

    Args:
        x: (B, h, N, d).
        cos, sin: (N, d / 2) float32, one angle per pair, or (B, N, d / 2) for every sample by itself.
    """
    if _fused_rope_fits(x) and cos.ndim == 2:
        return _fused_rope(x, ops.repeat_interleave(cos, 2, -1), ops.repeat_interleave(sin, 2, -1), 1)
    rotate = _plain_rotate_neighbours if runtime.kernels() == "Ascend" else _rotate_neighbours
    return cast(rotate(cast(x, ms.float32), cos, sin), x.dtype)


def apply_rope_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates channel ``j`` with ``j + d/2``: ``(a, b) -> (a cos - b sin, b cos + a sin)``.

    Args:
        x: (B, h, N, d).
        cos, sin: (N, d / 2) float32, one angle per pair, or (B, N, d / 2) for every sample by itself.
    """
    if _fused_rope_fits(x):
        return _fused_rope(x, ops.concat((cos, cos), -1), ops.concat((sin, sin), -1), 0)
    rotate = _plain_rotate_halves if runtime.kernels() == "Ascend" else _rotate_halves
    return cast(rotate(cast(x, ms.float32), cos, sin), x.dtype)


def _fused_rope_fits(x: Tensor) -> bool:
    """Whether Ascend's kernel takes this shape: documented limits of its BNSD layout.

    Tables are (1, 1, N, d), or (B, 1, N, d) for halves.
    """
    batch, heads, length, size = x.shape
    return runtime.kernels() == "Ascend" and max(batch, heads) < 1000 and size < 896 and batch * heads <= 8 * length


def _fused_rope(x: Tensor, cos: Tensor, sin: Tensor, mode: int) -> Tensor:
    shape = (-1, 1, *cos.shape[-2:])
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    return cast(ops.rotary_position_embedding(cast(x, ms.float32), cos, sin, mode), x.dtype)
