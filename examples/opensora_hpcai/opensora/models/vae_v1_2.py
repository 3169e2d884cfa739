"""The video autoencoder of Open-Sora 1.2: an image autoencoder, and a temporal autoencoder behind it.

Videos are (B, 3, T, H, W) in [-1, 1], latents (B, 4, T', H/8, W/8), float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindone.errors import UserError
from mindone.models.autoencoder_kl import AutoencoderKLConfig
from mindone.models.presets import config_of
from mindone.parallel.mesh import Mesh
from opensora.models.autoencoder import Array, Autoencoder, Size, chunks, compute, positive_or_none, unregistered
from opensora.models.vae_frames import FrameAutoencoderConfig, VideoAutoencoderKL
from opensora.models.vae_temporal import TemporalAutoencoder, TemporalAutoencoderConfig


@dataclass(frozen=True)
class VideoAutoencoderConfig:
    """`VideoAutoencoder`: its two halves, the sizes of the pieces it works in, and the latents' normalisation.

    ``micro_frame_size`` changes results: chunks are encoded independently. None encodes a video as a whole.
    """

    kind: str = "pipeline"
    autoencoder_kl: AutoencoderKLConfig = field(default_factory=AutoencoderKLConfig)
    vae_temporal: TemporalAutoencoderConfig = field(default_factory=TemporalAutoencoderConfig)
    micro_batch_size: int | None = 4
    micro_frame_size: int | None = 17
    shift: tuple[float, ...] = (-0.10, 0.34, 0.27, 0.98)
    scale: tuple[float, ...] = (3.85, 2.32, 2.33, 3.06)

    def __post_init__(self) -> None:
        for name in ("micro_batch_size", "micro_frame_size"):
            object.__setattr__(self, name, positive_or_none(getattr(self, name)))
        channels = self.vae_temporal.embed_dim
        for name in ("shift", "scale"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != channels:
                raise UserError(f"{name} has {len(getattr(self, name))} values for {channels} latent channels")
        if self.autoencoder_kl.latent_channels != self.vae_temporal.in_out_channels:
            raise UserError(
                f"autoencoder_kl.latent_channels={self.autoencoder_kl.latent_channels} must equal "
                f"vae_temporal.in_out_channels={self.vae_temporal.in_out_channels}"
            )

    @classmethod
    def from_dict(cls, values: Mapping) -> VideoAutoencoderConfig:
        """Takes a ``config.json``; absent parts have the published sizes, so the published file is understood too.

        ``autoencoder_kl`` may be the name of a preset, see `mindone.models.presets`.
        """
        plain = {name: values[name] for name in ("shift", "scale") if name in values}
        return cls(
            autoencoder_kl=config_of(AutoencoderKLConfig, values.get("autoencoder_kl", {})),
            vae_temporal=TemporalAutoencoderConfig.from_dict(values.get("vae_temporal", {})),
            micro_batch_size=values.get("micro_batch_size", 4),
            micro_frame_size=values.get("micro_frame_size", 17),
            **plain,
        )

    def to_dict(self) -> dict:
        return asdict(self)


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence from N(0, 1) per sample (B,): ``0.5 * sum(mean² + var - 1 - logvar)`` over all other axes."""
    terms = ops.square(mean) + ops.exp(logvar) - 1.0 - logvar
    return 0.5 * terms.reshape(mean.shape[0], -1).sum(-1)


class _TemporalEncodeStep(nn.Cell):
    """Mean and standard deviation from the log-variance, in float32: the piece of `posterior` that is compiled."""

    def __init__(self, network: TemporalAutoencoder):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.network.encode(x)
        return mean.astype(ms.float32), ops.exp(0.5 * logvar.astype(ms.float32))


class _TemporalDecodeStep(nn.Cell):
    def __init__(self, network: nn.Cell, num_frames: int):
        super().__init__(auto_prefix=False)
        self.network = network
        self.num_frames = num_frames

    def construct(self, z: Tensor) -> Tensor:
        return self.network.decode(z, self.num_frames).astype(ms.float32)


