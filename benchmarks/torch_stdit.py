"""PyTorch versions of the denoisers of Open-Sora 1.0 and 1.1, as `torch_reference` has that of 1.2.

Legend: as there; tensors of tokens are (B, T, S, D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_reference import CrossAttention, SelfAttention, gelu_mlp, modulate, position_table, run_mlp, sinusoid


@dataclass(frozen=True)
class STDiTSettings:
    """Constructor arguments of the 1.0 denoiser."""

    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    caption_channels: int = 4096
    model_max_length: int = 120
    in_channels: int = 4
    patch_size: Sequence[int] = (1, 2, 2)
    mlp_ratio: float = 4.0
    pred_sigma: bool = True
    space_scale: float = 1.0
    time_scale: float = 1.0


@dataclass(frozen=True)
class STDiT2Settings(STDiTSettings):
    """Constructor arguments of the 1.1 denoiser."""

    model_max_length: int = 200
    input_sq_size: int = 512
    qk_norm: bool = True


def scalar_embedder(dim: int) -> nn.ModuleDict:
    return nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))})


def embed(embedder: nn.ModuleDict, values: Tensor) -> Tensor:
    return embedder["mlp"](sinusoid(values))


def index_table(length: int, dim: int, scale: float) -> Tensor:
    """(length, dim): sines, then cosines of index / scale."""
    angles = torch.arange(length)[:, None] / scale * 1e4 ** (-torch.arange(0, dim, 2).float() / dim)
    return torch.cat([angles.sin(), angles.cos()], -1)


class Block(nn.Module):
    """Attention within frames, attention along time, plain cross-attention, gated MLP."""

    def __init__(self, config: STDiTSettings, qk_norm: bool = False):
        super().__init__()
        dim, heads = config.hidden_size, config.num_heads
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attn, self.attn_temp = (SelfAttention(dim, heads, qk_norm, rope_first=True) for _ in range(2))
        self.cross_attn = CrossAttention(dim, heads)
        self.mlp = gelu_mlp(dim, int(dim * config.mlp_ratio), dim)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None, t: Tensor, temporal: object) -> Tensor:
        shape = x.shape
        vectors = self.scale_shift_table + t.unflatten(-1, (6, -1))[:, None]  # (B, 1, 6, D)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = vectors.chunk(6, dim=2)
        x = x + gate * self.attn(modulate(x, shift, scale).flatten(0, 1)).view(shape)
        x = self.attend_over_time(x, gate, temporal)
        x = x + self.cross_attn(x.flatten(1, 2), text, mask).view(shape)
        return x + gate_mlp * run_mlp(self.mlp, modulate(x, shift_mlp, scale_mlp))

    def attend_over_time(self, x: Tensor, gate: Tensor, positions: Tensor | None) -> Tensor:
        """Raw stream, with positions (T, D) in the first block, and the gate of the attention within frames."""
        placed = x if positions is None else x + positions[:, None]
        return x + gate * self.along_time(placed)

    def along_time(self, x: Tensor, frequencies: Tensor | None = None) -> Tensor:
        batch, frames, places, dim = x.shape
        out = self.attn_temp(x.transpose(1, 2).reshape(-1, frames, dim), frequencies)
        return out.view(batch, places, frames, dim).transpose(1, 2)


class Block2(Block):
    """The temporal attention has a norm, a modulation and a gate of its own, and rotates queries and keys."""

    def __init__(self, config: STDiT2Settings):
        super().__init__(config, config.qk_norm)
        self.scale_shift_table_temporal = nn.Parameter(torch.randn(3, config.hidden_size) / config.hidden_size**0.5)

    def attend_over_time(self, x: Tensor, gate: Tensor, temporal: tuple[Tensor, Tensor]) -> Tensor:
        t, frequencies = temporal
        vectors = self.scale_shift_table_temporal + t.unflatten(-1, (3, -1))[:, None]
        shift, scale, gate = vectors.chunk(3, dim=2)
        return x + gate * self.along_time(modulate(x, shift, scale), frequencies)


class STDiT(nn.Module):
    """The 1.0 denoiser: latents (B, C, T, H, W) and text (B, 1, L, caption_channels) -> (B, C or 2C, T, H, W)."""

    def __init__(self, config: STDiTSettings):
        super().__init__()
        self.config = config
        dim = config.hidden_size
        self.out_channels = config.in_channels * (2 if config.pred_sigma else 1)
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv3d(config.in_channels, dim, config.patch_size, config.patch_size)
        self.t_embedder = scalar_embedder(dim)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = nn.Module()
        self.y_embedder.y_proj = gelu_mlp(config.caption_channels, dim, dim)
        null = torch.randn(config.model_max_length, config.caption_channels) / config.caption_channels**0.5
        self.y_embedder.register_buffer("y_embedding", null)
        self.blocks = nn.ModuleList(self.block() for _ in range(config.depth))
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(dim, math.prod(config.patch_size) * self.out_channels)
        self.final_layer.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)

    def block(self) -> Block:
        return Block(self.config)

    def forward(self, x: Tensor, timestep: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        size, (x, grid) = x.shape[2:], self.tokens(x)
        t = embed(self.t_embedder, timestep)
        x = x + self.positions(grid)
        text, t_mlp, width = run_mlp(self.y_embedder.y_proj, y[:, 0]), self.t_block(t), x.shape[-1]
        in_time = index_table(grid[0], width, self.config.time_scale)
        for i, block in enumerate(self.blocks):
            x = block(x, text, mask, t_mlp, in_time if i == 0 else None)
        return self.latents(x, t, grid, size)

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        patch = self.config.patch_size
        x = F.pad(x, [n for s, p in zip(x.shape[:1:-1], patch[::-1]) for n in (0, -s % p)])
        grid = tuple(s // p for s, p in zip(x.shape[2:], patch))
        return self.x_embedder.proj(x).flatten(3).permute(0, 2, 3, 1), grid

    def positions(self, grid: Sequence[int]) -> Tensor:
        _, rows, columns = grid
        by_row, by_column = (index_table(n, self.config.hidden_size // 2, self.config.space_scale) for n in grid[1:])
        pair = by_column[None].expand(rows, -1, -1), by_row[:, None].expand(-1, columns, -1)
        return torch.cat(pair, -1).flatten(0, 1)

    def latents(self, x: Tensor, t: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
        shift, scale = (self.final_layer.scale_shift_table + t[:, None, None]).chunk(2, dim=2)
        x = self.final_layer.linear(modulate(x, shift, scale))
        x = x.reshape(len(x), *grid, *self.config.patch_size, self.out_channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
        x = x.reshape(*x.shape[:2], *(g * p for g, p in zip(grid, self.config.patch_size)))
        return x[:, :, : size[0], : size[1], : size[2]]


class STDiT2(STDiT):
    """The 1.1 denoiser, without given frames."""

    def __init__(self, config: STDiT2Settings):
        super().__init__(config)
        dim, head = config.hidden_size, config.hidden_size // config.num_heads
        self.rope = nn.Module()
        self.rope.freqs = nn.Parameter(1e4 ** (-torch.arange(0, head, 2).float() / head), requires_grad=False)
        self.t_block_temp = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.csize_embedder, self.ar_embedder = scalar_embedder(dim // 3), scalar_embedder(dim // 3)
        self.fl_embedder, self.fps_embedder = scalar_embedder(dim), scalar_embedder(dim)

    def block(self) -> Block2:
        return Block2(self.config)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None,
        num_frames: Tensor,
        height: Tensor,
        width: Tensor,
        ar: Tensor,
        fps: Tensor,
    ) -> Tensor:
        size, (x, grid) = x.shape[2:], self.tokens(x)
        t = embed(self.t_embedder, timestep)
        sides = (embed(self.csize_embedder, height), embed(self.csize_embedder, width), embed(self.ar_embedder, ar))
        t_mlp = self.t_block(t + torch.cat(sides, -1))
        over_time = self.t_block_temp(t + embed(self.fl_embedder, num_frames) + embed(self.fps_embedder, fps))
        scale = (float(height[0]) * float(width[0])) ** 0.5 / self.config.input_sq_size
        x = x + position_table(*grid[1:], x.shape[-1], scale, round((grid[1] * grid[2]) ** 0.5))
        text = run_mlp(self.y_embedder.y_proj, y[:, 0])
        for block in self.blocks:
            x = block(x, text, mask, t_mlp, (over_time, self.rope.freqs))
        return self.latents(x, t, grid, size)
