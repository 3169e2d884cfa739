"""PyTorch versions of the benchmarked networks, with the published parameter names.

They are the other side of `bench.py`: plain eager PyTorch with its own fused attention and convolutions. Nothing else
uses them, and PyTorch is no dependency of the library.

Legend: B batch, C channels, T frames, H/W height/width, S = H*W tokens of a frame, N = T*S, L text tokens, D hidden
size, h heads, d head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    """Attention over axis 1 with RMS-normed queries and keys, then an optional rotation."""

    def __init__(self, dim: int, heads: int, qk_norm: bool):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = (T5Norm(dim // heads) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, frequencies: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if frequencies is not None:
            q, k = rotate(q, frequencies), rotate(k, frequencies)
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


# --- image autoencoder -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AutoencoderKLSettings:
    """Settings of the frame-wise autoencoder."""

    block_out_channels: Sequence[int] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, 3x3, twice, plus a shortcut."""

    def __init__(self, width_in: int, width_out: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, width_in, 1e-6), nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, width_out, 1e-6), nn.Conv2d(width_out, width_out, 3, padding=1)
        if width_in != width_out:
            self.conv_shortcut = nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class MidAttention(nn.Module):
    """Single-head attention over all pixels of a frame."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, 1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]
        out = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out[0](out)[:, 0].transpose(1, 2).reshape(x.shape)


def mid_block(width: int, groups: int) -> nn.ModuleDict:
    resnets = nn.ModuleList(ResnetBlock(width, width, groups) for _ in range(2))
    return nn.ModuleDict({"resnets": resnets, "attentions": nn.ModuleList([MidAttention(width, groups)])})


def run_mid_block(block: nn.ModuleDict, x: Tensor) -> Tensor:
    return block["resnets"][1](block["attentions"][0](block["resnets"][0](x)))


def level(width_in: int, width_out: int, layers: int, groups: int, resampler: str | None) -> nn.ModuleDict:
    """The residual blocks of one resolution, and the convolution that changes it."""
    widths = [width_in] + [width_out] * layers
    parts = {"resnets": nn.ModuleList(ResnetBlock(a, b, groups) for a, b in zip(widths, widths[1:]))}
    if resampler:
        stride, padding = (2, 0) if resampler == "downsamplers" else (1, 1)
        conv = nn.Conv2d(width_out, width_out, 3, stride, padding)
        parts[resampler] = nn.ModuleList([nn.ModuleDict({"conv": conv})])
    return nn.ModuleDict(parts)


class ImageEncoder(nn.Module):
    """(B, 3, H, W) -> moments (B, 2 * latent_channels, H/8, W/8)."""

    def __init__(self, config: AutoencoderKLSettings):
        super().__init__()
        widths, groups = list(config.block_out_channels), config.norm_num_groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        samplers = ["downsamplers"] * (len(widths) - 1) + [None]
        pairs = zip([widths[0]] + widths, widths, samplers)
        self.down_blocks = nn.ModuleList(level(a, b, config.layers_per_block, groups, s) for a, b, s in pairs)
        self.mid_block = mid_block(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            for resnet in block["resnets"]:
                x = resnet(x)
            if "downsamplers" in block:
                x = block["downsamplers"][0]["conv"](F.pad(x, (0, 1, 0, 1)))
        return self.conv_out(F.silu(self.conv_norm_out(run_mid_block(self.mid_block, x))))


class ImageDecoder(nn.Module):
    """(B, latent_channels, h, w) -> (B, 3, 8h, 8w)."""

    def __init__(self, config: AutoencoderKLSettings):
        super().__init__()
        widths, groups = list(config.block_out_channels)[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = mid_block(widths[0], groups)
        samplers = ["upsamplers"] * (len(widths) - 1) + [None]
        pairs = zip([widths[0]] + widths, widths, samplers)
        self.up_blocks = nn.ModuleList(level(a, b, config.layers_per_block + 1, groups, s) for a, b, s in pairs)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = run_mid_block(self.mid_block, self.conv_in(z))
        for block in self.up_blocks:
            for resnet in block["resnets"]:
                x = resnet(x)
            if "upsamplers" in block:
                x = block["upsamplers"][0]["conv"](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module):
    """The image autoencoder; frames are images."""

    def __init__(self, config: AutoencoderKLSettings):
        super().__init__()
        self.encoder, self.decoder = ImageEncoder(config), ImageDecoder(config)
        channels = config.latent_channels
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))


# --- video autoencoder -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TemporalSettings:
    """Settings of the temporal autoencoder, which sees the image autoencoder's latents."""

    filters: int = 128
    num_res_blocks: int = 4
    channel_multipliers: Sequence[int] = (1, 2, 2, 4)
    temporal_downsample: Sequence[bool] = (False, True, True)
    num_groups: int = 32
    in_out_channels: int = 4
    embed_dim: int = 4


