"""AutoencoderKL: the image autoencoder of Stable Diffusion, with the parameter names of its published weights.

Latent diffusion, https://arxiv.org/abs/2112.10752. Images are (N, 3, H, W) in [-1, 1], latents (N, 4, H/8, W/8) with
the published four levels. Video autoencoders have the same blocks around other convolutions (`Layers`), on (N, C, T,
H, W). Legend: `N` images, `C` channels in, `O` channels out, `T` frames, `H`/`W` height/width, `f` compression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.models.sizes import known_entries
from mindone.nn import functional as F
from mindone.nn.conv import Conv2d, GroupNorm, nearest_upsample
from mindone.nn.layers import Linear

NORM_EPS = 1e-6
MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0
# The published downsampling pads zeros below and to the right only.
BELOW_AND_RIGHT = ((0, 1), (0, 1))


@dataclass(frozen=True)
class AutoencoderKLConfig:
    """The fields of the hub's ``config.json``; the defaults are the published SD and SDXL autoencoders."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    latent_channels: int = 4
    act_fn: str = "silu"
    sample_size: int = 512
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    def __post_init__(self) -> None:
        for name in ("down_block_types", "up_block_types", "block_out_channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        levels = len(self.block_out_channels)
        if self.down_block_types != ("DownEncoderBlock2D",) * levels:
            raise UserError(f"down_block_types must be {levels} times DownEncoderBlock2D, one per block_out_channels")
        if self.up_block_types != ("UpDecoderBlock2D",) * levels:
            raise UserError(f"up_block_types must be {levels} times UpDecoderBlock2D, one per block_out_channels")
        if self.act_fn not in ("silu", "swish"):
            raise UserError(f"act_fn={self.act_fn} is not known to AutoencoderKL; use silu")

    @property
    def spatial_compression(self) -> int:
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_dict(cls, values: Mapping) -> AutoencoderKLConfig:
        """Takes the known fields of a ``config.json``; the rest of a published file does not change the network."""
        for switch in ("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"):
            if values.get(switch) is False:
                raise UserError(
                    f"{switch}=false in the autoencoder's config is not supported; remove it or set it to true"
                )
        return cls(**known_entries(cls, values))


def same_conv(in_channels: int, out_channels: int, kernel_size: int) -> Conv2d:
    """A 2D convolution that keeps height and width."""
    return Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


class ResnetBlock(nn.Cell):
    """Group norm, SiLU and convolution of size 3, twice, plus a shortcut: (N, C, ...) → (N, O, ...)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_groups: int,
        conv: Callable[[int, int, int], nn.Cell] = same_conv,
        shortcut: bool = True,
    ):
        super().__init__()
        self.norm1 = GroupNorm(num_groups, in_channels, NORM_EPS)
        self.conv1 = conv(in_channels, out_channels, 3)
        self.norm2 = GroupNorm(num_groups, out_channels, NORM_EPS)
        self.conv2 = conv(out_channels, out_channels, 3)
        self.conv_shortcut = conv(in_channels, out_channels, 1) if shortcut and in_channels != out_channels else None

    def construct(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h

    def skip(self, x: Tensor) -> Tensor:
        return x if self.conv_shortcut is None else self.conv_shortcut(x)


def attention_over_positions(x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One-headed attention of (N, positions, C); in a video ``x`` no position sees a later frame."""
    q, k, v = q.expand_dims(2), k.expand_dims(2), v.expand_dims(2)
    mixed = F.attention(q, k, v) if x.ndim == 4 else F.frame_causal_attention(q, k, v, x.shape[2])
    return mixed.squeeze(2)


class AttentionBlock(nn.Cell):
    """One-headed self-attention over the positions of an image or video, plus a shortcut: (N, C, ...) → (N, C, ...)."""

    def __init__(self, channels: int, num_groups: int):
        super().__init__()
        self.group_norm = GroupNorm(num_groups, channels, NORM_EPS)
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.to_out = nn.CellList([Linear(channels, channels)])

    def construct(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).reshape(x.shape[0], x.shape[1], -1).transpose(0, 2, 1)
        mixed = attention_over_positions(x, self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out[0](mixed).transpose(0, 2, 1).reshape(x.shape)


class Downsampler(nn.Cell):
    """A strided convolution."""

    def __init__(self, conv: nn.Cell):
        super().__init__()
        self.conv = conv

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsampler(nn.Cell):
    """Every pixel twice, then a 3x3 convolution: (N, C, H, W) → (N, C, 2H, 2W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = same_conv(channels, channels, 3)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(nearest_upsample(x))


def halving_conv(channels: int) -> Conv2d:
    """3x3 convolution of stride 2: (N, C, H, W) → (N, C, H/2, W/2)."""
    return Conv2d(channels, channels, 3, stride=2, padding=BELOW_AND_RIGHT)


@dataclass(frozen=True)
class Layers:
    """What the levels of an autoencoder are made of.

    ``conv(in_channels, out_channels, kernel_size)`` keeps the size; ``down(channels, level)`` and ``up(channels,
    level)`` change it between levels, or are None for a level that keeps it.
    """

    conv: Callable[[int, int, int], nn.Cell] = same_conv
    down: Callable[[int, int], nn.Cell | None] = lambda channels, level: Downsampler(halving_conv(channels))
    up: Callable[[int, int], nn.Cell | None] = lambda channels, level: Upsampler(channels)
    mid_attention: bool = True


def _resnets(in_channels: int, out_channels: int, count: int, num_groups: int, conv: Callable) -> nn.CellList:
    widths = [in_channels] + [out_channels] * count
    return nn.CellList([ResnetBlock(a, b, num_groups, conv) for a, b in zip(widths, widths[1:])])


class DownBlock(nn.Cell):
    """Residual blocks of one encoder level, then its downsampling if it has one."""

    def __init__(self, resnets: nn.CellList, downsampler: nn.Cell | None):
        super().__init__()
        self.resnets = resnets
        self.downsamplers = None if downsampler is None else nn.CellList([downsampler])

    def construct(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.downsamplers is None else self.downsamplers[0](x)


class UpBlock(nn.Cell):
    """Residual blocks of one decoder level, then its upsampling if it has one."""

    def __init__(self, resnets: nn.CellList, upsampler: nn.Cell | None):
        super().__init__()
        self.resnets = resnets
        self.upsamplers = None if upsampler is None else nn.CellList([upsampler])

    def construct(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.upsamplers is None else self.upsamplers[0](x)


class MidBlock(nn.Cell):
    """Residual block, attention unless there is none, residual block at the lowest resolution."""

    def __init__(self, channels: int, num_groups: int, layers: Layers):
        super().__init__()
        self.resnets = _resnets(channels, channels, 2, num_groups, layers.conv)
        self.attentions = nn.CellList([AttentionBlock(channels, num_groups)]) if layers.mid_attention else None

    def construct(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        if self.attentions is not None:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class Encoder(nn.Cell):
    """(N, in_channels, H, W) → moments (N, 2 * latent_channels, H/f, W/f)."""

    def __init__(self, config: AutoencoderKLConfig, layers: Layers):
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        last = len(widths) - 1
        self.conv_in = layers.conv(config.in_channels, widths[0], 3)
        self.down_blocks = nn.CellList(
            [
                DownBlock(
                    _resnets(widths[max(i - 1, 0)], width, config.layers_per_block, groups, layers.conv),
                    layers.down(width, i) if i < last else None,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = MidBlock(widths[-1], groups, layers)
        self.conv_norm_out = GroupNorm(groups, widths[-1], NORM_EPS)
        self.conv_out = layers.conv(widths[-1], 2 * config.latent_channels, 3)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Cell):
    """(N, latent_channels, h, w) → images (N, out_channels, f*h, f*w); one residual block more per level."""

    def __init__(self, config: AutoencoderKLConfig, layers: Layers):
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        last = len(widths) - 1
        self.conv_in = layers.conv(config.latent_channels, widths[0], 3)
        self.mid_block = MidBlock(widths[0], groups, layers)
        self.up_blocks = nn.CellList(
            [
                UpBlock(
                    _resnets(widths[max(i - 1, 0)], width, config.layers_per_block + 1, groups, layers.conv),
                    layers.up(width, i) if i < last else None,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = GroupNorm(groups, widths[-1], NORM_EPS)
        self.conv_out = layers.conv(widths[-1], config.out_channels, 3)

    def construct(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of a diagonal Gaussian from (N, 2C, ...); the log-variance is clamped to [-30, 20]."""
    mean, logvar = ops.chunk(moments, 2, 1)
    return mean, ops.clamp(logvar, MIN_LOGVAR, MAX_LOGVAR)


class AutoencoderKL(nn.Cell):
    """Images (N, 3, H, W) in [-1, 1] to and from the posterior of unscaled latents (N, latent_channels, H/f, W/f)."""

    def __init__(self, config: AutoencoderKLConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, Layers())
        self.decoder = Decoder(config, Layers())
        self.quant_conv = Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of images ``x``."""
        return split_moments(self.quant_conv(self.encoder(x)))

    def decode(self, z: Tensor) -> Tensor:
        """Images of unscaled latents ``z``."""
        return self.decoder(self.post_quant_conv(z))

    def construct(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log-variance; the latents are ``mean + std * noise``, or the mean without noise."""
        mean, logvar = self.encode(x)
        z = mean if noise is None else mean + ops.exp(0.5 * logvar) * noise
        return self.decode(z), mean, logvar
