"""Rectified flow on packed latents with timesteps shifted by size, as Flux and its video descendants use it.

With ``t`` in [0, 1] and ``t = 1`` pure noise (Esser et al., "Scaling Rectified Flow Transformers", has the shift)::

    x_t = (1 - t) x_0 + (1 - (1 - sigma_min)(1 - t)) noise        velocity = (1 - sigma_min) noise - x_0
    z <- z + (t_{i+1} - t_i) velocity                             t' = a t / (1 + (a - 1) t)

Functions on points of the path are plain arithmetic on numpy arrays or MindSpore tensors, also inside a graph.

Legend: ``B`` batch, ``C`` channels, ``T`` latent frames, ``H``/``W`` latent height and width, ``p`` side of a patch,
``N = T * H/p * W/p`` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mindone.errors import UserError

SIGMA_MIN = 1e-5
# The shift is 1 at 256 tokens per frame and 3 at 4096, on a line.
LINE = ((256, 1.0), (4096, 3.0))
# Oscillating guidance leaves the first steps alone.
STEADY_STEPS = 10

Velocity = Callable[[np.ndarray, float, float, np.ndarray], np.ndarray]


def shift_of(tokens_per_frame: float, latent_frames: float) -> float:
    """The factor ``a`` by which timesteps are shifted towards noise."""
    (x1, y1), (x2, y2) = LINE
    return (y1 + (y2 - y1) / (x2 - x1) * (tokens_per_frame - x1)) * math.sqrt(latent_frames)


def shifted(t, alpha):
    """Timesteps in [0, 1] moved towards noise (alpha > 1) or data (alpha < 1); both ends stay."""
    return alpha * t / (1 + (alpha - 1) * t)


def point_on_path(x_start, noise, t, sigma_min: float = SIGMA_MIN):
    """The point at ``t``, (B,), of the path from ``x_start`` to ``noise``, (B, ...)."""
    t = t.reshape(-1, *[1] * (x_start.ndim - 1))
    return (1 - t) * x_start + (1 - (1 - sigma_min) * (1 - t)) * noise


def velocity_of(x_start, noise, sigma_min: float = SIGMA_MIN):
    """What the network learns to predict."""
    return (1 - sigma_min) * noise - x_start


# --- tokens ----------------------------------------------------------------------------------------------------------


def pack(x, patch: int):
    """Latents (B, C, T, H, W) to tokens (B, N, C p p): tokens in the order t, h, w; features in the order c, ph, pw."""
    batch, channels, frames, height, width = x.shape
    rows, columns = height // patch, width // patch
    x = x.reshape(batch, channels, frames, rows, patch, columns, patch)
    x = x.transpose(0, 2, 3, 5, 1, 4, 6)
    return x.reshape(batch, frames * rows * columns, channels * patch * patch)


def unpack(tokens, size: tuple[int, int, int], patch: int):
    """Tokens (B, N, C p p) to latents (B, C, T, H, W) of ``size`` (T, H, W)."""
    frames, height, width = size
    rows, columns = height // patch, width // patch
    x = tokens.reshape(tokens.shape[0], frames, rows, columns, -1, patch, patch)
    x = x.transpose(0, 4, 1, 2, 5, 3, 6)
    return x.reshape(tokens.shape[0], -1, frames, height, width)


def token_positions(size: tuple[int, int, int], patch: int) -> np.ndarray:
    """(1, N, 3) float32: frame, row and column of every token of latents of ``size`` (T, H, W)."""
    frames, height, width = size
    grid = np.meshgrid(np.arange(frames), np.arange(height // patch), np.arange(width // patch), indexing="ij")
    return np.stack(grid, -1).reshape(1, -1, 3).astype(np.float32)


# --- sampling --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShiftedFlowConfig:
    """Settings of sampling."""

    num_steps: int = 50
    """Euler steps from noise to data"""
    guidance: float = 7.5
    """text guidance: how far from the negative text"""
    guidance_img: float = 3.0
    """image guidance: how far from a video without the given frames"""
    shift: bool = True
    """move timesteps by the size of the video"""
    flow_shift: float | None = None
    """a fixed factor instead of that of the size"""
    text_osci: bool = False
    """every odd step after the first ten has text guidance 1"""
    image_osci: bool = False
    """the same for image guidance"""
    scale_temporal_osci: bool = False
    """image guidance falls over the steps, and rises over the frames of a step"""

    def __post_init__(self):
        if self.num_steps < 1:
            raise UserError(f"num_steps={self.num_steps} has to be at least 1")
        if self.flow_shift is not None and not self.flow_shift > 0:
            raise UserError(f"flow_shift={self.flow_shift} has to be larger than 0")


def oscillating(guidance: float, step: int) -> float:
    """The guidance of a step: the value itself, or 1 for odd steps after the first ten."""
    return guidance if step < STEADY_STEPS or step % 2 == 0 else 1.0


class ShiftedFlow:
    """Schedule, guidance per step, and the sampling loop."""

    def __init__(self, config: ShiftedFlowConfig | None = None):
        self.config = config or ShiftedFlowConfig()

    def timesteps(self, tokens_per_frame: int, latent_frames: int) -> np.ndarray:
        """(num_steps + 1,) float32 from 1 to 0."""
        t = np.linspace(1, 0, self.config.num_steps + 1, dtype=np.float32)
        if not self.config.shift:
            return t
        alpha = self.config.flow_shift or shift_of(tokens_per_frame, latent_frames)
        return np.asarray(shifted(t, np.float32(alpha)), np.float32)

    def scales(self, step: int, latent_frames: int) -> tuple[float, np.ndarray]:
        """Text guidance, and image guidance per latent frame (T,), of a step."""
        config = self.config
        text = oscillating(config.guidance, step) if config.text_osci else config.guidance
        image = oscillating(config.guidance_img, step) if config.image_osci else config.guidance_img
        if config.scale_temporal_osci and image > 1.0:
            upper = np.linspace(config.guidance_img, 1.0, config.num_steps + 1)[step]
            return text, np.linspace(1.0, upper, latent_frames, dtype=np.float32)
        return text, np.full(latent_frames, image, np.float32)

    def sample(self, velocity: Velocity, latents: np.ndarray, tokens_per_frame: int) -> Iterator[np.ndarray]:
        """Euler steps from noise to data; yields the latents after every step, the last ones being the result.

        Args:
            velocity: ``velocity(z, t, text_scale, image_scale)`` gives the guided (B, C, T, H, W); image_scale is (T,).
            latents: (B, C, T, H, W) noise.
            tokens_per_frame: H/p * W/p.
        """
        z = np.asarray(latents, np.float32)
        timesteps = self.timesteps(tokens_per_frame, z.shape[2])
        for step, (t, following) in enumerate(zip(timesteps, timesteps[1:])):
            z = z + (following - t) * np.asarray(velocity(z, float(t), *self.scales(step, z.shape[2])), np.float32)
            yield z


# --- training --------------------------------------------------------------------------------------------------------


def draw_timesteps(generators: Sequence[np.random.Generator], alpha: float) -> np.ndarray:
    """One timestep per sample, shifted logit-normal, each from the sample's own stream; (B,) float32 in (0, 1)."""
    return timesteps_from_draws(np.array([g.standard_normal() for g in generators], np.float32), alpha)


def timesteps_from_draws(draws: np.ndarray, alpha: float) -> np.ndarray:
    """As `draw_timesteps`, from (B,) standard normal draws."""
    t = 1 / (1 + np.exp(-np.asarray(draws, np.float32)))
    return np.asarray(shifted(t, np.float32(alpha)), np.float32)
