"""What all autoencoders of videos have in common.

Every autoencoder has two faces. `posterior`, `encode` and `decode` run on the host in pieces (micro batches, chunks of
frames, tiles), so that memory is bounded and each piece is compiled once per shape; `construct` is one differentiable
graph for training: ``(x, noise) -> (reconstruction, mean, logvar, ...)``. Videos are (B, 3, T, H, W) in [-1, 1],
latents (B, C, T', h, w), float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.models.autoencoder_kl import MAX_LOGVAR, MIN_LOGVAR
from mindone.nn.tiling import Tiles, run_tiled
from mindone.parallel.mesh import Mesh
from mindone.parallel.pieces import Pieces

Array = Tensor | np.ndarray
Size = tuple[int, int, int]


def positive_or_none(size: int | None) -> int | None:
    return size if size and size > 0 else None


def chunks(length: int, size: int | None) -> list[tuple[int, int]]:
    """Bounds of consecutive pieces of ``size``, the last one shorter; one piece if ``size`` is None."""
    size = size or length
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def on_host(x: Array) -> np.ndarray:
    return x.asnumpy() if isinstance(x, Tensor) else np.asarray(x)


def compute(step: Callable, piece: np.ndarray) -> tuple[np.ndarray, ...]:
    """The results of a network on a piece, on the host."""
    results = step(Tensor(np.ascontiguousarray(piece), ms.float32))
    return tuple(result.asnumpy() for result in (results if isinstance(results, tuple) else (results,)))


def in_micro_batches(
    step: Callable, samples: np.ndarray, size: int | None, pieces: Pieces | None = None
) -> list[np.ndarray]:
    """Applies ``step`` to micro batches of ``samples``, perhaps shared out, and concatenates each of its results.

    The last one is filled up with copies of its last sample, whose results are dropped: one shape, one compilation.
    """
    count = len(samples)

    def one(bounds: tuple[int, int]) -> tuple[np.ndarray, ...]:
        piece = samples[slice(*bounds)]
        filling = size - len(piece) if count > (size or count) else 0
        if filling:
            piece = np.concatenate([piece, np.repeat(piece[-1:], filling, axis=0)])
        return tuple(result[: len(piece) - filling] for result in compute(step, piece))

    collected = (pieces or Pieces()).map(one, chunks(count, size))
    return [np.concatenate(parts) for parts in zip(*collected)]


def unregistered(cell: nn.Cell) -> list[nn.Cell]:
    """A step shares its network's parameters; inside a list it does not become a child that would list them again."""
    return [cell]


class Autoencoder(nn.Cell):
    """The host-side interface, on `posterior`, `decode`, `latent_size` and a factor and shift of the latents.

    Attributes:
        latent_channels: channels of the latents.
        spatial_compression, time_compression: pixels per latent and side, frames per latent frame.
        scale_factor, shift_factor: normalised latents are ``scale_factor * (z - shift_factor)``.
        chunk_frames: so many frames at a time are encoded independently of the others; None: a video is one piece.
        pieces: how micro batches, chunks of frames and tiles are shared out over ranks.
    """

    latent_channels: int
    spatial_compression: int
    time_compression: int = 1
    scale_factor: float = 1.0
    shift_factor: float = 0.0
    chunk_frames: int | None = None
    pieces: Pieces = Pieces()

    def share(self, mesh: Mesh) -> None:
        """Every rank of a row of ``mesh`` computes a part of each video from now on; all of them get all of it."""
        self.pieces = Pieces(mesh)

    @property
    def chunk_latents(self) -> int:
        """Latent frames of a chunk: pieces of latents may start at its multiples; 1 if a video is one piece."""
        return self.latent_size((self.chunk_frames, 1, 1))[0] if self.chunk_frames else 1

    @property
    def is_causal(self) -> bool:
        """Whether the first latent frame is that of the first frame alone, and every other one of several frames."""
        return self.frames_of(2) - self.frames_of(1) == self.frames_of(3) - self.frames_of(2)

    def frames_of(self, latent_frames: int) -> int:
        """The largest number of frames that is encoded to so many latent ones; a single one is a picture.

        Raises:
            UserError: no video is encoded to so many latent frames.
        """
        if latent_frames == 1:
            return 1
        counts = range(latent_frames * self.time_compression, max(1, latent_frames) - 1, -1)
        for count in counts:
            if self.latent_size((count, 1, 1))[0] == latent_frames:
                return count
        raise UserError(f"no video has {latent_frames} latent frames; give num_frames")

    def load_statistics(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Takes from an autoencoder's weights what normalises latents, if that is among them, and nothing else."""

    def set_statistics(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Normalises latents of these means and standard deviations (C,) by one factor, and one shift if there is one.

        The config says both afterwards; DC-AE calls the inverse of its factor ``scaling_factor``.
        """
        mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        names = {field.name for field in dataclasses.fields(self.config)}
        shift = float(mean.mean()) if "shift_factor" in names else 0.0
        spread = float(np.sqrt((std**2 + (mean - shift) ** 2).mean()))
        changes = {"shift_factor": shift, "scale_factor": 1 / spread, "scaling_factor": spread}
        self.config = dataclasses.replace(self.config, **{name: changes[name] for name in changes if name in names})
        self.scale_factor, self.shift_factor = 1 / spread, shift

    def latent_size(self, size: Size) -> Size:
        """Frames, height and width of the latents of a (T, H, W) video."""
        factors = (self.time_compression, self.spatial_compression, self.spatial_compression)
        return tuple((length - 1) // factor + 1 for length, factor in zip(size, factors))

    def posterior(self, x: Array) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of ``x`` (B, 3, T, H, W) before scale and shift."""
        raise NotImplementedError

    def decode(self, z: Array, num_frames: int | None = None) -> Tensor:
        """Videos of normalised latents ``z`` (B, C, T', h, w)."""
        raise NotImplementedError

    def encode(self, x: Array, noise: Array | None = None) -> Tensor:
        """Normalised latents of videos ``x`` (B, 3, T, H, W): ``mean + std * noise``, or the mean without noise."""
        mean, std = self.posterior(x)
        return self.normalize(mean if noise is None else mean + std * Tensor(on_host(noise), ms.float32))

    def normalize(self, z: Tensor) -> Tensor:
        return (z - self.shift_factor) * self.scale_factor

    def denormalize(self, z: Tensor) -> Tensor:
        return z / self.scale_factor + self.shift_factor

    def set_tiling(self, spatial: bool = False, temporal: bool = False) -> None:
        """Whether videos larger than a tile are encoded and decoded in overlapping, blended tiles.

        Raises:
            UserError: this autoencoder has no tiles.
        """
        if spatial or temporal:
            raise UserError(f"{type(self).__name__} has no tiles; it is bounded by micro batches of frames")

    def checked(self, x: Array, channels: int, what: str) -> np.ndarray:
        x = on_host(x)
        if x.ndim != 5 or x.shape[1] != channels:
            raise UserError(f"{what} must have shape (B, {channels}, T, H, W), not {tuple(x.shape)}")
        return x


class _Moments(nn.Cell):
    def __init__(self, network: TiledAutoencoder):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x: Tensor) -> Tensor:
        return self.network.moments(x).astype(ms.float32)


class _Decode(nn.Cell):
    def __init__(self, network: TiledAutoencoder):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, z: Tensor) -> Tensor:
        return self.network.reconstruct(z).astype(ms.float32)


