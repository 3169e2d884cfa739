"""Blocks of MMDiT: two streams of tokens with one joint attention, and one stream with attention and MLP side by side.

Parameter names are those of Flux and of Open-Sora 2.0, whose weights hold queries, keys and values in one matrix
(``fused``) or in matrices of their own.

Legend: `B` batch, `N` tokens, `L` text tokens, `D` hidden size, `M` MLP size, `h` heads, `d` head size.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from mindone.nn import functional as F
from mindone.nn.layers import GELU, Linear, SiLU

Rope = tuple[Tensor, Tensor]
# Plain numbers of all ranks together: 1, text tokens, video tokens.
Size = tuple[int, int, int]


class VectorEmbedder(nn.Cell):
    """A vector per sample through ``in_layer``, SiLU and ``out_layer``: (B, in) → (B, D)."""

    def __init__(self, in_features: int, width: int):
        super().__init__()
        self.in_layer = Linear(in_features, width)
        self.out_layer = Linear(width, width)

    def construct(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class HeadNorm(nn.Cell):
    """RMS norm over the channels of a head, with the parameter ``scale``."""

    def __init__(self, head_size: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.scale = Parameter(initializer("ones", (head_size,), ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale, self.eps)


class QKNorm(nn.Cell):
    """Norms of queries and of keys."""

    def __init__(self, head_size: int):
        super().__init__()
        self.query_norm = HeadNorm(head_size)
        self.key_norm = HeadNorm(head_size)

    def construct(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


class Modulation(nn.Cell):
    """``count`` vectors (B, 1, D) float32 from the activated conditioning vector (B, D)."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.width = width
        self.lin = Linear(width, count * width)

    def construct(self, vec: Tensor) -> tuple[Tensor, ...]:
        return ops.split(F.cast(self.lin(vec), ms.float32)[:, None], self.width, -1)


class JointAttention(nn.Cell):
    """Rotates queries and keys and attends among all tokens: q, k, v (B, N, h, d) → (B, N, D).

    ``parallel`` may exchange tokens for heads before, and back after; the rotary tables are those of all tokens.
    """

    def __init__(self, half_rope: bool, parallel: nn.Cell):
        super().__init__()
        self.half_rope, self.parallel = half_rope, parallel

    def construct(self, q: Tensor, k: Tensor, v: Tensor, rope: Rope, size: Size) -> Tensor:
        batch, length, heads, _ = q.shape
        parts = self.parallel.before_attention(tuple([x[:, None, :, None] for x in (q, k, v)]), "space", size)
        q, k, v = tuple([x[:, 0, :, 0] for x in parts])
        cos, sin = self.parallel.positions(rope[0], size), self.parallel.positions(rope[1], size)
        if self.half_rope:
            q, k = F.apply_rope_half(q, cos, sin), F.apply_rope_half(k, cos, sin)
        else:
            q, k = F.apply_rope_interleaved(q, cos, sin), F.apply_rope_interleaved(k, cos, sin)
        out = self.parallel.attention(q, k, v, size)[:, None]
        return self.parallel.after_attention(out, "space", size, heads).reshape(batch, length, -1)


