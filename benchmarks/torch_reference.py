"""PyTorch versions of the benchmarked networks, with the published parameter names.

They are the other side of `bench.py`: plain eager PyTorch with its own fused attention and convolutions. Nothing else
uses them, and PyTorch is no dependency of the library.

Legend: B batch, C channels, T frames, H/W height/width, S = H*W tokens of a frame, N = T*S, L text tokens, D hidden
size, h heads, d head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --- T5 --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class T5Settings:
    """Fields of the hub's config.json that the encoder reads."""

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


class T5Norm(nn.Module):
    """RMS norm with a weight: x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class T5Attention(nn.Module):
    """Self-attention without scaling, with an additive bias per head."""

    def __init__(self, config: T5Settings, has_bias_table: bool):
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q, self.k, self.v = (nn.Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if has_bias_table:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(out.transpose(1, 2).flatten(2))


class T5FeedForward(nn.Module):
    """Gated GELU (tanh form): wo(gelu(wi_0 x) * wi_1 x)."""

    def __init__(self, config: T5Settings):
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class T5Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: T5Settings, first: bool):
        super().__init__()
        norm = lambda: T5Norm(config.d_model, config.layer_norm_epsilon)  # noqa: E731
        attention = {"SelfAttention": T5Attention(config, first), "layer_norm": norm()}
        feed_forward = {"DenseReluDense": T5FeedForward(config), "layer_norm": norm()}
        self.layer = nn.ModuleList([nn.ModuleDict(attention), nn.ModuleDict(feed_forward)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        attention, feed_forward = self.layer
        x = x + attention["SelfAttention"](attention["layer_norm"](x), bias)
        return x + feed_forward["DenseReluDense"](feed_forward["layer_norm"](x))


class T5Encoder(nn.Module):
    """T5 v1.1 encoder: token ids (B, L), mask (B, L) -> (B, L, d_model)."""

    def __init__(self, config: T5Settings):
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = nn.Module()
        self.encoder.block = nn.ModuleList(T5Block(config, i == 0) for i in range(config.num_layers))
        self.encoder.final_layer_norm = T5Norm(config.d_model, config.layer_norm_epsilon)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        table = self.encoder.block[0].layer[0]["SelfAttention"].relative_attention_bias
        bias = table(self._buckets(input_ids.shape[1])).permute(2, 0, 1)[None]
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask[:, None, None] == 0, torch.finfo(bias.dtype).min)
        x = self.shared(input_ids)
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)

    def _buckets(self, length: int) -> Tensor:
        """Buckets (L, L) of key minus query position: exact below a quarter of the buckets, then logarithmic."""
        offset = torch.arange(length)[None] - torch.arange(length)[:, None]
        half = self.config.relative_attention_num_buckets // 2
        exact = half // 2
        distance = offset.abs()
        ratio = torch.log(distance.clamp(min=1).float() / exact)
        ratio = ratio / math.log(self.config.relative_attention_max_distance / exact)
        far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
        return torch.where(distance < exact, distance, far) + half * (offset > 0)


# --- STDiT3 ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class STDiT3Settings:
    """Constructor arguments of the 1.2 denoiser."""

    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    caption_channels: int = 4096
    model_max_length: int = 300
    in_channels: int = 4
    patch_size: Sequence[int] = (1, 2, 2)
    mlp_ratio: float = 4.0
    input_sq_size: int = 512
    pred_sigma: bool = True
    qk_norm: bool = True


def gelu_mlp(width_in: int, hidden: int, width_out: int) -> nn.ModuleDict:
    return nn.ModuleDict({"fc1": nn.Linear(width_in, hidden), "fc2": nn.Linear(hidden, width_out)})


def run_mlp(mlp: nn.ModuleDict, x: Tensor) -> Tensor:
    return mlp["fc2"](F.gelu(mlp["fc1"](x), approximate="tanh"))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def sinusoid(values: Tensor, dim: int = 256) -> Tensor:
    """Cosines then sines of values * 10000^(-k / (dim / 2)): (B,) -> (B, dim)."""
    half = dim // 2
    angles = values.float()[:, None] * torch.exp(-math.log(1e4) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], -1)


def position_table(height: int, width: int, dim: int, scale: float, base: int) -> Tensor:
    """(1, H*W, dim): [sin w, cos w, sin h, cos h] of coordinates index / scale * base / size."""
    frequencies = 1e4 ** (-torch.arange(0, dim // 2, 2).float() / (dim // 2))

    def axis(size: int) -> Tensor:
        angles = (torch.arange(size) / scale * base / size)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], -1)

    rows, columns = axis(height)[:, None].expand(-1, width, -1), axis(width)[None].expand(height, -1, -1)
    return torch.cat([columns, rows], -1).reshape(1, height * width, dim)


def rotate(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotary embedding of (..., N, d) in neighbouring pairs."""
    angles = torch.arange(x.shape[-2]).float()[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


class SelfAttention(nn.Module):
    """Attention over axis 1 with RMS-normed queries and keys, then (or before that) an optional rotation."""

    def __init__(self, dim: int, heads: int, qk_norm: bool, rope_first: bool = False):
        super().__init__()
        self.heads, self.rope_first = heads, rope_first
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = (T5Norm(dim // heads) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, frequencies: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if not self.rope_first:
            q, k = self.q_norm(q), self.k_norm(k)
        if frequencies is not None:
            q, k = rotate(q, frequencies), rotate(k, frequencies)
        if self.rope_first:
            q, k = self.q_norm(q), self.k_norm(k)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Video tokens (B, N, D) attend to text (B, L, D) where mask (B, L) is 1."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_linear, self.kv_linear, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        q = self.q_linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv_linear(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        allowed = None if mask is None else mask[:, None, None].bool()
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2))


class STDiT3Block(nn.Module):
    """Gated self-attention within frames (or along time), plain cross-attention, gated MLP."""

    def __init__(self, config: STDiT3Settings, temporal: bool):
        super().__init__()
        dim = config.hidden_size
        self.temporal = temporal
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attn = SelfAttention(dim, config.num_heads, config.qk_norm)
        self.cross_attn = CrossAttention(dim, config.num_heads)
        self.mlp = gelu_mlp(dim, int(dim * config.mlp_ratio), dim)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None, t: Tensor, frames: int, freqs: Tensor) -> Tensor:
        table = (self.scale_shift_table[None] + t.unflatten(-1, (6, -1))).chunk(6, dim=1)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = table
        x = x + gate * self._attend(modulate(x, shift, scale), frames, freqs)
        x = x + self.cross_attn(x, text, mask)
        return x + gate_mlp * run_mlp(self.mlp, modulate(x, shift_mlp, scale_mlp))

    def _attend(self, x: Tensor, frames: int, freqs: Tensor) -> Tensor:
        batch = x.shape[0]
        x = x.unflatten(1, (frames, -1))  # (B, T, S, D)
        if not self.temporal:
            return self.attn(x.flatten(0, 1)).unflatten(0, (batch, frames)).flatten(1, 2)
        out = self.attn(x.transpose(1, 2).flatten(0, 1), freqs)
        return out.unflatten(0, (batch, -1)).transpose(1, 2).flatten(1, 2)


