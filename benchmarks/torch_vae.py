"""PyTorch versions of the autoencoder of Open-Sora 1.2, as `torch_reference` has its denoiser.

Legend: B batch, C channels, T frames, H/W height/width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
