"""The autoencoders of Open-Sora 2.0 in plain eager PyTorch, for the benchmarks; names are the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def grouped(width: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, width, 1e-6)


# --- Flux ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FluxSettings:
    """Settings of the image autoencoder of Flux."""

    ch: int = 128
    ch_mult: Sequence[int] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16


class FluxResnet(nn.Module):
    """GroupNorm, SiLU, 3x3, twice, plus a shortcut."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.norm1, self.conv1 = grouped(a, 32), nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.conv2 = grouped(b, 32), nn.Conv2d(b, b, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(a, b, 1) if a != b else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + self.nin_shortcut(x)


class FluxAttention(nn.Module):
    """Single-head attention over the pixels of an image."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = grouped(width, 32)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj_out(out.reshape(x.shape))


def flux_mid(width: int) -> nn.ModuleDict:
    parts = {"block_1": FluxResnet(width, width), "attn_1": FluxAttention(width)}
    return nn.ModuleDict({**parts, "block_2": FluxResnet(width, width)})


def flux_level(a: int, b: int, count: int, name: str, conv: nn.Module | None) -> nn.ModuleDict:
    widths = [a] + [b] * count
    parts = {"block": nn.ModuleList(FluxResnet(*pair) for pair in zip(widths, widths[1:]))}
    if conv is not None:
        parts[name] = nn.ModuleDict({"conv": conv})
    return nn.ModuleDict(parts)


class FluxEncoder(nn.Module):
    """Images to moments."""

    def __init__(self, c: FluxSettings):
        super().__init__()
        widths = [c.ch * m for m in c.ch_mult]
        halve = [nn.Conv2d(w, w, 3, 2) for w in widths[:-1]] + [None]
        self.conv_in = nn.Conv2d(3, c.ch, 3, padding=1)
        rows = zip([c.ch] + widths, widths, halve)
        self.down = nn.ModuleList(flux_level(a, b, c.num_res_blocks, "downsample", conv) for a, b, conv in rows)
        self.mid = flux_mid(widths[-1])
        self.norm_out, self.conv_out = grouped(widths[-1], 32), nn.Conv2d(widths[-1], 2 * c.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            for block in level["block"]:
                x = block(x)
            if "downsample" in level:
                x = level["downsample"]["conv"](F.pad(x, (0, 1, 0, 1)))
        for part in self.mid.values():
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class FluxDecoder(nn.Module):
    """Latents to images."""

    def __init__(self, c: FluxSettings):
        super().__init__()
        widths = [c.ch * m for m in c.ch_mult]
        double = [None] + [nn.Conv2d(w, w, 3, padding=1) for w in widths[1:]]
        self.conv_in = nn.Conv2d(c.z_channels, widths[-1], 3, padding=1)
        self.mid = flux_mid(widths[-1])
        rows = zip(widths[1:] + widths[-1:], widths, double)
        self.up = nn.ModuleList(flux_level(a, b, c.num_res_blocks + 1, "upsample", conv) for a, b, conv in rows)
        self.norm_out, self.conv_out = grouped(widths[0], 32), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for part in self.mid.values():
            x = part(x)
        for level in reversed(self.up):
            for block in level["block"]:
                x = block(x)
            if "upsample" in level:
                x = level["upsample"]["conv"](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))


class FluxAutoencoder(nn.Module):
    """Frames are images."""

    def __init__(self, config: FluxSettings):
        super().__init__()
        self.encoder, self.decoder = FluxEncoder(config), FluxDecoder(config)

    def encode(self, x: Tensor) -> Tensor:
        mean = self.encoder(x.transpose(1, 2).flatten(0, 1)).chunk(2, 1)[0]
        return mean.unflatten(0, (len(x), -1)).transpose(1, 2)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(z), -1)).transpose(1, 2)


# --- the causal autoencoder ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CausalSettings:
    """Settings of HunyuanVideo's autoencoder, four levels, 4 x 8 x 8."""

    block_out_channels: Sequence[int] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 16
    norm_num_groups: int = 32