class TiledAutoencoder(Autoencoder):
    """An autoencoder of whole videos, in tiles if they are large and `set_tiling` says so.

    A network says what it computes: `moments` of pixels, and `reconstruct`, pixels of latents before scale and shift.
    """

    encode_tiles: tuple[Tiles, Tiles]
    """space and time"""
    decode_tiles: tuple[Tiles, Tiles]
    in_channels: int = 3
    micro_batch_size: int | None = 1

    def __init__(self):
        super().__init__()
        self.spatial_tiling = self.temporal_tiling = False
        self._moments = unregistered(_Moments(self))
        self._decode = unregistered(_Decode(self))

    def set_tiling(self, spatial: bool = False, temporal: bool = False) -> None:
        self.spatial_tiling, self.temporal_tiling = spatial, temporal

    def moments(self, x: Tensor) -> Tensor:
        """What is blended between tiles: mean and log-variance (B, 2C, T', h, w) of the latents, or the latents."""
        raise NotImplementedError

    def reconstruct(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def _in_tiles(self, x: np.ndarray, step: nn.Cell, tiles: tuple[Tiles, Tiles]) -> np.ndarray:
        space, time = (tile if on else None for tile, on in zip(tiles, (self.spatial_tiling, self.temporal_tiling)))

        def run(tile: np.ndarray) -> np.ndarray:
            return in_micro_batches(step, tile, self.micro_batch_size)[0]

        def each(run: Callable, tiles: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
            return (result for (result,) in self.pieces.map(lambda tile: (run(tile),), tiles))

        return run_tiled(x, run, space, time, each)

    def host_moments(self, x: Array) -> np.ndarray:
        return self._in_tiles(self.checked(x, self.in_channels, "a video"), self._moments[0], self.encode_tiles)

    def host_posterior(self, x: Array) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log-variance of the latents before scale and shift."""
        mean, logvar = np.split(self.host_moments(x), 2, axis=1)
        return mean, np.clip(logvar, MIN_LOGVAR, MAX_LOGVAR)

    def posterior(self, x: Array) -> tuple[Tensor, Tensor]:
        mean, logvar = self.host_posterior(x)
        return Tensor(np.ascontiguousarray(mean)), Tensor(np.exp(0.5 * logvar))

    def decode(self, z: Array, num_frames: int | None = None) -> Tensor:
        """Videos of normalised latents ``z`` (B, C, T', h, w), of at most ``num_frames`` frames."""
        z = self.checked(z, self.latent_channels, "latents")
        frames = self.frames_of(z.shape[2])
        if num_frames is not None and self.latent_size((num_frames, 1, 1))[0] != z.shape[2]:
            raise UserError(f"{z.shape[2]} latent frames cannot be decoded to num_frames={num_frames}")
        z = self.denormalize(Tensor(z, ms.float32)).asnumpy()
        video = self._in_tiles(z, self._decode[0], self.decode_tiles)
        return Tensor(np.ascontiguousarray(video[:, :, : min(frames, num_frames or frames)]))


def sampled(mean: Tensor, logvar: Tensor, noise: Tensor | None) -> Tensor:
    """``mean + std * noise``, or the mean without noise."""
    return mean if noise is None else mean + ops.exp(0.5 * logvar) * noise
