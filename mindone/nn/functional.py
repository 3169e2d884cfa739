"""Attention, norms, activations and rotary embedding as pure functions; `mindone.nn.kernels` computes them.

Norms, softmax and rotary embedding compute in float32 whatever the input; results have the dtype of the input.

Legend: `B` batch, `T` frames, `S` tokens of a frame, `h` heads, `Nq`/`Nk` queries/keys, `d` head size, `D` width.
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, ops

from mindone.nn.kernels import kernels
from mindone.nn.kernels.plain import cast


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` on the last axis: (..., in), (out, in), (out,) → (..., out)."""
    return kernels().linear(x, weight, bias)


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
        q: (B, Nq, h, d).
        k, v: (B, Nk, h, d).
        mask: bool, four axes, broadcastable to (B, 1, Nq, Nk); True = may attend. A query without any key gives zeros.
        scale: ``1 / sqrt(d)`` if not given.
        bias: added to the scores, four axes, broadcastable to (B, h, Nq, Nk).
    Returns:
        (B, Nq, h, d) in the dtype of ``q``.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return kernels().attention(q, k, v, mask, scale, bias)


def attention_part(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """`attention` that sees some of the keys; `merged` joins it with that of others. Has no gradients of its own.

    Args:
        q: (B, Nq, h, d).
        k, v: (B, Nk, h, d).
    Returns:
        Attended values (B, Nq, h, d) and the logarithms of the sums of ``exp(q k^T / sqrt(d))`` over the keys
        (B, h, Nq), both float32.
    """
    return kernels().attention_part(q, k, v, 1 / math.sqrt(q.shape[-1]))


def attention_part_gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sums: Tensor, d_out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The share of some keys in the gradients of an attention: of the queries to be summed over the parts.

    With ``p = exp(q k^T / sqrt(d) - log_sums)`` and ``s = p (d_out v^T - sum(d_out out))``, as in Ring Attention
    (arXiv:2310.01889): ``s k / sqrt(d)``, ``s^T q / sqrt(d)`` and ``p^T d_out``.

    Args:
        q: (B, Nq, h, d).
        k, v: (B, Nk, h, d), those of the part.
        out, log_sums: of all keys, as `merged` gives them.
        d_out: (B, Nq, h, d), gradient of ``out``.
    Returns:
        Gradients of q, k and v, float32.
    """
    return kernels().attention_part_gradients(q, k, v, out, log_sums, d_out, 1 / math.sqrt(q.shape[-1]))


def merged(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Joins what `attention_part` gives for two sets of keys to what it gives for both together.

    Values are weighted by ``sigmoid`` of the difference of their log-sums, so that nothing overflows.
    """
    (values, sums), (others, more) = one, other
    share = ops.sigmoid(more - sums).transpose(0, 2, 1)[..., None]
    together = ops.maximum(sums, more) + ops.log1p(ops.exp(-ops.abs(more - sums)))
    return values + share * (others - values), together


def frame_causal_attention(q: Tensor, k: Tensor, v: Tensor, frames: int) -> Tensor:
    """`attention` of (B, frames * S, h, d) in which the queries of a frame see the keys of it and of earlier frames.

    One attention per frame: no mask, and no scores of later frames.
    """
    size, outs = q.shape[1] // frames, ()
    for frame in range(frames):
        end = (frame + 1) * size
        outs = (*outs, attention(q[:, frame * size : end], k[:, :end], v[:, :end]))
    return outs[0] if frames == 1 else ops.concat(outs, 1)


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
    values = ops.concat((cast(v, ms.float32), _ones(batch, heads, 1, length)), 2)
    mixed = ops.matmul(ops.matmul(values, k.swapaxes(-1, -2)), q)
    weights = 1.0 / (mixed[:, :, size:] + eps)
    return cast(mixed[:, :, :size] * ops.matmul(_ones(batch, heads, size, 1), weights), dtype)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis in float32; the result stays float32."""
    return ops.softmax(cast(x, ms.float32), -1)


# --- norms and modulation --------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis."""
    return kernels().rms_norm(x, weight, eps)


def channel_rms_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight + bias`` over the channels of (B, C, ...), in float32."""
    return kernels().channel_rms_norm(x, weight, bias, eps)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axis."""
    return kernels().layer_norm(x, weight, bias, eps)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """``layer_norm(x) * (1 + scale) + shift`` without affine parameters.

    Args:
        x: (B, T, S, D), or (B, N, D).
        shift, scale: (B, 1, 1, D), or (B, T, 1, D) to modulate every frame by itself; (B, 1, D) for three axes.
    """
    return kernels().modulated_norm(x, shift, scale, eps)


def gated_sum(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """``x + gate * y``; x and y are as in `modulated_norm`, the gate as its ``shift``."""
    return kernels().gated_sum(x, gate, y)


# Sums of channels and copies of them are products: MindSpore's CPU operators for those are ten times slower.


def average_channels(x: Tensor, channels: int) -> Tensor:
    """Means of equally many neighbouring channels: (B, C, ...) → (B, channels, ...)."""
    count = x.shape[1] // channels
    if count == 1:
        return x
    groups = cast(x, ms.float32).reshape(x.shape[0] * channels, count, -1)
    means = ops.matmul(_ones(groups.shape[0], 1, count) / count, groups)
    return cast(means.reshape(x.shape[0], channels, *x.shape[2:]), x.dtype)


def repeat_channels(x: Tensor, count: int) -> Tensor:
    """Every channel ``count`` times in a row: (B, C, ...) → (B, count * C, ...)."""
    if count == 1:
        return x
    rows = cast(x, ms.float32).reshape(x.shape[0] * x.shape[1], 1, -1)
    copies = ops.matmul(_ones(rows.shape[0], count, 1), rows)
    return cast(copies.reshape(x.shape[0], count * x.shape[1], *x.shape[2:]), x.dtype)


def _ones(*shape: int) -> Tensor:
    return ops.full(shape, 1.0, dtype=ms.float32)


# --- activations and rotary embedding --------------------------------------------------------------------------------


def gelu_tanh(x: Tensor) -> Tensor:
    """``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``."""
    return kernels().gelu_tanh(x)


def gelu(x: Tensor) -> Tensor:
    """``x Phi(x)`` with the error function."""
    return x * (ops.erf(x * math.sqrt(0.5)) + 1) * 0.5


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``."""
    return kernels().quick_gelu(x)


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``."""
    return kernels().silu(x)


def apply_rope_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates neighbouring channel pairs: ``(x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin)``.

    Args:
        x: (B, N, h, d).
        cos, sin: (N, d / 2) float32, one angle per pair, or (B, N, d / 2) for every sample by itself.
    """
    return kernels().rotate(x, cos, sin, False)


def apply_rope_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same for channel ``j`` with ``j + d/2``: ``(a, b) -> (a cos - b sin, b cos + a sin)``."""
    return kernels().rotate(x, cos, sin, True)
