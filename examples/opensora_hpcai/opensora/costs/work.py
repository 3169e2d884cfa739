"""What a training step computes: FLOPs of denoisers and encoders, from their sizes alone.

A multiplication and an addition are two FLOPs. Legend: `T`/`H`/`W` frames, height and width in pixels.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opensora.sizes import VideoSize

if TYPE_CHECKING:
    from opensora.models.autoencoder import Autoencoder
    from opensora.models.types import DenoiserConfig

# Gradients of a product are two more products of its size.
BACKWARD_PASSES = 2
# Where names of an encoder say the level of a convolution: every level has half the side of the one before.
_LEVEL = re.compile(r"\b(?:down_blocks|down|stages)\.(\d+)\.")
_OF_TIME = "temporal_vae."


@dataclass(frozen=True)
class Network:
    """A denoiser, as far as costs depend on it."""

    config: DenoiserConfig
    parameters: int
    trained: int
    """of the parameters, those that have gradients"""


@dataclass(frozen=True)
class MicroBatch:
    """What one rank, or the ranks that share a video, compute before an update."""

    latent_size: VideoSize
    text_tokens: int
    samples: int
    encoder_flops: float = 0.0
    """of the autoencoder, for one sample; 0: latents are cached"""


def forward_flops(network: Network, batch: MicroBatch) -> float:
    """One pass of the denoiser over all samples."""
    return batch.samples * network.config.forward_flops(batch.latent_size, batch.text_tokens)


def training_flops(network: Network, batch: MicroBatch, recomputed: float = 0.0) -> float:
    """Forward and backward pass of the denoiser; ``recomputed`` is the share of its blocks that is computed again."""
    passes = 1 + BACKWARD_PASSES + recomputed
    if network.trained < network.parameters / 2:
        # Frozen matrices have no gradients of their own.
        passes -= 1
    return passes * forward_flops(network, batch)


def encoder_flops(autoencoder: Autoencoder, size: VideoSize) -> float:
    """Encoding one video, from the shapes and names of the encoder's kernels: each is applied at every position of its
    level. Attention between positions is left out: pictures are too small for it to count.
    """
    frames, height, width = size
    kernels = [
        (name, math.prod(parameter.shape))
        for name, parameter in autoencoder.parameters_and_names()
        if "encoder." in name and len(parameter.shape) > 1
    ]
    last = max((level for level in map(_level, (name for name, _ in kernels)) if level is not None), default=0)
    latent_frames = autoencoder.latent_size(size)[0]
    flops = 0.0
    for name, numbers in kernels:
        if name.startswith(_OF_TIME):
            # Works on the latents of frames, at first of all frames, at last of one in so many.
            positions = (frames + latent_frames) / 2 * height * width / autoencoder.spatial_compression**2
        else:
            level = _level(name)
            level = (0 if "_in." in name else last) if level is None else level
            depth = max(frames / 2**level, latent_frames) if autoencoder.time_compression > 1 else frames
            depth = frames if name.startswith("spatial_vae.") else depth
            positions = depth * height * width / 4**level
        flops += 2 * numbers * positions
    return flops


def _level(name: str) -> int | None:
    found = _LEVEL.search(name)
    return int(found[1]) if found else None
