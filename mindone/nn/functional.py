"""Attention, norms, activations and rotary embedding as pure functions, for CPU and Ascend.

`runtime.kernels()` chooses between a CPU form built from plain operators and Ascend's fused kernels. Norms, softmax and
rotary tables compute in float32; results have the dtype of the input.

Legend: `B` batch, `h` heads, `Nq`/`Nk` queries/keys, `d` head size, `D` width.
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, ops

from mindone import runtime

MAX_SCORES = 2**25
"""Attention scores that the CPU form holds at a time (128 MB in float32); larger products are computed in blocks."""

_MASKED = -1e30
_FUSED_DTYPES = (ms.float16, ms.bfloat16)


def cast(x: Tensor, dtype) -> Tensor:
    """``x`` in ``dtype``; nothing is added to the graph when it is in that dtype already."""
    """``x`` in ``dtype``, without an operator if it is that already."""
    return x if x.dtype == dtype else x.astype(dtype)


# --- attention -------------------------------------------------------------------------------------------------------


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """``softmax(scale * q k^T + bias) v``.

    Args:
        q: (B, h, Nq, d).
        k, v: (B, h, Nk, d).
        mask: bool, broadcastable to (B, 1, Nq, Nk); True = may attend. A query without any key gives zeros.
        scale: ``1 / sqrt(d)`` if not given.
        bias: added to the scores, broadcastable to (B, h, Nq, Nk).
    Returns:
        (B, h, Nq, d) in the dtype of ``q``.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if runtime.kernels() == "Ascend" and q.dtype in _FUSED_DTYPES and bias is None:
        return _flash_attention(q, k, v, mask, scale)
    blocks = attention_blocks(q.shape[0] * q.shape[1], q.shape[2], k.shape[2])
    if blocks is None:
        return _plain_attention(q, k, v, mask, scale, bias)
    return _blocked_attention(q, k, v, mask, scale, bias)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, bias: Tensor | None) -> Tensor:
    scores = ops.BatchMatMul(transpose_b=True)(q * scale, k)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores + cast(ops.logical_not(mask), ms.float32) * _MASKED
    weights = cast(softmax(scores), v.dtype)
    out = ops.BatchMatMul()(weights, v)
    if mask is None:
        return out
    return out * cast(mask.any(-1, keep_dims=True), out.dtype)


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Ascend's fused kernel; it takes head sizes that are multiples of 16, and masks where 1 = left out."""
    head_size = q.shape[-1]
    q, k, v = (_pad_head(x) for x in (q, k, v))
    dropped = None
    if mask is not None:
        shape = (q.shape[0], 1, q.shape[2], k.shape[2])
        dropped = ops.broadcast_to(cast(ops.logical_not(mask), ms.uint8), shape)
    out = ops.flash_attention_score(q, k, v, q.shape[1], attn_mask=dropped, scalar_value=scale, input_layout="BNSD")
    return out[..., :head_size]


def _pad_head(x: Tensor) -> Tensor:
    missing = -x.shape[-1] % 16
    if missing == 0:
        return x
    return ops.concat((x, ops.zeros((*x.shape[:-1], missing), x.dtype)), -1)


def attention_blocks(batch_heads: int, queries: int, keys: int) -> tuple[int, int] | None:
    return None


def _blocked_attention(q, k, v, mask, scale, bias):
    return _plain_attention(q, k, v, mask, scale, bias)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis in float32; the result stays float32."""
    return ops.softmax(cast(x, ms.float32), -1)


# --- norms -----------------------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor | None, eps: float = 1e-6) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis, in float32; result in the dtype of ``x``."""
    if weight is not None and runtime.kernels() == "Ascend":
        return ops.rms_norm(x, cast(weight, x.dtype), eps)[0]
    y = cast(x, ms.float32)
    y = y * ops.rsqrt(ops.mean(ops.square(y), -1, keep_dims=True) + eps)
    return cast(y if weight is None else y * weight, x.dtype)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-6) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axis, in float32; result in the dtype of ``x``."""
    if runtime.kernels() == "Ascend":
        weight = None if weight is None else cast(weight, x.dtype)
        bias = None if bias is None else cast(bias, x.dtype)
        return ops.layer_norm(x, x.shape[-1:], weight, bias, eps)
    width = x.shape[-1]
    weight = ops.ones((width,), ms.float32) if weight is None else weight
    bias = ops.zeros((width,), ms.float32) if bias is None else bias
    return cast(ops.LayerNorm(-1, -1, eps)(cast(x, ms.float32), weight, bias)[0], x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x * (1 + scale) + shift``; shift and scale broadcast against ``x``."""
    return x * (1 + scale) + shift


# --- activations -----------------------------------------------------------------------------------------------------


def gelu_tanh(x: Tensor) -> Tensor:
    """``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``."""
    return ops.gelu(x, approximate="tanh")


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``."""
    return ops.silu(x)


# --- rotary embedding ------------------------------------------------------------------------------------------------


def apply_rope_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates neighbouring channel pairs: ``(x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin)``, in float32.

    Args:
        x: (B, h, N, d).
        cos, sin: (N, d / 2) float32, one angle per pair.
    """
    if _fused_rope_fits(x):
        return _fused_rope(x, ops.repeat_interleave(cos, 2, 1), ops.repeat_interleave(sin, 2, 1), 1)
    pairs = cast(x, ms.float32).reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    rotated = ops.stack((even * cos - odd * sin, odd * cos + even * sin), -1)
    return cast(rotated.reshape(x.shape), x.dtype)


def apply_rope_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates channel ``j`` with ``j + d/2``: ``(a, b) -> (a cos - b sin, b cos + a sin)``, in float32.

    Args:
        x: (B, h, N, d).
        cos, sin: (N, d / 2) float32, one angle per pair.
    """
    if _fused_rope_fits(x):
        return _fused_rope(x, ops.concat((cos, cos), -1), ops.concat((sin, sin), -1), 0)
    half = x.shape[-1] // 2
    y = cast(x, ms.float32)
    a, b = y[..., :half], y[..., half:]
    return cast(ops.concat((a * cos - b * sin, b * cos + a * sin), -1), x.dtype)


def _fused_rope_fits(x: Tensor) -> bool:
    """Whether Ascend's kernel takes this shape: documented limits of its BNSD layout with a (1, 1, N, d) table."""
    batch, heads, length, size = x.shape
    return runtime.kernels() == "Ascend" and max(batch, heads) < 1000 and size < 896 and batch * heads <= 8 * length


def _fused_rope(x: Tensor, cos: Tensor, sin: Tensor, mode: int) -> Tensor:
    cos, sin = cos[None, None], sin[None, None]
    return cast(ops.rotary_position_embedding(cast(x, ms.float32), cos, sin, mode), x.dtype)