class VideoAutoencoder(Autoencoder):
    """The autoencoder of Open-Sora 1.2: frames, then time, then ``(z - shift) / scale``.

    The frames are cut into chunks of `micro_frame_size`, each of which starts anew in time; an image is one frame.
    """

    def __init__(self, config: VideoAutoencoderConfig):
        super().__init__()
        self.config = config
        self.spatial_vae = VideoAutoencoderKL(
            FrameAutoencoderConfig(autoencoder_kl=config.autoencoder_kl, micro_batch_size=config.micro_batch_size)
        )
        self.temporal_vae = TemporalAutoencoder(config.vae_temporal)
        self.shift = _per_channel(config.shift)
        self.scale = _per_channel(config.scale)
        self.latent_channels = config.vae_temporal.embed_dim
        self.spatial_compression = config.autoencoder_kl.spatial_compression
        self.time_compression = config.vae_temporal.time_compression
        self.chunk_frames = config.micro_frame_size
        self._encode_step = unregistered(_TemporalEncodeStep(self.temporal_vae))
        self._decode_steps: dict[int, _TemporalDecodeStep] = {}

    def share(self, mesh: Mesh) -> None:
        super().share(mesh)
        self.spatial_vae.share(mesh)

    def load_statistics(self, tensors: Mapping[str, np.ndarray]) -> None:
        for name, parameter in (("shift", self.shift), ("scale", self.scale)):
            if name in tensors:
                parameter.set_data(Tensor(np.asarray(tensors[name], np.float32).reshape(parameter.shape)))

    def set_statistics(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Normalises every channel by its own mean and standard deviation (C,)."""
        for parameter, values in ((self.shift, mean), (self.scale, std)):
            parameter.set_data(Tensor(np.asarray(values, np.float32).reshape(parameter.shape)))
        self.config = replace(self.config, shift=tuple(map(float, mean)), scale=tuple(map(float, std)))

    def latent_size(self, size: Size) -> Size:
        """Frames, height and width of the latents of a (T, H, W) video: 17 frames → 5, 34 → 10, 1 → 1."""
        pieces = chunks(size[0], self.config.micro_frame_size)
        frames = sum(self.temporal_vae.latent_size((stop - start, 0, 0))[0] for start, stop in pieces)
        return frames, *self.spatial_vae.latent_size(size)[1:]

    def _decode_pieces(self, num_frames: int) -> list[tuple[int, int, int]]:
        """For each chunk: first and last latent frame and how many frames it decodes to."""
        pieces, start = [], 0
        for first, last in chunks(num_frames, self.config.micro_frame_size):
            stop = start + self.temporal_vae.latent_size((last - first, 0, 0))[0]
            pieces.append((start, stop, last - first))
            start = stop
        return pieces

    def posterior(self, x: Array, spatial_noise: Array | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of ``x`` (B, 3, T, H, W) before shift and scale.

        The frames' own latents are their posterior means, or samples if ``spatial_noise`` (B, 4, T, h, w) is given.
        """
        z = self.spatial_vae.encode(x, spatial_noise).asnumpy()
        parts = self.pieces.map(
            lambda bounds: compute(self._encode_step[0], z[:, :, slice(*bounds)]),
            chunks(z.shape[2], self.config.micro_frame_size),
        )
        mean, std = (np.concatenate(part, axis=2) for part in zip(*parts))
        return Tensor(mean), Tensor(std)

    def normalize(self, z: Tensor) -> Tensor:
        return (z - self.shift) / self.scale

    def denormalize(self, z: Tensor) -> Tensor:
        return z * self.scale + self.shift

    def decode(self, z: Array, num_frames: int) -> Tensor:
        """Videos (B, 3, num_frames, H, W) of normalised latents ``z`` (B, 4, T', h, w)."""
        z = self.checked(z, self.latent_channels, "latents")
        pieces = self._decode_pieces(num_frames)
        if num_frames < 1 or pieces[-1][1] != z.shape[2]:
            raise UserError(f"{z.shape[2]} latent frames cannot be decoded to num_frames={num_frames}")
        z = self.denormalize(Tensor(z, ms.float32)).asnumpy()
        parts = self.pieces.map(
            lambda piece: compute(self._temporal_decode_step(piece[2]), z[:, :, piece[0] : piece[1]]), pieces
        )
        return self.spatial_vae.decode(np.concatenate([part for (part,) in parts], axis=2))

    def _temporal_decode_step(self, num_frames: int) -> _TemporalDecodeStep:
        if num_frames not in self._decode_steps:
            self._decode_steps[num_frames] = _TemporalDecodeStep(self.temporal_vae, num_frames)
        return self._decode_steps[num_frames]

    def encode_time(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, 4, T', h, w) of scaled frame latents ``z`` (B, 4, T, h, w), in one graph."""
        means, logvars = [], []
        for start, stop in chunks(z.shape[2], self.config.micro_frame_size):
            mean, logvar = self.temporal_vae.encode(z[:, :, start:stop])
            means.append(mean)
            logvars.append(logvar)
        return joined(means), joined(logvars)

    def decode_time(self, z: Tensor, num_frames: int) -> Tensor:
        """Scaled frame latents (B, 4, num_frames, h, w) of latents before shift and scale, in one graph."""
        parts = []
        for start, stop, frames in self._decode_pieces(num_frames):
            parts.append(self.temporal_vae.decode(z[:, :, start:stop], frames))
        return joined(parts)

    def construct(
        self, x: Tensor, noise: Tensor | None = None, spatial_noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One differentiable graph for training.

        Returns the reconstruction of ``x`` (B, 3, T, H, W); mean and log-variance of the latents (before shift and
        scale); the scaled frame latents ``z`` (B, 4, T, h, w), and their reconstruction by the temporal half.
        """
        frame_mean, frame_logvar = self.spatial_vae.encode_frames(x)
        z = frame_mean if spatial_noise is None else frame_mean + ops.exp(0.5 * frame_logvar) * spatial_noise
        z = self.spatial_vae.normalize(z)
        mean, logvar = self.encode_time(z)
        latents = mean if noise is None else mean + ops.exp(0.5 * logvar) * noise
        z_reconstruction = self.decode_time(latents, x.shape[2])
        return self.spatial_vae.decode_frames(z_reconstruction), mean, logvar, z, z_reconstruction


def joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else ops.concat(parts, 2)


def _per_channel(values: tuple[float, ...]) -> Parameter:
    return Parameter(Tensor(np.array(values, np.float32).reshape(1, -1, 1, 1, 1)), requires_grad=False)
