"""The causal 3D autoencoder of HunyuanVideo, with the parameter names of its published weights.

https://arxiv.org/abs/2412.03603. The blocks are those of AutoencoderKL around causal 3D convolutions that repeat the
edges; a latent frame depends on its own and on earlier frames only, also in the attention of the middle block. Videos
are (B, 3, T, H, W) in [-1, 1], latents (B, 16, (T - 1) // 4 + 1, H / 8, W / 8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.models.autoencoder_kl import Decoder, Downsampler, Encoder, Layers, split_moments
from mindone.models.sizes import known_entries
from mindone.nn.conv import CausalConv3d, Conv3d, nearest_upsample
from mindone.nn.tiling import Tiles
from opensora.models.autoencoder import TiledAutoencoder, positive_or_none, sampled

conv = partial(CausalConv3d, replicate=True)


@dataclass(frozen=True)
class HunyuanAutoencoderConfig:
    """Sizes under their published names; the defaults are the published autoencoder.

    ``sample_size`` pixels and ``sample_tsize`` frames are the tiles of tiling, ``tile_overlap_factor`` the share that
    neighbours have in common.
    """

    kind: str = "hunyuan"
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 16
    layers_per_block: int = 2
    norm_num_groups: int = 32
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    act_fn: str = "silu"
    scale_factor: float = 0.476986
    shift_factor: float = 0.0
    time_compression_ratio: int = 4
    spatial_compression_ratio: int = 8
    mid_block_add_attention: bool = True
    sample_size: int = 256
    sample_tsize: int = 64
    tile_overlap_factor: float = 0.25
    use_spatial_tiling: bool = False
    use_temporal_tiling: bool = False
    micro_batch_size: int | None = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))
        object.__setattr__(self, "micro_batch_size", positive_or_none(self.micro_batch_size))
        steps = len(self.block_out_channels) - 1
        for name in ("time_compression_ratio", "spatial_compression_ratio"):
            ratio = getattr(self, name)
            if ratio not in [2**step for step in range(steps + 1)]:
                raise UserError(f"{name}={ratio} has to be a power of two up to {2**steps}")
        if self.act_fn not in ("silu", "swish"):
            raise UserError(f"act_fn={self.act_fn} is not known to the causal autoencoder; use silu")

    @classmethod
    def from_dict(cls, values: Mapping) -> HunyuanAutoencoderConfig:
        """Takes the known fields of a ``config.json``; ``scaling_factor`` is another name of ``scale_factor``."""
        values = {"scaling_factor": None, **values}
        scale = values.pop("scaling_factor")
        values = values if scale is None else {"scale_factor": scale, **values}
        return cls(**known_entries(cls, values, "kind"))

    def to_dict(self) -> dict:
        return asdict(self)

    def factors(self, level: int) -> tuple[int, int, int]:
        """By how much level ``level`` changes time, height and width: space first, time in the last levels."""
        steps = len(self.block_out_channels) - 1
        space = 2 if level < math.log2(self.spatial_compression_ratio) else 1
        time = 2 if steps - math.log2(self.time_compression_ratio) <= level < steps else 1
        return time, space, space


class CausalUpsampler(nn.Cell):
    """Repeats pixels and frames, the first frame only in space, then a convolution: 1 + T frames → 1 + factor * T."""

    def __init__(self, channels: int, factors: tuple[int, int, int]):
        super().__init__()
        self.factors = factors
        self.conv = conv(channels, channels, 3)

    def construct(self, x: Tensor) -> Tensor:
        if self.factors[0] == 1 or x.shape[2] == 1:
            return self.conv(nearest_upsample(x, (1, *self.factors[1:])))
        first = nearest_upsample(x[:, :, :1], (1, *self.factors[1:]))
        return self.conv(ops.concat((first, nearest_upsample(x[:, :, 1:], self.factors)), 2))


def _layers(config: HunyuanAutoencoderConfig) -> Layers:
    def down(channels: int, level: int) -> nn.Cell | None:
        factors = config.factors(level)
        return Downsampler(conv(channels, channels, 3, factors)) if max(factors) > 1 else None

    def up(channels: int, level: int) -> nn.Cell | None:
        factors = config.factors(level)
        return CausalUpsampler(channels, factors) if max(factors) > 1 else None

    return Layers(conv, down, up, config.mid_block_add_attention)


class AutoencoderKLCausal3D(TiledAutoencoder):
    """Videos of 1 + 4k frames to and from the posterior of 1 + k latent frames."""

    def __init__(self, config: HunyuanAutoencoderConfig):
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config, _layers(config))
        self.decoder = Decoder(config, _layers(config))
        self.quant_conv = Conv3d(2 * channels, 2 * channels, (1, 1, 1))
        self.post_quant_conv = Conv3d(channels, channels, (1, 1, 1))
        self.in_channels, self.latent_channels = config.in_channels, channels
        self.spatial_compression = config.spatial_compression_ratio
        self.time_compression = config.time_compression_ratio
        self.scale_factor, self.shift_factor = config.scale_factor, config.shift_factor
        self.micro_batch_size = config.micro_batch_size
        overlap, size, frames = config.tile_overlap_factor, config.sample_size, config.sample_tsize
        latents, latent_frames = size // self.spatial_compression, frames // self.time_compression
        self.encode_tiles = (
            Tiles.overlapping(size, latents, overlap),
            Tiles.overlapping(frames, latent_frames, overlap, lead=True),
        )
        self.decode_tiles = (
            Tiles.overlapping(latents, size, overlap),
            Tiles.overlapping(latent_frames, frames, overlap, lead=True),
        )
        self.set_tiling(config.use_spatial_tiling, config.use_temporal_tiling)

    def frames_of(self, latent_frames: int) -> int:
        return (latent_frames - 1) * self.time_compression + 1

    def moments(self, x: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(x))

    def reconstruct(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))

    def construct(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log-variance in one graph; ``noise`` samples the posterior."""
        mean, logvar = split_moments(self.moments(x))
        return self.reconstruct(sampled(mean, logvar, noise)), mean, logvar
