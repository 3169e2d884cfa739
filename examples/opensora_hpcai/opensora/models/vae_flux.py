"""The image autoencoder of Flux, with the parameter names of its published weights, applied frame by frame.

The network of latent diffusion, https://arxiv.org/abs/2112.10752, with 16 latent channels and without the 1x1
convolutions around them. Legend: `N` images, `C` channels, `H`/`W` height/width, `f` compression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from mindspore import Tensor, nn

from mindone.models import autoencoder_kl as kl
from mindone.models.sizes import known_entries
from mindone.nn import functional as F
from mindone.nn.conv import Conv2d, GroupNorm
from opensora.models.autoencoder import positive_or_none
from opensora.models.vae_frames import FrameAutoencoder

GROUPS = 32


@dataclass(frozen=True)
class FluxAutoencoderConfig:
    """Sizes under their published names; the defaults are the published autoencoder of FLUX.1."""

    kind: str = "flux"
    resolution: int = 256
    in_channels: int = 3
    ch: int = 128
    out_ch: int = 3
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159
    micro_batch_size: int | None = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
        object.__setattr__(self, "micro_batch_size", positive_or_none(self.micro_batch_size))

    @classmethod
    def from_dict(cls, values: Mapping) -> FluxAutoencoderConfig:
        """Takes the known fields of a ``config.json``."""
        return cls(**known_entries(cls, values, "kind"))

    def to_dict(self) -> dict:
        return asdict(self)

    @property
    def widths(self) -> list[int]:
        return [self.ch * multiplier for multiplier in self.ch_mult]


class ResnetBlock(kl.ResnetBlock):
    """`kl.ResnetBlock` whose shortcut is called ``nin_shortcut``."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, GROUPS, shortcut=False)
        self.nin_shortcut = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def skip(self, x: Tensor) -> Tensor:
        return x if self.nin_shortcut is None else self.nin_shortcut(x)


class AttentionBlock(nn.Cell):
    """One-headed self-attention over the positions of an image, its matrices stored as 1x1 convolutions."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = GroupNorm(GROUPS, channels, kl.NORM_EPS)
        self.q = Conv2d(channels, channels, 1)
        self.k = Conv2d(channels, channels, 1)
        self.v = Conv2d(channels, channels, 1)
        self.proj_out = Conv2d(channels, channels, 1)

    def construct(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = self._tokens(self.q(h)), self._tokens(self.k(h)), self._tokens(self.v(h))
        mixed = kl.attention_over_positions(x, q, k, v)
        return x + self.proj_out(mixed.transpose(0, 2, 1).reshape(x.shape))

    def _tokens(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, H * W, C)."""
        return x.reshape(x.shape[0], x.shape[1], -1).transpose(0, 2, 1)


class MidBlock(nn.Cell):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = AttentionBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def construct(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Cell):
    """Residual blocks of one resolution, then its ``downsample`` or ``upsample`` if it has one."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        count: int,
        downsample: nn.Cell | None = None,
        upsample: nn.Cell | None = None,
    ):
        super().__init__()
        widths = [in_channels] + [out_channels] * count
        self.block = nn.CellList([ResnetBlock(a, b) for a, b in zip(widths, widths[1:])])
        self.downsample, self.upsample = downsample, upsample

    def construct(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


class Encoder(nn.Cell):
    """(N, in_channels, H, W) → moments (N, 2 * z_channels, H/f, W/f)."""

    def __init__(self, config: FluxAutoencoderConfig):
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = kl.same_conv(config.in_channels, config.ch, 3)
        self.down = nn.CellList(
            [
                Level(
                    before,
                    width,
                    config.num_res_blocks,
                    downsample=kl.Downsampler(kl.halving_conv(width)) if i < last else None,
                )
                for i, (before, width) in enumerate(zip([config.ch, *widths], widths))
            ]
        )
        self.mid = MidBlock(widths[-1])
        self.norm_out = GroupNorm(GROUPS, widths[-1], kl.NORM_EPS)
        self.conv_out = kl.same_conv(widths[-1], 2 * config.z_channels, 3)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Cell):
    """(N, z_channels, h, w) → images (N, out_ch, f*h, f*w). ``up`` is numbered like the encoder's levels."""

    def __init__(self, config: FluxAutoencoderConfig):
        super().__init__()
        widths = config.widths
        self.conv_in = kl.same_conv(config.z_channels, widths[-1], 3)
        self.mid = MidBlock(widths[-1])
        self.up = nn.CellList(
            [
                Level(after, width, config.num_res_blocks + 1, upsample=kl.Upsampler(width) if i else None)
                for i, (after, width) in enumerate(zip([*widths[1:], widths[-1]], widths))
            ]
        )
        self.norm_out = GroupNorm(GROUPS, widths[0], kl.NORM_EPS)
        self.conv_out = kl.same_conv(widths[0], config.out_ch, 3)

    def construct(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for i in range(len(self.up)):
            x = self.up[len(self.up) - 1 - i](x)
        return self.conv_out(F.silu(self.norm_out(x)))


class FluxAutoencoder(FrameAutoencoder):
    """Videos (B, 3, T, H, W) to and from latents (B, 16, T, H/8, W/8), ``scale_factor * (z - shift_factor)``."""

    def __init__(self, config: FluxAutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.in_channels, self.latent_channels = config.in_channels, config.z_channels
        self.spatial_compression = 2 ** (len(config.ch_mult) - 1)
        self.micro_batch_size = config.micro_batch_size
        self.scale_factor, self.shift_factor = config.scale_factor, config.shift_factor

    def encode_images(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return kl.split_moments(self.encoder(x))

    def decode_images(self, z: Tensor) -> Tensor:
        return self.decoder(z)
