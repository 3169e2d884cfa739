"""Image autoencoders applied to videos frame by frame: those of Stable Diffusion, SDXL and Flux.

Videos are (B, 3, T, H, W) in [-1, 1], latents (B, C, T, H/f, W/f), float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from mindone.models.presets import config_of
from opensora.models.autoencoder import (
    Array,
    Autoencoder,
    Size,
    in_micro_batches,
    positive_or_none,
    sampled,
    unregistered,
)

# Open-Sora scales SDXL's latents with the factor of Stable Diffusion 1; its weights need that.
SPATIAL_SCALE = 0.18215


@dataclass(frozen=True)
class FrameAutoencoderConfig:
    """`VideoAutoencoderKL`: the image autoencoder, the factor of its latents, and the frames in one go (None: all)."""

    kind: str = "2d"
    autoencoder_kl: AutoencoderKLConfig = field(default_factory=AutoencoderKLConfig)
    micro_batch_size: int | None = 4
    scale_factor: float = SPATIAL_SCALE

    def __post_init__(self) -> None:
        object.__setattr__(self, "micro_batch_size", positive_or_none(self.micro_batch_size))

    @classmethod
    def from_dict(cls, values: Mapping) -> FrameAutoencoderConfig:
        """Takes our ``config.json``, or the published one of an AutoencoderKL, whose ``scaling_factor`` then counts."""
        scale = SPATIAL_SCALE if "autoencoder_kl" in values else values.get("scaling_factor", SPATIAL_SCALE)
        return cls(
            autoencoder_kl=config_of(AutoencoderKLConfig, values.get("autoencoder_kl", values)),
            micro_batch_size=values.get("micro_batch_size", 4),
            scale_factor=values.get("scale_factor", scale),
        )

    def to_dict(self) -> dict:
        return asdict(self)


def to_images(video: Tensor) -> Tensor:
    """(B, C, T, H, W) → (B*T, C, H, W)."""
    batch, channels, frames, height, width = video.shape
    return video.transpose(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)


def to_video(images: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) → (B, C, T, H, W)."""
    _, channels, height, width = images.shape
    return images.reshape(batch, -1, channels, height, width).transpose(0, 2, 1, 3, 4)


def _fold(video: np.ndarray) -> np.ndarray:
    batch, channels, frames, height, width = video.shape
    return video.transpose(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)


def _unfold(images: np.ndarray, batch: int) -> np.ndarray:
    return np.ascontiguousarray(images.reshape(batch, -1, *images.shape[1:]).transpose(0, 2, 1, 3, 4))


class _EncodeStep(nn.Cell):
    """Mean and standard deviation from the log-variance, in float32: the piece of `posterior` that is compiled."""

    def __init__(self, network: FrameAutoencoder):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.network.encode_images(x)
        return mean.astype(ms.float32), ops.exp(0.5 * logvar.astype(ms.float32))


class _DecodeStep(nn.Cell):
    def __init__(self, network: FrameAutoencoder):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, z: Tensor) -> Tensor:
        return self.network.decode_images(z).astype(ms.float32)


class FrameAutoencoder(Autoencoder):
    """An autoencoder whose latents are those of its frames, on `encode_images` and `decode_images`."""

    in_channels: int = 3
    micro_batch_size: int | None = 4
    chunk_frames: int | None = 1

    def __init__(self):
        super().__init__()
        self._encode_step = unregistered(_EncodeStep(self))
        self._decode_step = unregistered(_DecodeStep(self))

    def encode_images(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of images (N, 3, H, W), before scale and shift."""
        raise NotImplementedError

    def decode_images(self, z: Tensor) -> Tensor:
        """Images of latents (N, C, h, w) before scale and shift."""
        raise NotImplementedError

    def latent_size(self, size: Size) -> Size:
        """Frames, height and width of the latents of a (T, H, W) video; a remainder of pixels is lost."""
        return size[0], size[1] // self.spatial_compression, size[2] // self.spatial_compression

    def posterior(self, x: Array) -> tuple[Tensor, Tensor]:
        x = self.checked(x, self.in_channels, "a video")
        mean, std = in_micro_batches(self._encode_step[0], _fold(x), self.micro_batch_size, self.pieces)
        return Tensor(_unfold(mean, len(x))), Tensor(_unfold(std, len(x)))

    def decode(self, z: Array, num_frames: int | None = None) -> Tensor:
        """Videos of normalised latents (B, C, T, h, w); ``num_frames`` must be T if given."""
        z = self.checked(z, self.latent_channels, "latents")
        if num_frames not in (None, z.shape[2]):
            raise UserError(f"{z.shape[2]} latent frames cannot be decoded to num_frames={num_frames}")
        batch, z = len(z), self.denormalize(_fold(z))
        (images,) = in_micro_batches(self._decode_step[0], z, self.micro_batch_size, self.pieces)
        return Tensor(_unfold(images, batch))

    def encode_frames(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, C, T, h, w) of the latents before scale and shift, in one graph."""
        mean, logvar = self.encode_images(to_images(x))
        return to_video(mean, x.shape[0]), to_video(logvar, x.shape[0])

    def decode_frames(self, z: Tensor) -> Tensor:
        """Videos of normalised latents ``z``, in one graph."""
        return to_video(self.decode_images(to_images(self.denormalize(z))), z.shape[0])

    def construct(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log-variance in one graph; ``noise`` (B, C, T, h, w) samples the posterior."""
        mean, logvar = self.encode_frames(x)
        z = sampled(mean, logvar, noise)
        return to_video(self.decode_images(to_images(z)), x.shape[0]), mean, logvar


class VideoAutoencoderKL(FrameAutoencoder):
    """The autoencoder of Open-Sora 1.0 and 1.1: AutoencoderKL, whose latents are multiplied by 0.18215."""

    def __init__(self, config: FrameAutoencoderConfig):
        super().__init__()
        self.config = config
        self.module = AutoencoderKL(config.autoencoder_kl)
        self.in_channels = config.autoencoder_kl.in_channels
        self.latent_channels = config.autoencoder_kl.latent_channels
        self.spatial_compression = config.autoencoder_kl.spatial_compression
        self.micro_batch_size = config.micro_batch_size
        self.scale_factor = config.scale_factor

    def encode_images(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.module.encode(x)

    def decode_images(self, z: Tensor) -> Tensor:
        return self.module.decode(z)
