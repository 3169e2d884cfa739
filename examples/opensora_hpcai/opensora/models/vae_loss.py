"""What autoencoders are trained for: reconstruction and a weak pull of its posterior towards N(0, 1).

The published loss is a sum of absolute errors per video plus ``kl_weight`` times the summed KL divergence. Divided by
the number of values that are reconstructed, as here, it has the same minimum, and its size does not depend on the clip.

Legend: `B` batch, `C` channels, `T` frames, `H`/`W` height/width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops

from opensora.models.autoencoder import Autoencoder, chunks
from opensora.models.vae_v1_2 import VideoAutoencoder, gaussian_kl, joined


@dataclass(frozen=True)
class LossWeights:
    """Weights of the squared error and of the KL divergence, beside an absolute error of weight 1."""

    mse: float = 0.0
    kl: float = 1e-6
    image_identity: bool = False
    """pull the latents of images towards the frame latents they are made of"""


class _ReconstructionLoss(nn.Cell):
    def __init__(self, weights: LossWeights):
        super().__init__(auto_prefix=False)
        self.weights = weights

    def compare(self, target: Tensor, result: Tensor, mean: Tensor, logvar: Tensor | None) -> tuple[Tensor, tuple]:
        """The loss, and its absolute error, squared error and KL divergence per latent value."""
        difference = result - target
        l1, mse = ops.abs(difference).mean(), ops.square(difference).mean()
        kl = ops.zeros((), ms.float32) if logvar is None else gaussian_kl(mean, logvar).mean()
        loss = l1 + self.weights.mse * mse + self.weights.kl / math.prod(target.shape[1:]) * kl
        return loss, (l1, mse, kl / math.prod(mean.shape[1:]))

    def identity(self, z: Tensor, latents: Tensor) -> Tensor:
        """Mean absolute difference between frame latents and latents; 0 for clips, or if it is not asked for."""
        if self.weights.image_identity and z.shape[2] == 1:
            return ops.abs(latents - z).mean()
        return ops.zeros((), ms.float32)


class PixelLoss(_ReconstructionLoss):
    """Any autoencoder ``(x, noise) -> (reconstruction, mean, logvar)``: pixels of ``x`` (B, 3, T, H, W).

    ``noise`` has the shape of the latents. A deterministic autoencoder gives no log-variance, and has no divergence.
    """

    def __init__(self, autoencoder: Autoencoder, weights: LossWeights):
        super().__init__(weights)
        self.network = autoencoder

    def construct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, tuple]:
        results = self.network(x, noise)
        return self.compare(x, results[0], results[1], results[2] if len(results) > 2 else None)


class FrameLoss(PixelLoss):
    """The 2D part of the 1.2 autoencoder alone."""

    def __init__(self, autoencoder: VideoAutoencoder, weights: LossWeights):
        super().__init__(autoencoder.spatial_vae, weights)


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
        loss, parts = self.compare(z, joined(results), joined(means), joined(logvars))
        return loss + self.identity(z, joined(sampled)), parts


class VideoLoss(_ReconstructionLoss):
    """The whole autoencoder: pixels, and the frame latents too if ``latents``."""

    def __init__(self, autoencoder: VideoAutoencoder, weights: LossWeights, pixels: bool = True, latents: bool = False):
        super().__init__(weights)
        self.network = autoencoder
        self.pixels, self.latents = pixels, latents

    def construct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, tuple]:
        reconstruction, mean, logvar, z, z_reconstruction = self.network(x, noise)
        identity = self.identity(z, mean + ops.exp(0.5 * logvar) * noise)
        if not self.pixels:
            loss, parts = self.compare(z, z_reconstruction, mean, logvar)
            return loss + identity, parts
        loss, parts = self.compare(x, reconstruction, mean, logvar)
        if self.latents:
            loss = loss + ops.abs(z_reconstruction - z).mean()
        return loss + identity, parts
