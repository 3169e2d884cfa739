"""Attention layers of video transformers.

Legend: `B` batch, `T` frames, `S` tokens of a frame, `N = T*S`, `L` text tokens, `D` width, `h` heads, `d` head size.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.nn import functional as F
from mindone.nn.layers import Linear, RMSNorm


class AxialSelfAttention(nn.Cell):
    """Self-attention among the tokens of a frame (``axis="space"``) or of one place over time (``axis="time"``).

    Queries and keys are RMS-normed per head if ``qk_norm``, then rotated if rotary tables are given; the other way
    round if ``rope_first``. ``parallel`` is told before and after the attention, so that it can exchange tokens for
    heads.
    """

    def __init__(
        self, width: int, num_heads: int, axis: str, qk_norm: bool, parallel: nn.Cell, rope_first: bool = False
    ):
        super().__init__()
        if width % num_heads:
            raise UserError(f"hidden_size={width} is not divisible by num_heads={num_heads}")
        self.num_heads, self.head_size = num_heads, width // num_heads
        self.axis, self.qk_norm, self.rope_first, self.parallel = axis, qk_norm, rope_first, parallel
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        if qk_norm:
            self.q_norm = RMSNorm(self.head_size)
            self.k_norm = RMSNorm(self.head_size)

    def construct(
        self,
        x: Tensor,
        size: tuple[int, int],
        rope: tuple[Tensor, Tensor] | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """(B, T, S, D) → (B, T, S, D).

        Args:
            size: frames and tokens of a frame of all ranks together.
            rope: cosine and sine (T, d/2) of channel pairs, over time.
            seen: (B, S) bool, within frames: which tokens are attended to; None: all are.
        """
        batch, frames, places, _ = x.shape
        qkv = self.qkv(x).reshape(batch, frames, places, 3, self.num_heads, self.head_size)
        qkv = self.parallel.before_attention((qkv,), self.axis, size)[0]
        batch, frames, places = qkv.shape[:3]
        heads, width = qkv.shape[4:]
        qkv = qkv.reshape(batch, frames, places, -1)
        qkv = qkv.swapaxes(1, 2) if self.axis == "time" else qkv
        groups, length = qkv.shape[1:3]
        q, k, v = ops.split(qkv.reshape(batch * groups, length, 3 * heads, width), heads, 2)
        if self.qk_norm and not self.rope_first:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = F.apply_rope_interleaved(q, *rope), F.apply_rope_interleaved(k, *rope)
        if self.qk_norm and self.rope_first:
            q, k = self.q_norm(q), self.k_norm(k)
        mask = None if seen is None or self.axis == "time" else _of_frames(seen, frames)
        out = F.attention(q, k, v, mask).reshape(batch, groups, length, -1)
        out = out.swapaxes(1, 2) if self.axis == "time" else out
        out = out.reshape(batch, frames, places, heads, width)
        out = self.parallel.after_attention(out, self.axis, size, self.num_heads)
        return self.proj(out.reshape(x.shape))


def _of_frames(seen: Tensor, frames: int) -> Tensor:
    """(B, S) → (B * frames, 1, 1, S), the same for all frames of a sample."""
    batch, places = seen.shape
    return ops.broadcast_to(seen[:, None], (batch, frames, places)).reshape(batch * frames, 1, 1, places)


class CrossAttention(nn.Cell):
    """All video tokens attend to the text: (B, T, S, D) and (B, L, D) → (B, T, S, D)."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads, self.head_size = num_heads, width // num_heads
        self.q_linear = Linear(width, width)
        self.kv_linear = Linear(width, 2 * width)
        self.proj = Linear(width, width)

    def construct(self, x: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` (B, 1, 1, L) bool, True = a token of the text, False = padding."""
        batch, frames, places, _ = x.shape
        heads, size, length = self.num_heads, self.head_size, text.shape[1]
        q = self.q_linear(x).reshape(batch, frames * places, heads, size)
        k, v = ops.split(self.kv_linear(text).reshape(batch, length, 2 * heads, size), heads, 2)
        return self.proj(F.attention(q, k, v, mask).reshape(x.shape))