class CausalConv3d(nn.Module):
    """Convolution that sees no later frame: zeros in front of time, half the kernel around height and width."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int = 1, bias: bool = True):
        super().__init__()
        self.conv = nn.Conv3d(width_in, width_out, kernel, (stride, 1, 1), bias=bias)
        self.padding = (kernel // 2,) * 4 + (kernel - 1 + 1 - stride, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class TemporalResBlock(nn.Module):
    """GroupNorm, SiLU, causal 3x3x3, twice, plus a shortcut."""

    def __init__(self, width_in: int, width_out: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, width_in), CausalConv3d(width_in, width_out, 3, bias=False)
        self.norm2, self.conv2 = nn.GroupNorm(groups, width_out), CausalConv3d(width_out, width_out, 3, bias=False)
        if width_in != width_out:
            self.conv3 = CausalConv3d(width_in, width_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv3(x) if hasattr(self, "conv3") else x)


def chain(width_in: int, width_out: int, count: int, groups: int) -> nn.Sequential:
    widths = [width_in] + [width_out] * count
    return nn.Sequential(*(TemporalResBlock(a, b, groups) for a, b in zip(widths, widths[1:])))


class TemporalEncoder(nn.Module):
    """(B, C, T, h, w) -> (B, 2 * embed_dim, T/4, h, w)."""

    def __init__(self, config: TemporalSettings):
        super().__init__()
        widths, groups = [config.filters * m for m in config.channel_multipliers], config.num_groups
        self.conv_in = CausalConv3d(config.in_out_channels, widths[0], 3, bias=False)
        self.block_res_blocks = nn.ModuleList(
            chain(a, b, config.num_res_blocks, groups) for a, b in zip([widths[0]] + widths, widths)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, 2) if halve else nn.Identity()
            for width, halve in zip(widths, config.temporal_downsample)
        )
        self.res_blocks = chain(widths[-1], widths[-1], config.num_res_blocks, groups)
        self.norm1 = nn.GroupNorm(groups, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], 2 * config.embed_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for i, blocks in enumerate(self.block_res_blocks):
            x = blocks(x)
            if i < len(self.conv_blocks):
                x = self.conv_blocks[i](x)
        return self.conv2(F.silu(self.norm1(self.res_blocks(x))))


class TemporalDecoder(nn.Module):
    """(B, embed_dim, T, h, w) -> (B, C, 4T, h, w)."""

    def __init__(self, config: TemporalSettings):
        super().__init__()
        widths, groups = [config.filters * m for m in config.channel_multipliers], config.num_groups
        self.conv1 = CausalConv3d(config.embed_dim, widths[-1], 3)
        self.res_blocks = chain(widths[-1], widths[-1], config.num_res_blocks, groups)
        inputs = widths[1:] + widths[-1:]
        self.block_res_blocks = nn.ModuleList(
            chain(a, b, config.num_res_blocks, groups) for a, b in zip(inputs, widths)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width, 3) if double else nn.Identity()
            for width, double in zip(widths[1:], config.temporal_downsample)
        )
        self.norm1 = nn.GroupNorm(groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], config.in_out_channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.res_blocks(self.conv1(z))
        for i in reversed(range(len(self.block_res_blocks))):
            x = self.block_res_blocks[i](x)
            if i > 0 and isinstance(self.conv_blocks[i - 1], CausalConv3d):
                y = self.conv_blocks[i - 1](x)  # (B, 2C, T, h, w), the two frames fastest
                x = y.unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5).flatten(2, 3)
        return self.conv_out(F.silu(self.norm1(x)))


class TemporalAutoencoder(nn.Module):
    """Halves time per downsampling level; missing frames are zeros in front."""

    def __init__(self, config: TemporalSettings):
        super().__init__()
        self.factor = 2 ** sum(config.temporal_downsample)
        self.encoder, self.decoder = TemporalEncoder(config), TemporalDecoder(config)
        self.quant_conv = CausalConv3d(2 * config.embed_dim, 2 * config.embed_dim, 1)
        self.post_quant_conv = CausalConv3d(config.embed_dim, config.embed_dim, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % self.factor, 0))
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        return self.decoder(self.post_quant_conv(z))[:, :, -num_frames % self.factor :]


@dataclass(frozen=True)
class VideoAutoencoderSettings:
    """Both parts, and the normalisation between them and the denoiser."""

    image: AutoencoderKLSettings = field(default_factory=AutoencoderKLSettings)
    temporal: TemporalSettings = field(default_factory=TemporalSettings)
    shift: Sequence[float] = (-0.10, 0.34, 0.27, 0.98)
    scale: Sequence[float] = (3.85, 2.32, 2.33, 3.06)
    chunk: int = 17


class VideoAutoencoder(nn.Module):
    """The 1.2 autoencoder: images, then time, in chunks of 17 frames; posteriors use their mean."""

    IMAGE_SCALE = 0.18215

    def __init__(self, config: VideoAutoencoderSettings):
        super().__init__()
        self.chunk = config.chunk
        self.spatial_vae = nn.ModuleDict({"module": AutoencoderKL(config.image)})
        self.temporal_vae = TemporalAutoencoder(config.temporal)
        self.register_buffer("shift", torch.tensor(config.shift)[None, :, None, None, None])
        self.register_buffer("scale", torch.tensor(config.scale)[None, :, None, None, None])

    def encode(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2).flatten(0, 1)
        z = self.spatial_vae["module"].encode(frames)[0] * self.IMAGE_SCALE
        z = z.unflatten(0, (len(x), -1)).transpose(1, 2)
        means = [self.temporal_vae.encode(part)[0] for part in z.split(self.chunk, dim=2)]
        return (torch.cat(means, dim=2) - self.shift) / self.scale

    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        z = z * self.scale + self.shift
        parts, step = [], -(-self.chunk // self.temporal_vae.factor)
        for i, part in enumerate(z.split(step, dim=2)):
            parts.append(self.temporal_vae.decode(part, min(self.chunk, num_frames - i * self.chunk)))
        x = torch.cat(parts, dim=2)
        frames = self.spatial_vae["module"].decode(x.transpose(1, 2).flatten(0, 1) / self.IMAGE_SCALE)
        return frames.unflatten(0, (len(z), -1)).transpose(1, 2)
