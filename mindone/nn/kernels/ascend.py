"""The operators for Ascend: MindSpore's fused ones, and the plain form where those refuse a shape."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.ops.auto_generate import FlashAttentionScore, FlashAttentionScoreGrad

from mindone.nn.kernels import plain
from mindone.nn.kernels.plain import (  # noqa: F401
    adamw,
    cast,
    channel_rms_norm,
    gated_sum,
    linear,
    move_towards,
    square_sum,
)
from mindone.nn.padding import Padding, pad_edges, pad_zeros

_FUSED_DTYPES = (ms.float16, ms.bfloat16)
_ALL_TOKENS = 2**31 - 1
_zeros, _ones_like = ops.Zeros(), ops.OnesLike()


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, bias: Tensor | None) -> Tensor:
    """The fused operator takes half precision, no bias, head sizes in steps of 16, and masks where 1 = left out."""
    if q.dtype not in _FUSED_DTYPES or bias is not None:
        return plain.attention(q, k, v, mask, scale, bias)
    head_size, dropped = v.shape[-1], None
    q, k, v = _pad_head(_turned(q)), _pad_head(_turned(k)), _pad_head(_turned(v))
    if mask is not None:
        shape = (q.shape[0], 1, q.shape[2], k.shape[2])
        dropped = ops.broadcast_to(cast(ops.logical_not(mask), ms.uint8), shape)
    out = ops.flash_attention_score(q, k, v, q.shape[1], attn_mask=dropped, scalar_value=scale, input_layout="BNSD")
    out = out[..., :head_size]
    # What the operator gives for a query without any key is not documented.
    out = out if mask is None else out * cast(mask.any(-1, keep_dims=True), out.dtype)
    return _turned(out)


def attention_part(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The fused operator gives the largest score of each query and the sum over it, each eight times."""
    if q.dtype not in _FUSED_DTYPES:
        return plain.attention_part(q, k, v, scale)
    head_size, fused = v.shape[-1], FlashAttentionScore(q.shape[2], scale_value=scale, input_layout="BNSD")
    largest, total, _, out = fused(_pad_head(_turned(q)), _pad_head(_turned(k)), _pad_head(_turned(v)))
    log_sums = largest[..., 0] + ops.log(total[..., 0])
    return cast(_turned(out[..., :head_size]), ms.float32), log_sums


def attention_part_gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sums: Tensor, d_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The fused operator divides by the sum over the largest score: here by one over the logarithm of the sum."""
    if q.dtype not in _FUSED_DTYPES:
        return plain.attention_part_gradients(q, k, v, out, log_sums, d_out, scale)
    head_size, dtype = v.shape[-1], q.dtype
    more = -head_size % 16
    q, k, v, out, d_out = _turned(q), _turned(k), _turned(v), _turned(cast(out, dtype)), _turned(cast(d_out, dtype))
    # Not by `_pad_head`: MindSpore does not compile a function with a branch that both passes of a cell call.
    if more:
        zeros = _zeros((*q.shape[:-1], more), dtype)
        of_keys = _zeros((*k.shape[:-1], more), dtype)
        q, out, d_out = ops.concat((q, zeros), -1), ops.concat((out, zeros), -1), ops.concat((d_out, zeros), -1)
        k, v = ops.concat((k, of_keys), -1), ops.concat((v, of_keys), -1)
    largest = ops.BroadcastTo((*log_sums.shape, 8))(log_sums[..., None])
    fused = FlashAttentionScoreGrad(
        q.shape[1], scale_value=scale, pre_tokens=_ALL_TOKENS, next_tokens=_ALL_TOKENS, input_layout="BNSD"
    )
    found = fused(q, k, v, d_out, None, None, None, None, largest, _ones_like(largest), None, out)
    d_q, d_k, d_v = found[0][..., :head_size], found[1][..., :head_size], found[2][..., :head_size]
    return cast(_turned(d_q), ms.float32), cast(_turned(d_k), ms.float32), cast(_turned(d_v), ms.float32)


def _turned(x: Tensor) -> Tensor:
    """(B, N, h, d) → (B, h, N, d), and back."""
    return x.transpose(0, 2, 1, 3)


def _pad_head(x: Tensor) -> Tensor:
    more = -x.shape[-1] % 16
    return ops.concat((x, _zeros((*x.shape[:-1], more), x.dtype)), -1) if more else x


def rotate(x: Tensor, cos: Tensor, sin: Tensor, halves: bool) -> Tensor:
    """The fused operator has documented limits, for (B, h, N, d), and angles for each sample for halves alone."""
    batch, length, heads, size = x.shape
    if max(batch, heads) >= 1000 or size >= 896 or batch * heads > 8 * length or not (halves or cos.ndim == 2):
        return plain.rotate(x, cos, sin, halves)
    table, mode = (-1, 1, length, size), 0 if halves else 1
    cos, sin = plain.for_channels(cos, halves).reshape(table), plain.for_channels(sin, halves).reshape(table)
    y = ops.rotary_position_embedding(cast(x, ms.float32).transpose(0, 2, 1, 3), cos, sin, mode)
    return cast(y.transpose(0, 2, 1, 3), x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return ops.rms_norm(x, cast(weight, x.dtype), eps)[0]


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    weight = None if weight is None else cast(weight, x.dtype)
    bias = None if bias is None else cast(bias, x.dtype)
    return ops.layer_norm(x, x.shape[-1:], weight, bias, eps)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return layer_norm(x, None, None, eps) * (1 + cast(scale, x.dtype)) + cast(shift, x.dtype)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
    return cast(ops.group_norm(cast(x, ms.float32), num_groups, weight, bias, eps), x.dtype)


def silu(x: Tensor) -> Tensor:
    return ops.silu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    return ops.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    return x * ops.sigmoid(x * 1.702)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int, int],
    padding: Padding,
    groups: int,
    replicate: bool,
) -> Tensor:
    """A single frame, and each tap in time of a convolution in groups, by the 2D operator: that in 3D has no groups."""
    flat = x.shape[2] == weight.shape[2] == 1 and padding[0] == (0, 0)
    if not flat and math.prod(weight.shape[2:]) == math.prod(stride) == 1 and padding == ((0, 0),) * 3:
        return plain.pointwise(x, weight, bias, groups)
    x = pad_edges(x, padding) if replicate else pad_zeros(x, padding)
    if flat:
        y = ops.conv2d(x.squeeze(2), weight.squeeze(2), stride=stride[1:], groups=groups).expand_dims(2)
    elif groups == 1:
        y = ops.conv3d(x, weight, stride=stride)
    else:
        y = _grouped(x, weight, groups)
    return plain.add_bias(y, bias)


def _grouped(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    frames, total = x.shape[2] - weight.shape[2] + 1, 0.0
    for tap in range(weight.shape[2]):
        part = x[:, :, tap : tap + frames].transpose(0, 2, 1, 3, 4).reshape(-1, x.shape[1], *x.shape[3:])
        total = total + ops.conv2d(part, weight[:, :, tap], groups=groups)
    return total.reshape(x.shape[0], frames, *total.shape[1:]).transpose(0, 2, 1, 3, 4)
