"""How the first release compressed videos: not at all, or by VideoGPT's VQ-VAE.

Both have pixels in [-0.5, 0.5] inside; outside, videos are (B, 3, T, H, W) in [-1, 1] as for every autoencoder.

Legend: `B` batch, `C` channels, `T'`/`h`/`w` latent frames, height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindone.errors import UserError
from opensora.model_folder import config_from
from opensora.models.autoencoder import Array, Autoencoder, Size, in_micro_batches, unregistered
from opensora.models.vqvae import VQVAE, VQVAEConfig

HALF = 0.5


@dataclass(frozen=True)
class RawConfig:
    """Nothing to choose."""

    kind: str = "raw"
    scale_factor: float = HALF

    @classmethod
    def from_dict(cls, values: Mapping) -> RawConfig:
        return cls()

    def to_dict(self) -> dict:
        return asdict(self)


class RawPixels(Autoencoder):
    """Latents are the pixels; there are no weights."""

    latent_channels = 3
    spatial_compression = 1
    chunk_frames = 1

    def __init__(self, config: RawConfig):
        super().__init__()
        self.config, self.scale_factor = config, config.scale_factor

    def posterior(self, x: Array) -> tuple[Tensor, Tensor]:
        x = Tensor(np.ascontiguousarray(self.checked(x, 3, "a video")), ms.float32)
        return x, Tensor(np.zeros(x.shape, np.float32))

    def decode(self, z: Array, num_frames: int | None = None) -> Tensor:
        z = self.checked(z, 3, "latents")
        if num_frames not in (None, z.shape[2]):
            raise UserError(f"{z.shape[2]} latent frames cannot be decoded to num_frames={num_frames}")
        return self.denormalize(Tensor(np.ascontiguousarray(z), ms.float32))


@dataclass(frozen=True)
class VQAutoencoderConfig:
    """The VQ-VAE, and how many videos go through it at once (None: all)."""

    kind: str = "vqvae"
    vqvae: VQVAEConfig = field(default_factory=VQVAEConfig)
    micro_batch_size: int | None = 1
    scale_factor: float = 1.0

    @classmethod
    def from_dict(cls, values: Mapping) -> VQAutoencoderConfig:
        """Takes our ``config.json``, or the arguments of a published VideoGPT."""
        return cls(
            vqvae=config_from(VQVAEConfig, values.get("vqvae", values)),
            micro_batch_size=values.get("micro_batch_size", 1),
            scale_factor=values.get("scale_factor", 1.0),
        )

    def to_dict(self) -> dict:
        return asdict(self)


class _Vectors(nn.Cell):
    def __init__(self, network: VQVAE):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x: Tensor) -> Tensor:
        return self.network.encode(x * HALF)[1].astype(ms.float32)


class _Videos(nn.Cell):
    def __init__(self, network: VQVAE):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, z: Tensor) -> Tensor:
        return (self.network.decode(z) / HALF).astype(ms.float32)


class VQAutoencoder(Autoencoder):
    """Latents (B, C, T', h, w) are rows of the codebook, in training too: there is nothing to sample."""

    def __init__(self, config: VQAutoencoderConfig):
        super().__init__()
        self.config, self.scale_factor = config, config.scale_factor
        self.module = VQVAE(config.vqvae)
        self.latent_channels = config.vqvae.embedding_dim
        self.time_compression, self.spatial_compression = config.vqvae.downsample[:2]
        self._encode, self._decode = unregistered(_Vectors(self.module)), unregistered(_Videos(self.module))

    def latent_size(self, size: Size) -> Size:
        """Frames, height and width of the latents of a (T, H, W) video; a remainder is lost."""
        return tuple(length // factor for length, factor in zip(size, self.config.vqvae.downsample))

    def frames_of(self, latent_frames: int) -> int:
        return latent_frames * self.time_compression

    def posterior(self, x: Array) -> tuple[Tensor, Tensor]:
        x = self.checked(x, 3, "a video")
        if min(self.latent_size(x.shape[2:])) < 1:
            raise UserError(
                f"a video of {x.shape[2]}x{x.shape[3]}x{x.shape[4]} is too small for the VQ-VAE, one of whose latents "
                f"stands for {'x'.join(map(str, self.config.vqvae.downsample))}; use more num_frames or image_size"
            )
        (vectors,) = in_micro_batches(self._encode[0], x, self.config.micro_batch_size, self.pieces)
        return Tensor(vectors), Tensor(np.zeros_like(vectors))

    def decode(self, z: Array, num_frames: int | None = None) -> Tensor:
        """Videos of normalised latents, which are not quantised again; of at most ``num_frames`` frames."""
        z = self.checked(z, self.latent_channels, "latents")
        z = self.denormalize(Tensor(np.ascontiguousarray(z), ms.float32)).asnumpy()
        (video,) = in_micro_batches(self._decode[0], z, self.config.micro_batch_size, self.pieces)
        return Tensor(np.ascontiguousarray(video[:, :, :num_frames]))
