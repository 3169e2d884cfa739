"""The video deep-compression autoencoder (f32t4c128), with the parameter names of its published weights.

https://arxiv.org/abs/2410.10733, made three-dimensional. It is deterministic: no posterior. Shortcuts without
parameters run beside every change of resolution: averages of pixels that become channels on the way down, copies of
channels that become pixels on the way up. Convolutions are not causal. Videos are (B, 3, T, H, W) in [-1, 1], T one or
a multiple of 4; latents (B, 128, T / 4, H / 32, W / 32); one frame is an image and keeps its length.

Legend: `B` batch, `C` channels, `T` frames, `H`/`W` height/width, `N = T*H*W`, `h` heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.models.sizes import known_entries
from mindone.nn import functional as F
from mindone.nn.conv import Conv3d, channels_to_space, nearest_upsample, space_to_channels
from mindone.nn.layers import ChannelRMSNorm
from mindone.nn.tiling import Tiles
from opensora.models.autoencoder import Array, TiledAutoencoder, positive_or_none

HEAD_SIZE = 32
EXPANSION = 4
# Kernel sizes of the local sums that the attention of a block sees beside every single position.
ATTENTION_SCALES: dict[str, tuple[int, ...]] = {"EViT_GLU": (), "EViTS5_GLU": (5,)}
BLOCK_TYPES = ("ResBlock", *ATTENTION_SCALES)
WIDTHS = (128, 256, 512, 512, 1024, 1024)
BLOCKS = ("ResBlock",) * 3 + ("EViTS5_GLU",) * 3
TIME_LEVELS = (False, False, False, True, True, False)
Factors = tuple[int, int, int]


@dataclass(frozen=True)
class StagesConfig:
    """The stages of encoder or decoder, from pixels to latents; after each but the last the size is halved.

    ``temporal`` says whether time is halved, too; files call it ``temporal_downsample`` or ``temporal_upsample``.
    """

    width_list: tuple[int, ...] = WIDTHS
    depth_list: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    block_type: tuple[str, ...] = BLOCKS
    temporal: tuple[bool, ...] = TIME_LEVELS

    def __post_init__(self) -> None:
        for name in ("width_list", "depth_list", "block_type", "temporal"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != len(self.width_list):
                raise UserError(f"{name} has {len(getattr(self, name))} entries for {len(self.width_list)} widths")
        for kind in self.block_type:
            if kind not in BLOCK_TYPES:
                raise UserError(f"block_type={kind} is not known; use one of {', '.join(BLOCK_TYPES)}")

    @classmethod
    def from_dict(cls, values: Mapping, default: StagesConfig) -> StagesConfig:
        """Takes the known fields of a part of ``config.json``; one ``block_type`` may stand for all stages."""
        fixed = {
            "norm": "rms3d",
            "act": "silu",
            "downsample_block_type": "Conv",
            "upsample_block_type": "InterpolateConv",
            "out_norm": "rms3d",
            "is_video": True,
        }
        for name, only in fixed.items():
            if values.get(name, only) != only:
                raise UserError(f"{name}={values[name]} is not supported by the video DC-AE; use {only}")
        given = {name: values.get(name, getattr(default, name)) for name in ("width_list", "depth_list", "block_type")}
        if isinstance(given["block_type"], str):
            given["block_type"] = (given["block_type"],) * len(given["width_list"])
        names = ("temporal", "temporal_downsample", "temporal_upsample")
        temporal = [values[name] for name in names if name in values]
        return cls(**given, temporal=temporal[0] if temporal else default.temporal)

    def factors(self, stage: int) -> Factors:
        """By how much the size is divided behind a stage."""
        return (2 if self.temporal[stage] else 1), 2, 2


@dataclass(frozen=True)
class DCAEConfig:
    """Sizes under their published names; the defaults are f32t4c128.

    ``scaling_factor`` is one setting for training and sampling: normalised latents are ``z / scaling_factor``.
    """

    kind: str = "dc-ae"
    in_channels: int = 3
    latent_channels: int = 128
    time_compression_ratio: int = 4
    spatial_compression_ratio: int = 32
    scaling_factor: float = 0.493
    encoder: StagesConfig = field(default_factory=StagesConfig)
    decoder: StagesConfig = field(default_factory=lambda: StagesConfig(depth_list=(3,) * 6))
    spatial_tile_size: int = 256
    temporal_tile_size: int = 32
    tile_overlap_factor: float = 0.25
    use_spatial_tiling: bool = False
    use_temporal_tiling: bool = False
    micro_batch_size: int | None = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "micro_batch_size", positive_or_none(self.micro_batch_size))
        for stages in (self.encoder, self.decoder):
            time = 2 ** sum(stages.temporal[:-1])
            space = 2 ** (len(stages.width_list) - 1)
            if (time, space) != (self.time_compression_ratio, self.spatial_compression_ratio):
                raise UserError(
                    f"the stages compress time {time} and space {space} times, but time_compression_ratio="
                    f"{self.time_compression_ratio} and spatial_compression_ratio={self.spatial_compression_ratio}"
                )

    @classmethod
    def from_dict(cls, values: Mapping) -> DCAEConfig:
        """Takes the known fields of a ``config.json``."""
        default = cls()
        return cls(
            encoder=StagesConfig.from_dict(values.get("encoder", {}), default.encoder),
            decoder=StagesConfig.from_dict(values.get("decoder", {}), default.decoder),
            **known_entries(cls, values, "kind", "encoder", "decoder"),
        )

    def to_dict(self) -> dict:
        return asdict(self)


# --- layers ----------------------------------------------------------------------------------------------------------


class ConvLayer(nn.Cell):
    """Convolution of the size ``kernel_size`` in all axes, then a norm or a SiLU if asked for."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: Factors = (1, 1, 1),
        has_bias: bool = True,
        groups: int = 1,
        norm: bool = False,
        act: bool = False,
    ):
        super().__init__()
        self.conv = conv(in_channels, out_channels, kernel_size, stride, has_bias, groups)
        self.norm = ChannelRMSNorm(out_channels) if norm else None
        self.act = act

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.silu(x) if self.act else x


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: Factors = (1, 1, 1),
    has_bias: bool = True,
    groups: int = 1,
) -> Conv3d:
    around = ((kernel_size // 2, kernel_size // 2),) * 3
    return Conv3d(in_channels, out_channels, (kernel_size,) * 3, stride, around, has_bias, groups)


class ResBlockBody(nn.Cell):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, act=True)
        self.conv2 = ConvLayer(channels, channels, has_bias=False, norm=True)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class LiteMLA(nn.Cell):
    """Linear attention of all positions, in heads of 32: on queries, keys and values, and on local sums of them.

    ``scales`` are the kernel sizes of the sums; each adds as many heads as there are without sums.
    """

    def __init__(self, channels: int, scales: tuple[int, ...]):
        super().__init__()
        if channels % HEAD_SIZE:
            raise UserError(f"{channels} channels cannot be divided into heads of {HEAD_SIZE}")
        width, heads = 3 * channels, channels // HEAD_SIZE
        self.qkv = ConvLayer(channels, width, 1, has_bias=False)
        sums = [conv(width, width, scale, has_bias=False, groups=width) for scale in scales]
        mixes = [conv(width, width, 1, has_bias=False, groups=3 * heads) for _ in scales]
        self.aggreg = nn.CellList([nn.CellList(list(pair)) for pair in zip(sums, mixes)])
        self.proj = ConvLayer((1 + len(scales)) * channels, channels, 1, has_bias=False, norm=True)

    def construct(self, x: Tensor) -> Tensor:
        batch, _, frames, height, width = x.shape
        qkv = self.qkv(x)
        scaled = (qkv,)
        for pair in self.aggreg:
            scaled += (pair[1](pair[0](qkv)),)
        heads = ops.concat(scaled, 1).reshape(batch, -1, 3 * HEAD_SIZE, frames * height * width)
        q, k, v = ops.split(heads, HEAD_SIZE, 2)
        mixed = F.relu_linear_attention(q, k, v)
        return self.proj(mixed.reshape(batch, -1, frames, height, width))


class GLUMBConv(nn.Cell):
    """Widening, depth-wise 3x3x3 convolution, gate, narrowing."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = EXPANSION * channels
        self.inverted_conv = ConvLayer(channels, 2 * hidden, 1, act=True)
        self.depth_conv = ConvLayer(2 * hidden, 2 * hidden, groups=2 * hidden)
        self.point_conv = ConvLayer(hidden, channels, 1, has_bias=False, norm=True)

    def construct(self, x: Tensor) -> Tensor:
        x, gate = ops.chunk(self.depth_conv(self.inverted_conv(x)), 2, 1)
        return self.point_conv(x * F.silu(gate))


# --- blocks: something beside a shortcut without parameters ----------------------------------------------------------


class AveragingDown(nn.Cell):
    """Pixels of a block become channels, and neighbouring channels are averaged to ``channels``."""

    def __init__(self, channels: int, factors: Factors):
        super().__init__()
        self.channels, self.factors = channels, factors

    def construct(self, x: Tensor) -> Tensor:
        return F.average_channels(space_to_channels(x, in_time(self.factors, x)), self.channels)


class DuplicatingUp(nn.Cell):
    """Channels are repeated, and become the pixels of blocks of ``channels``."""

    def __init__(self, channels: int, factors: Factors):
        super().__init__()
        self.channels, self.factors = channels, factors

    def construct(self, x: Tensor) -> Tensor:
        factors = in_time(self.factors, x)
        pixels = factors[0] * factors[1] * factors[2]
        return channels_to_space(F.repeat_channels(x, self.channels * pixels // x.shape[1]), factors)


class InterpolateConv(nn.Cell):
    """Every pixel and frame repeated, then a convolution."""

    def __init__(self, in_channels: int, out_channels: int, factors: Factors):
        super().__init__()
        self.factors = factors
        self.conv = ConvLayer(in_channels, out_channels)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(nearest_upsample(x, in_time(self.factors, x)))


def in_time(factors: Factors, x: Tensor) -> Factors:
    """The factors, without that of time if ``x`` is one frame: an image."""
    return factors if x.shape[2] > 1 else (1, factors[1], factors[2])


class Residual(nn.Cell):
    """``main(x) + shortcut(x)``; the shortcut is ``x`` itself unless another is given."""

    def __init__(self, main: nn.Cell, shortcut: nn.Cell | None = None):
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def construct(self, x: Tensor) -> Tensor:
        return self.main(x) + (x if self.shortcut is None else self.shortcut(x))


class EfficientViTBlock(nn.Cell):
    def __init__(self, channels: int, scales: tuple[int, ...]):
        super().__init__()
        self.context_module = Residual(LiteMLA(channels, scales))
        self.local_module = Residual(GLUMBConv(channels))

    def construct(self, x: Tensor) -> Tensor:
        return self.local_module(self.context_module(x))


class OpSequence(nn.Cell):
    def __init__(self, cells: list[nn.Cell]):
        super().__init__()
        self.op_list = nn.CellList(cells)

    def construct(self, x: Tensor) -> Tensor:
        for cell in self.op_list:
            x = cell(x)
        return x


def _blocks(stages: StagesConfig, stage: int) -> list[nn.Cell]:
    width, kind = stages.width_list[stage], stages.block_type[stage]
    if kind == "ResBlock":
        return [Residual(ResBlockBody(width)) for _ in range(stages.depth_list[stage])]
    return [EfficientViTBlock(width, ATTENTION_SCALES[kind]) for _ in range(stages.depth_list[stage])]


class Encoder(nn.Cell):
    """Pixels → latents."""

    def __init__(self, config: DCAEConfig):
        super().__init__()
        stages, widths = config.encoder, config.encoder.width_list
        self.project_in = ConvLayer(config.in_channels, widths[0])
        self.stages = nn.CellList([OpSequence(self._stage(stages, i)) for i in range(len(widths))])
        to_latents = OpSequence([ConvLayer(widths[-1], config.latent_channels)])
        self.project_out = Residual(to_latents, AveragingDown(config.latent_channels, (1, 1, 1)))

    def _stage(self, stages: StagesConfig, i: int) -> list[nn.Cell]:
        blocks = _blocks(stages, i)
        if i + 1 < len(stages.width_list):
            before, after = stages.width_list[i : i + 2]
            down = ConvLayer(before, after, stride=stages.factors(i))
            blocks.append(Residual(down, AveragingDown(after, stages.factors(i))))
        return blocks

    def construct(self, x: Tensor) -> Tensor:
        x = self.project_in(x)
        for stage in self.stages:
            x = stage(x)
        return self.project_out(x)


class Decoder(nn.Cell):
    """Latents → pixels. The stages are numbered like the encoder's, each begins by doubling the size."""

    def __init__(self, config: DCAEConfig):
        super().__init__()
        stages, widths = config.decoder, config.decoder.width_list
        from_latents = ConvLayer(config.latent_channels, widths[-1])
        self.project_in = Residual(from_latents, DuplicatingUp(widths[-1], (1, 1, 1)))
        self.stages = nn.CellList([OpSequence(self._stage(stages, i)) for i in range(len(widths))])
        head = [ChannelRMSNorm(widths[0]), nn.ReLU(), ConvLayer(widths[0], config.in_channels)]
        self.project_out = OpSequence(head)

    def _stage(self, stages: StagesConfig, i: int) -> list[nn.Cell]:
        blocks = _blocks(stages, i)
        if i + 1 < len(stages.width_list):
            after, before = stages.width_list[i : i + 2]
            up = InterpolateConv(before, after, stages.factors(i))
            blocks.insert(0, Residual(up, DuplicatingUp(after, stages.factors(i))))
        return blocks

    def construct(self, z: Tensor) -> Tensor:
        x = self.project_in(z)
        for i in range(len(self.stages)):
            x = self.stages[len(self.stages) - 1 - i](x)
        return self.project_out(x)


class DCAE(TiledAutoencoder):
    """Videos (or images: one frame) to and from latents."""

    def __init__(self, config: DCAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.in_channels, self.latent_channels = config.in_channels, config.latent_channels
        self.spatial_compression = config.spatial_compression_ratio
        self.time_compression = config.time_compression_ratio
        self.scale_factor = 1 / config.scaling_factor
        self.micro_batch_size = config.micro_batch_size
        overlap, size, frames = config.tile_overlap_factor, config.spatial_tile_size, config.temporal_tile_size
        latents, latent_frames = size // self.spatial_compression, frames // self.time_compression
        self.encode_tiles = (
            Tiles.overlapping(size, latents, overlap),
            Tiles.overlapping(frames, latent_frames, overlap),
        )
        self.decode_tiles = (
            Tiles.overlapping(latents, size, overlap),
            Tiles.overlapping(latent_frames, frames, overlap),
        )
        self.set_tiling(config.use_spatial_tiling, config.use_temporal_tiling)

    def frames_of(self, latent_frames: int) -> int:
        return 1 if latent_frames == 1 else latent_frames * self.time_compression

    def moments(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def reconstruct(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def posterior(self, x: Array) -> tuple[Tensor, Tensor]:
        """The latents, and zeros: there is nothing to draw."""
        z = self.host_moments(x)
        return Tensor(z), Tensor(np.zeros_like(z))

    def construct(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruction and latents before scaling, in one graph; ``noise`` is for other autoencoders."""
        z = self.encoder(x)
        return self.decoder(z), z
