"""What autoencoders are trained for: reconstruction and a weak pull of its posterior towards N(0, 1).

The published loss is the sum of the errors of a frame (`negative_log_likelihood`) plus the weighted KL divergence of a
video (`divergence`). Here both are divided by the number of values that are reconstructed, of a frame and of a video,
so that its size does not depend on the clip.

Legend: `B` batch, `C` channels, `T` frames, `H`/`W` height/width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone.models.lpips import LPIPS
from opensora.models.autoencoder import Autoencoder, chunks
from opensora.models.vae_frames import to_images
from opensora.models.vae_v1_2 import VideoAutoencoder, gaussian_kl, joined


def frame_errors(target: Tensor, result: Tensor, distances: Tensor | None = None, weight: float = 0.0) -> Tensor:
    """Absolute errors of videos (B, C, T, H, W), as (B*T, C, H, W), plus weighted perceptual distances.

    Args:
        distances: (B*T, 1, 1, 1), one per frame, see `frame_distances`.
        weight: of them.
    """
    errors = to_images(ops.abs(target - result))
    return errors if distances is None else errors + weight * distances


def frame_distances(lpips: LPIPS, target: Tensor, result: Tensor) -> Tensor:
    """LPIPS (B*T, 1, 1, 1) of the frames of videos (B, 3 or 1, T, H, W) in [-1, 1]; gray is repeated for it."""
    first, second = to_images(target), to_images(result)
    if first.shape[1] == 1:
        size = (first.shape[0], 3, *first.shape[2:])
        first, second = ops.broadcast_to(first, size), ops.broadcast_to(second, size)
    return lpips(first, second)[0]


def negative_log_likelihood(errors: Tensor, logvar: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """The published reconstruction loss (Open-Sora 1.2 to 2.0): the sum over a frame, the mean over (B*T) frames.

    Args:
        errors: (B*T, C, H, W), see `frame_errors`.
        logvar: logarithm of the variance of all values, a number, which is not trained; None: 0.
        weights: (B*T, 1, 1, 1), of frames.
    """
    values = errors if logvar is None else errors / ops.exp(logvar) + logvar
    values = values if weights is None else weights * values
    return values.sum() / errors.shape[0]


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """The mean over videos of the KL divergence from N(0, 1), summed over all values of a video's latents."""
    return gaussian_kl(mean, logvar).mean()


@dataclass(frozen=True)
class LossWeights:
    """Weights of the squared error, the KL divergence and LPIPS, beside an absolute error of weight 1."""

    mse: float = 0.0
    kl: float = 1e-6
    perceptual: float = 0.0
    image_identity: bool = False
    """pull the latents of images towards the frame latents they are made of"""


class _ReconstructionLoss(nn.Cell):
    """``lpips`` adds perceptual distances where pixels are compared."""

    def __init__(self, weights: LossWeights, lpips: LPIPS | None = None):
        super().__init__(auto_prefix=False)
        self.weights, self.lpips = weights, lpips

    def construct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, tuple]:
        error, rest, parts, _ = self.reconstructed(x, noise)
        return error + rest, parts

    def errors(
        self, target: Tensor, result: Tensor, mean: Tensor, logvar: Tensor | None, pixels: bool = True
    ) -> tuple[Tensor, Tensor, tuple]:
        """The terms of the loss about the reconstruction and about the posterior, and the parts of both.

        Those are the absolute error, squared error, KL divergence per latent value, and LPIPS of a frame.
        """
        none = ops.zeros((), ms.float32)
        distances = frame_distances(self.lpips, target, result) if pixels and self.lpips is not None else None
        errors = frame_errors(target, result, distances, self.weights.perceptual)
        mse = ops.square(result - target).mean()
        kl = none if logvar is None else divergence(mean, logvar)
        likelihood = negative_log_likelihood(errors) / math.prod(errors.shape[1:])
        error, pull = likelihood + self.weights.mse * mse, self.weights.kl / math.prod(target.shape[1:]) * kl
        distance = none if distances is None else distances.mean()
        l1 = likelihood - self.weights.perceptual * distance
        return error, pull, (l1, mse, kl / math.prod(mean.shape[1:]), distance)

    def identity(self, z: Tensor, latents: Tensor) -> Tensor:
        """Mean absolute difference between frame latents and latents; 0 for clips, or if it is not asked for."""
        if self.weights.image_identity and z.shape[2] == 1:
            return ops.abs(latents - z).mean()
        return ops.zeros((), ms.float32)


