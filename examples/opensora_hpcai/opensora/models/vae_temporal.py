"""The temporal half of the Open-Sora 1.2 autoencoder: latents of frames to and from latents of groups of four frames.

A causal 3D network as in MAGVIT-v2, https://arxiv.org/abs/2310.05737. Frames are (B, C, T, H, W); missing frames are
zeros in FRONT of the first one, and decoding drops as many frames from the front. Legend: `B` batch, `C` channels,
`O` channels out, `T` frames, `H`/`W` height/width, `f` time compression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.models.autoencoder_kl import split_moments
from mindone.models.sizes import known_entries
from mindone.nn import functional as F
from mindone.nn.conv import CausalConv3d, GroupNorm
from mindone.nn.padding import pad_zeros

# PyTorch's default, unlike the 1e-6 of the spatial half.
NORM_EPS = 1e-5


@dataclass(frozen=True)
class TemporalAutoencoderConfig:
    """Sizes of the temporal autoencoder; the defaults are the published OpenSora-VAE-v1.2."""

    in_out_channels: int = 4
    latent_embed_dim: int = 4
    embed_dim: int = 4
    filters: int = 128
    num_res_blocks: int = 4
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    num_groups: int = 32
    activation_fn: str = "swish"

    def __post_init__(self) -> None:
        for name in ("channel_multipliers", "temporal_downsample"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.temporal_downsample) != len(self.channel_multipliers) - 1:
            raise UserError(
                f"temporal_downsample has {len(self.temporal_downsample)} entries, "
                f"but {len(self.channel_multipliers)} channel_multipliers need one fewer than themselves"
            )
        if self.activation_fn not in ("swish", "silu"):
            raise UserError(f"activation_fn={self.activation_fn} is not known to the temporal autoencoder; use swish")

    @property
    def time_compression(self) -> int:
        return 2 ** sum(self.temporal_downsample)

    @classmethod
    def from_dict(cls, values: Mapping) -> TemporalAutoencoderConfig:
        """Takes the known fields of a ``config.json`` entry, ignoring others."""
        return cls(**known_entries(cls, values))


class ResBlock(nn.Cell):
    """Group norm, SiLU and causal 3x3x3 convolution, twice, plus a shortcut: (B, C, T, H, W) → (B, O, T, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int):
        super().__init__()
        self.norm1 = GroupNorm(num_groups, in_channels, NORM_EPS)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3, has_bias=False)
        self.norm2 = GroupNorm(num_groups, out_channels, NORM_EPS)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3, has_bias=False)
        self.conv3 = CausalConv3d(in_channels, out_channels, 1, has_bias=False) if in_channels != out_channels else None

    def construct(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.conv3 is None else self.conv3(x)) + h


def _res_blocks(in_channels: int, out_channels: int, config: TemporalAutoencoderConfig) -> nn.CellList:
    widths = [in_channels] + [out_channels] * config.num_res_blocks
    return nn.CellList([ResBlock(a, b, config.num_groups) for a, b in zip(widths, widths[1:])])


class TemporalEncoder(nn.Cell):
    """(B, in_out_channels, T, H, W) with T a multiple of the compression f → moments (B, 2 * latent, T/f, H, W)."""

    def __init__(self, config: TemporalAutoencoderConfig):
        super().__init__()
        widths = [config.filters * multiplier for multiplier in config.channel_multipliers]
        self.conv_in = CausalConv3d(config.in_out_channels, config.filters, 3, has_bias=False)
        self.block_res_blocks = nn.CellList(
            [_res_blocks(before, width, config) for before, width in zip([config.filters, *widths], widths)]
        )
        self.conv_blocks = nn.CellList(
            [
                CausalConv3d(width, width, 3, stride=(2, 1, 1)) if down else nn.Identity()
                for width, down in zip(widths, config.temporal_downsample)
            ]
        )
        self.res_blocks = _res_blocks(widths[-1], widths[-1], config)
        self.norm1 = GroupNorm(config.num_groups, widths[-1], NORM_EPS)
        self.conv2 = CausalConv3d(widths[-1], 2 * config.latent_embed_dim, 1)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in range(len(self.block_res_blocks)):
            for block in self.block_res_blocks[level]:
                x = block(x)
            if level < len(self.conv_blocks):
                x = self.conv_blocks[level](x)
        for block in self.res_blocks:
            x = block(x)
        return self.conv2(F.silu(self.norm1(x)))