FACTORS = ((1, 2, 2), (2, 2, 2), (2, 2, 2), None)


class EdgeConv(nn.Module):
    """Causal convolution that repeats the edges."""

    def __init__(self, a: int, b: int, kernel: int, stride: Sequence[int] = (1, 1, 1)):
        super().__init__()
        self.conv = nn.Conv3d(a, b, kernel, tuple(stride))
        self.padding = (kernel // 2,) * 4 + (kernel - 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding, mode="replicate"))


class CausalResnet(nn.Module):
    """GroupNorm, SiLU, 3x3x3, twice, plus a shortcut."""

    def __init__(self, a: int, b: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = grouped(a, groups), EdgeConv(a, b, 3)
        self.norm2, self.conv2 = grouped(b, groups), EdgeConv(b, b, 3)
        self.conv_shortcut = EdgeConv(a, b, 1) if a != b else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + self.conv_shortcut(x)


class CausalAttention(nn.Module):
    """Single-head attention to all positions of the same and of earlier frames."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.group_norm = grouped(width, groups)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]
        frame = torch.arange(tokens.shape[2]) // (x.shape[3] * x.shape[4])
        mask = frame[:, None] >= frame[None]
        out = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), mask)
        return x + self.to_out[0](out)[:, 0].transpose(1, 2).reshape(x.shape)


def causal_mid(width: int, groups: int) -> nn.ModuleDict:
    resnets = nn.ModuleList(CausalResnet(width, width, groups) for _ in range(2))
    return nn.ModuleDict({"resnets": resnets, "attentions": nn.ModuleList([CausalAttention(width, groups)])})


def causal_level(a: int, b: int, count: int, groups: int, name: str, conv: nn.Module | None) -> nn.ModuleDict:
    widths = [a] + [b] * count
    parts = {"resnets": nn.ModuleList(CausalResnet(*pair, groups) for pair in zip(widths, widths[1:]))}
    if conv is not None:
        parts[name] = nn.ModuleList([nn.ModuleDict({"conv": conv})])
    return nn.ModuleDict(parts)


def run_causal_mid(mid: nn.ModuleDict, x: Tensor) -> Tensor:
    return mid["resnets"][1](mid["attentions"][0](mid["resnets"][0](x)))


class CausalEncoder(nn.Module):
    """Videos to moments."""

    def __init__(self, c: CausalSettings):
        super().__init__()
        widths, groups = list(c.block_out_channels), c.norm_num_groups
        self.conv_in = EdgeConv(3, widths[0], 3)
        halve = [EdgeConv(w, w, 3, f) if f else None for w, f in zip(widths, FACTORS)]
        rows = zip(widths[:1] + widths, widths, halve)
        self.down_blocks = nn.ModuleList(
            causal_level(a, b, c.layers_per_block, groups, "downsamplers", conv) for a, b, conv in rows
        )
        self.mid_block = causal_mid(widths[-1], groups)
        self.conv_norm_out = grouped(widths[-1], groups)
        self.conv_out = EdgeConv(widths[-1], 2 * c.latent_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            for resnet in level["resnets"]:
                x = resnet(x)
            if "downsamplers" in level:
                x = level["downsamplers"][0]["conv"](x)
        return self.conv_out(F.silu(self.conv_norm_out(run_causal_mid(self.mid_block, x))))


class CausalDecoder(nn.Module):
    """Latents to videos; the first frame is repeated in space only."""

    def __init__(self, c: CausalSettings):
        super().__init__()
        widths, groups = list(c.block_out_channels)[::-1], c.norm_num_groups
        self.conv_in = EdgeConv(c.latent_channels, widths[0], 3)
        self.mid_block = causal_mid(widths[0], groups)
        double = [EdgeConv(w, w, 3) if f else None for w, f in zip(widths, FACTORS)]
        rows = zip(widths[:1] + widths, widths, double)
        self.up_blocks = nn.ModuleList(
            causal_level(a, b, c.layers_per_block + 1, groups, "upsamplers", conv) for a, b, conv in rows
        )
        self.conv_norm_out = grouped(widths[-1], groups)
        self.conv_out = EdgeConv(widths[-1], 3, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = run_causal_mid(self.mid_block, self.conv_in(z))
        for level, factors in zip(self.up_blocks, FACTORS):
            for resnet in level["resnets"]:
                x = resnet(x)
            if factors:
                first = F.interpolate(x[:, :, :1], scale_factor=(1.0, 2.0, 2.0), mode="nearest")
                scale = tuple(map(float, factors))
                rest = [F.interpolate(x[:, :, 1:], scale_factor=scale, mode="nearest")] if x.shape[2] > 1 else []
                x = level["upsamplers"][0]["conv"](torch.cat([first, *rest], 2))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class CausalAutoencoder(nn.Module):
    """1 + 4k frames to and from 1 + k latent frames."""

    def __init__(self, c: CausalSettings):
        super().__init__()
        self.encoder, self.decoder = CausalEncoder(c), CausalDecoder(c)
        self.quant_conv = nn.Conv3d(2 * c.latent_channels, 2 * c.latent_channels, 1)
        self.post_quant_conv = nn.Conv3d(c.latent_channels, c.latent_channels, 1)

    def encode(self, x: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(x)).chunk(2, 1)[0]

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))


# --- DC-AE -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeepSettings:
    """Settings of the deep-compression autoencoder; both halves have the same stages."""

    width_list: Sequence[int] = (128, 256, 512, 512, 1024, 1024)
    depth_list: Sequence[int] = (2, 2, 2, 3, 3, 3)
    transformer_from: int = 3
    temporal: Sequence[bool] = (False, False, False, True, True, False)
    latent_channels: int = 128


class ChannelNorm(nn.Module):
    """RMS norm over channels, with a bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5)
        return x * self.weight[:, None, None, None] + self.bias[:, None, None, None]


class Layer(nn.Module):
    """Convolution, then a norm or a SiLU."""

    def __init__(self, a, b, kernel=3, stride=(1, 1, 1), bias=True, groups=1, norm=False, act=False):
        super().__init__()
        self.conv = nn.Conv3d(a, b, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.norm = ChannelNorm(b) if norm else nn.Identity()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.silu(x) if self.act else x


class Mixing(nn.Module):
    """ReLU linear attention at two scales."""

    def __init__(self, width: int):
        super().__init__()
        wide = 3 * width
        self.qkv = Layer(width, wide, 1, bias=False)
        local = nn.Conv3d(wide, wide, 5, padding=2, groups=wide, bias=False)
        mix = nn.Conv3d(wide, wide, 1, groups=3 * (width // 32), bias=False)
        self.aggreg = nn.ModuleList([nn.Sequential(local, mix)])
        self.proj = Layer(2 * width, width, 1, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        heads = torch.cat([qkv, self.aggreg[0](qkv)], 1).flatten(2).unflatten(1, (-1, 96))
        q, k, v = heads.split(32, 2)
        q, k, v = q.relu(), k.relu(), F.pad(v, (0, 0, 0, 1), value=1.0)
        out = (v @ k.transpose(-1, -2)) @ q
        out = out[:, :, :-1] / (out[:, :, -1:] + 1e-15)
        return self.proj(out.reshape(len(x), -1, *x.shape[2:]))


class Gated(nn.Module):
    """Widening, depth-wise convolution, gate, narrowing."""

    def __init__(self, width: int):
        super().__init__()
        self.inverted_conv = Layer(width, 8 * width, 1, act=True)
        self.depth_conv = Layer(8 * width, 8 * width, groups=8 * width)
        self.point_conv = Layer(4 * width, width, 1, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.depth_conv(self.inverted_conv(x)).chunk(2, 1)
        return self.point_conv(x * F.silu(gate))


class Sum(nn.Module):
    """``main(x)`` plus a shortcut without parameters."""

    def __init__(self, main: nn.Module, shortcut=lambda x: x):
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class TransformerBlock(nn.Module):
    """Attention, then the gated convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.context_module, self.local_module = Sum(Mixing(width)), Sum(Gated(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.local_module(self.context_module(x))


class Ops(nn.Module):
    """One after another."""

    def __init__(self, cells: Sequence[nn.Module]):
        super().__init__()
        self.op_list = nn.Sequential(*cells)

    def forward(self, x: Tensor) -> Tensor:
        return self.op_list(x)


class Conv2(nn.Module):
    """The two convolutions of a residual block."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = Layer(width, width, act=True), Layer(width, width, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Enlarge(nn.Module):
    """Nearest neighbours, then a convolution."""

    def __init__(self, a: int, b: int, factors: Sequence[int]):
        super().__init__()
        self.factors, self.conv = tuple(map(float, factors)), Layer(a, b)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=self.factors, mode="nearest"))


def averaging(channels: int, factors: Sequence[int]):
    t, h, w = factors

    def shortcut(x: Tensor) -> Tensor:
        b, c, frames, height, width = x.shape
        x = x.reshape(b, c, frames // t, t, height // h, h, width // w, w).permute(0, 1, 3, 5, 7, 2, 4, 6)
        return x.reshape(b, channels, -1, frames // t, height // h, width // w).mean(2)

    return shortcut


def duplicating(channels: int, factors: Sequence[int]):
    t, h, w = factors

    def shortcut(x: Tensor) -> Tensor:
        x = x.repeat_interleave(channels * t * h * w // x.shape[1], 1)
        b, _, frames, height, width = x.shape
        x = x.reshape(b, channels, t, h, w, frames, height, width).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return x.reshape(b, channels, frames * t, height * h, width * w)

    return shortcut


def deep_blocks(c: DeepSettings, i: int) -> list[nn.Module]:
    width = c.width_list[i]
    make = TransformerBlock if i >= c.transformer_from else lambda width: Sum(Conv2(width))
    return [make(width) for _ in range(c.depth_list[i])]


class DeepEncoder(nn.Module):
    """Pixels to latents."""

    def __init__(self, c: DeepSettings):
        super().__init__()
        self.project_in = Layer(3, c.width_list[0])
        stages = []
        for i in range(len(c.width_list)):
            cells = deep_blocks(c, i)
            if i + 1 < len(c.width_list):
                (a, b), f = c.width_list[i : i + 2], (2 if c.temporal[i] else 1, 2, 2)
                cells.append(Sum(Layer(a, b, stride=f), averaging(b, f)))
            stages.append(Ops(cells))
        self.stages = nn.Sequential(*stages)
        last = Ops([Layer(c.width_list[-1], c.latent_channels)])
        self.project_out = Sum(last, averaging(c.latent_channels, (1, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.project_out(self.stages(self.project_in(x)))


class DeepDecoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, c: DeepSettings):
        super().__init__()
        first = Layer(c.latent_channels, c.width_list[-1])
        self.project_in = Sum(first, duplicating(c.width_list[-1], (1, 1, 1)))
        stages = []
        for i in range(len(c.width_list)):
            cells = deep_blocks(c, i)
            if i + 1 < len(c.width_list):
                (b, a), f = c.width_list[i : i + 2], (2 if c.temporal[i] else 1, 2, 2)
                cells.insert(0, Sum(Enlarge(a, b, f), duplicating(b, f)))
            stages.append(Ops(cells))
        self.stages = nn.ModuleList(stages)
        self.project_out = Ops([ChannelNorm(c.width_list[0]), nn.ReLU(), Layer(c.width_list[0], 3)])

    def forward(self, z: Tensor) -> Tensor:
        x = self.project_in(z)
        for stage in reversed(self.stages):
            x = stage(x)
        return self.project_out(x)


class DeepAutoencoder(nn.Module):
    """Deterministic, for clips."""

    def __init__(self, config: DeepSettings):
        super().__init__()
        self.encoder, self.decoder = DeepEncoder(config), DeepDecoder(config)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)