class PixelLoss(_ReconstructionLoss):
    """Any autoencoder ``(x, noise) -> (reconstruction, mean, logvar)``: pixels of ``x`` (B, 3, T, H, W).

    ``noise`` has the shape of the latents. A deterministic autoencoder gives no log-variance, and has no divergence.
    """

    def __init__(self, autoencoder: Autoencoder, weights: LossWeights, lpips: LPIPS | None = None):
        super().__init__(weights, lpips)
        self.network = autoencoder

    def reconstructed(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, tuple, Tensor]:
        """The terms of the loss that are and are not about pixels, the parts, and the reconstruction."""
        results = self.network(x, noise)
        return *self.errors(x, results[0], results[1], results[2] if len(results) > 2 else None), results[0]


class FrameLoss(PixelLoss):
    """The 2D part of the 1.2 autoencoder alone."""

    def __init__(self, autoencoder: VideoAutoencoder, weights: LossWeights, lpips: LPIPS | None = None):
        super().__init__(autoencoder.spatial_vae, weights, lpips)


class TimeLoss(_ReconstructionLoss):
    """The temporal part alone: scaled frame latents ``z`` (B, 4, T, h, w), ``noise`` (B, 4, T', h, w)."""

    def __init__(self, autoencoder: VideoAutoencoder, weights: LossWeights):
        super().__init__(weights)
        self.network = autoencoder.temporal_vae
        self.chunk = autoencoder.config.micro_frame_size

    def construct(self, z: Tensor, noise: Tensor) -> tuple[Tensor, tuple]:
        results, sampled, means, logvars, done = [], [], [], [], 0
        for start, stop in chunks(z.shape[2], self.chunk):
            mean, logvar = self.network.encode(z[:, :, start:stop])
            piece = noise[:, :, done : done + mean.shape[2]]
            sampled.append(mean + ops.exp(0.5 * logvar) * piece)
            results.append(self.network.decode(sampled[-1], stop - start))
            means.append(mean)
            logvars.append(logvar)
            done += mean.shape[2]
        error, pull, parts = self.errors(z, joined(results), joined(means), joined(logvars), pixels=False)
        return error + pull + self.identity(z, joined(sampled)), parts


class VideoLoss(_ReconstructionLoss):
    """The whole autoencoder: pixels, and the frame latents too if ``latents``."""

    def __init__(
        self,
        autoencoder: VideoAutoencoder,
        weights: LossWeights,
        pixels: bool = True,
        latents: bool = False,
        lpips: LPIPS | None = None,
    ):
        super().__init__(weights, lpips)
        self.network = autoencoder
        self.pixels, self.latents = pixels, latents

    def reconstructed(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, tuple, Tensor]:
        """See `PixelLoss.reconstructed`."""
        reconstruction, mean, logvar, z, z_reconstruction = self.network(x, noise)
        rest = self.identity(z, mean + ops.exp(0.5 * logvar) * noise)
        if not self.pixels:
            error, pull, parts = self.errors(z, z_reconstruction, mean, logvar, pixels=False)
            return error, pull + rest, parts, reconstruction
        error, pull, parts = self.errors(x, reconstruction, mean, logvar)
        if self.latents:
            rest = rest + ops.abs(z_reconstruction - z).mean()
        return error, pull + rest, parts, reconstruction