def depth_to_time(x: Tensor) -> Tensor:
    """(B, 2C, T, H, W) → (B, C, 2T, H, W); of a channel pair (2c, 2c + 1) the first is the earlier frame."""
    batch, channels, frames, height, width = x.shape
    pairs = x.reshape(batch, channels // 2, 2, frames, height, width)
    return pairs.transpose(0, 1, 3, 2, 4, 5).reshape(batch, channels // 2, 2 * frames, height, width)


class TemporalDecoder(nn.Cell):
    """(B, latent, T, H, W) → (B, in_out_channels, f*T, H, W). The lists are numbered like the encoder's levels."""

    def __init__(self, config: TemporalAutoencoderConfig):
        super().__init__()
        widths = [config.filters * multiplier for multiplier in config.channel_multipliers]
        self.conv1 = CausalConv3d(config.latent_embed_dim, widths[-1], 3)
        self.res_blocks = _res_blocks(widths[-1], widths[-1], config)
        self.block_res_blocks = nn.CellList(
            [_res_blocks(after, width, config) for after, width in zip([*widths[1:], widths[-1]], widths)]
        )
        self.conv_blocks = nn.CellList(
            [
                CausalConv3d(width, 2 * width, 3) if up else nn.Identity()
                for width, up in zip(widths[1:], config.temporal_downsample)
            ]
        )
        self.temporal_upsample = config.temporal_downsample
        self.norm1 = GroupNorm(config.num_groups, widths[0], NORM_EPS)
        self.conv_out = CausalConv3d(widths[0], config.in_out_channels, 3)

    def construct(self, z: Tensor) -> Tensor:
        x = self.conv1(z)
        for block in self.res_blocks:
            x = block(x)
        last = len(self.block_res_blocks) - 1
        for step in range(last + 1):
            level = last - step
            for block in self.block_res_blocks[level]:
                x = block(x)
            if level > 0 and self.temporal_upsample[level - 1]:
                x = depth_to_time(self.conv_blocks[level - 1](x))
        return self.conv_out(F.silu(self.norm1(x)))


class TemporalAutoencoder(nn.Cell):
    """``VAE_Temporal``: (B, 4, T, H, W) to and from the posterior of (B, 4, ceil(T / f), H, W)."""

    def __init__(self, config: TemporalAutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder = TemporalEncoder(config)
        self.quant_conv = CausalConv3d(2 * config.latent_embed_dim, 2 * config.embed_dim, 1)
        self.post_quant_conv = CausalConv3d(config.embed_dim, config.latent_embed_dim, 1)
        self.decoder = TemporalDecoder(config)

    def latent_size(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Frames, height and width of the latents of a (T, H, W) input."""
        return (size[0] + self.missing_frames(size[0])) // self.config.time_compression, size[1], size[2]

    def missing_frames(self, num_frames: int) -> int:
        """How many frames ``num_frames`` lacks to the next multiple of the time compression."""
        return -num_frames % self.config.time_compression

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of ``x``; missing frames are zeros in front."""
        missing = self.missing_frames(x.shape[2])
        if missing:
            x = pad_zeros(x, ((missing, 0), (0, 0), (0, 0)))
        return split_moments(self.quant_conv(self.encoder(x)))

    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        """The ``num_frames`` frames of latents ``z``; the frames that padded them are dropped from the front."""
        x = self.decoder(self.post_quant_conv(z))
        return x[:, :, self.missing_frames(num_frames) :]

    def construct(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log-variance; the latents are ``mean + std * noise``, or the mean without noise."""
        mean, logvar = self.encode(x)
        z = mean if noise is None else mean + ops.exp(0.5 * logvar) * noise
        return self.decode(z, x.shape[2]), mean, logvar