class STDiT3(nn.Module):
    """The 1.2 denoiser: latents (B, C, T, H, W) and text (B, 1, L, caption_channels) -> (B, C or 2C, T, H, W)."""

    def __init__(self, config: STDiT3Settings):
        super().__init__()
        self.config = config
        dim = config.hidden_size
        self.out_channels = config.in_channels * (2 if config.pred_sigma else 1)
        self.rope = nn.Module()
        head = dim // config.num_heads
        self.rope.freqs = nn.Parameter(1e4 ** (-torch.arange(0, head, 2).float() / head), requires_grad=False)
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv3d(config.in_channels, dim, config.patch_size, config.patch_size)
        self.t_embedder, self.fps_embedder = self._scalar_embedder(dim), self._scalar_embedder(dim)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = nn.Module()
        self.y_embedder.y_proj = gelu_mlp(config.caption_channels, dim, dim)
        null = torch.randn(config.model_max_length, config.caption_channels) / config.caption_channels**0.5
        self.y_embedder.register_buffer("y_embedding", null)
        self.spatial_blocks = nn.ModuleList(STDiT3Block(config, False) for _ in range(config.depth))
        self.temporal_blocks = nn.ModuleList(STDiT3Block(config, True) for _ in range(config.depth))
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(dim, math.prod(config.patch_size) * self.out_channels)
        self.final_layer.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)

    @staticmethod
    def _scalar_embedder(dim: int) -> nn.ModuleDict:
        return nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))})

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        fps: Tensor | None = None,
        height: Tensor | None = None,
        width: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Tensor:
        size = x.shape[2:]
        patch = self.config.patch_size
        x = F.pad(x, [n for s, p in zip(size[::-1], patch[::-1]) for n in (0, -s % p)])
        frames, rows, columns = (s // p for s, p in zip(x.shape[2:], patch))
        x = self.x_embedder.proj(x).flatten(3).permute(0, 2, 3, 1)  # (B, T, S, D)
        scale = (float(height[0]) * float(width[0])) ** 0.5 / self.config.input_sq_size
        x = x + position_table(rows, columns, x.shape[-1], scale, round((rows * columns) ** 0.5))
        x = x.flatten(1, 2)
        batch = x.shape[0]
        fps = fps.repeat(batch // len(fps))
        t = self.t_embedder["mlp"](sinusoid(timestep)) + self.fps_embedder["mlp"](sinusoid(fps))
        if drop is not None:
            y = torch.where(drop[:, None, None, None], self.y_embedder.y_embedding[None, None], y)
        text = run_mlp(self.y_embedder.y_proj, y[:, 0])
        if mask is not None:
            mask = mask.repeat(batch // len(mask), 1)
        t_mlp = self.t_block(t)
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks):
            x = spatial(x, text, mask, t_mlp, frames, self.rope.freqs)
            x = temporal(x, text, mask, t_mlp, frames, self.rope.freqs)
        shift, scale = (self.final_layer.scale_shift_table[None] + t[:, None]).chunk(2, dim=1)
        x = self.final_layer.linear(modulate(x, shift, scale))
        return self._unpatchify(x, (frames, rows, columns))[:, :, : size[0], : size[1], : size[2]]

    def _unpatchify(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        x = x.reshape(len(x), *grid, *self.config.patch_size, self.out_channels)
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.reshape(*x.shape[:2], *(g * p for g, p in zip(grid, self.config.patch_size)))