class StreamAttention(nn.Cell):
    """What one stream adds to the joint attention: its projections to normed queries, keys and values, and back.

    Called, it gives q, k and v (B, N, h, d) of tokens (B, N, D); ``proj`` is applied to what was attended.
    """

    def __init__(self, width: int, num_heads: int, fused: bool, qkv_bias: bool):
        super().__init__()
        self.num_heads, self.fused = num_heads, fused
        if fused:
            self.qkv = Linear(width, 3 * width, qkv_bias)
        else:
            self.q_proj = Linear(width, width, qkv_bias)
            self.k_proj = Linear(width, width, qkv_bias)
            self.v_proj = Linear(width, width, qkv_bias)
        self.norm = QKNorm(width // num_heads)
        self.proj = Linear(width, width)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.fused:
            q, k, v = ops.split(self.qkv(x), x.shape[-1], -1)
        else:
            q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k = self.norm(to_heads(q, self.num_heads), to_heads(k, self.num_heads))
        return q, k, to_heads(v, self.num_heads)


class DoubleStreamBlock(nn.Cell):
    """Image and text with weights of their own, which meet in one attention over text and image tokens."""

    def __init__(self, width: int, num_heads: int, mlp_size: int, fused: bool, qkv_bias: bool, attention: nn.Cell):
        super().__init__()
        self.attention = attention
        self.img_mod = Modulation(width, 6)
        self.img_attn = StreamAttention(width, num_heads, fused, qkv_bias)
        self.img_mlp = _mlp(width, mlp_size)
        self.txt_mod = Modulation(width, 6)
        self.txt_attn = StreamAttention(width, num_heads, fused, qkv_bias)
        self.txt_mlp = _mlp(width, mlp_size)

    def construct(self, img: Tensor, txt: Tensor, vec: Tensor, rope: Rope, size: Size) -> tuple[Tensor, Tensor]:
        """img (B, N, D), txt (B, L, D), vec (B, D) activated, rope of text and image tokens."""
        img_mod, txt_mod = self.img_mod(vec), self.txt_mod(vec)
        img_q, img_k, img_v = self.img_attn(F.modulated_norm(img, img_mod[0], img_mod[1]))
        txt_q, txt_k, txt_v = self.txt_attn(F.modulated_norm(txt, txt_mod[0], txt_mod[1]))
        q, k, v = ops.concat((txt_q, img_q), 1), ops.concat((txt_k, img_k), 1), ops.concat((txt_v, img_v), 1)
        out = self.attention(q, k, v, rope, size)
        length = txt.shape[1]
        img = F.gated_sum(img, img_mod[2], self.img_attn.proj(out[:, length:]))
        img = F.gated_sum(img, img_mod[5], self.img_mlp(F.modulated_norm(img, img_mod[3], img_mod[4])))
        txt = F.gated_sum(txt, txt_mod[2], self.txt_attn.proj(out[:, :length]))
        txt = F.gated_sum(txt, txt_mod[5], self.txt_mlp(F.modulated_norm(txt, txt_mod[3], txt_mod[4])))
        return img, txt


class SingleStreamBlock(nn.Cell):
    """Attention and MLP side by side on text and image tokens, joined by ``linear2``.

    ``linear1`` gives queries, keys, values and the MLP's input; split, ``v_mlp`` gives the last two.
    """

    def __init__(self, width: int, num_heads: int, mlp_size: int, fused: bool, attention: nn.Cell):
        super().__init__()
        self.num_heads, self.mlp_size, self.fused, self.attention = num_heads, mlp_size, fused, attention
        if fused:
            self.linear1 = Linear(width, 3 * width + mlp_size)
        else:
            self.q_proj = Linear(width, width)
            self.k_proj = Linear(width, width)
            self.v_mlp = Linear(width, width + mlp_size)
        self.linear2 = Linear(width + mlp_size, width)
        self.norm = QKNorm(width // num_heads)
        self.modulation = Modulation(width, 3)

    def construct(self, x: Tensor, vec: Tensor, rope: Rope, size: Size) -> Tensor:
        """x (B, L + N, D) with the text first, vec (B, D) activated."""
        shift, scale, gate = self.modulation(vec)
        y, width = F.modulated_norm(x, shift, scale), x.shape[-1]
        if self.fused:
            q, k, v, mlp = ops.split(self.linear1(y), (width, width, width, self.mlp_size), -1)
        else:
            q, k = self.q_proj(y), self.k_proj(y)
            v, mlp = ops.split(self.v_mlp(y), (width, self.mlp_size), -1)
        q, k = self.norm(to_heads(q, self.num_heads), to_heads(k, self.num_heads))
        out = self.attention(q, k, to_heads(v, self.num_heads), rope, size)
        return F.gated_sum(x, gate, self.linear2(ops.concat((out, F.gelu_tanh(mlp)), -1)))


class FinalProjection(nn.Cell):
    """Modulated norm and projection of tokens: (B, N, D) → (B, N, out)."""

    def __init__(self, width: int, out_features: int):
        super().__init__()
        self.linear = Linear(width, out_features)
        self.adaLN_modulation = nn.CellList([SiLU(), Linear(width, 2 * width)])

    def construct(self, x: Tensor, vec: Tensor) -> Tensor:
        """``vec`` (B, D) activated."""
        vectors = F.cast(self.adaLN_modulation[1](vec), ms.float32)[:, None]
        shift, scale = ops.split(vectors, x.shape[-1], -1)
        return self.linear(F.modulated_norm(x, shift, scale))


def to_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, h * d) → (B, N, h, d)."""
    return x.reshape(x.shape[0], x.shape[1], num_heads, -1)


def _mlp(width: int, hidden: int) -> nn.SequentialCell:
    return nn.SequentialCell(Linear(width, hidden), GELU(), Linear(hidden, width))
