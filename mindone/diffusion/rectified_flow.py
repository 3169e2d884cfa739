"""Rectified flow: straight paths between data and noise, learned as a velocity.

With ``tau = t / num_timesteps`` in [0, 1] and ``tau = 1`` pure noise (Liu et al., "Flow Straight and Fast", and
Open-Sora 1.2)::

    x_t = (1 - tau) * x_0 + tau * noise        velocity = x_0 - noise        z <- z + velocity * (tau_i - tau_{i+1})

`point_on_path` and `training_loss` are plain arithmetic: they take numpy arrays as well as MindSpore tensors and may be
called inside a compiled graph. Timesteps and the sampling loop live on the host, in numpy. No network is known here:
the caller gives the draws, the noise and a velocity function.

Legend: ``B`` batch, ``C`` channels, ``T`` latent frames, ``H``/``W`` latent height and width. A frames mask is
``(B, T)``, True (1) where a frame is generated and False (0) where it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindone.errors import UserError

SAMPLE_METHODS = ("uniform", "discrete-uniform", "logit-normal")

Velocity = Callable[[np.ndarray, np.ndarray, "np.ndarray | None"], np.ndarray]
StepNoise = Callable[[int], np.ndarray]
SizeRatio = Callable[[Any, Any, Any], np.ndarray]
"""``ratio(height, width, num_frames)`` of `timestep_transform`, of scalars or (B,) sizes in pixels and frames."""


@dataclass(frozen=True)
class RectifiedFlowConfig:
    """Settings of the noise schedule, of the training timesteps and of sampling."""

    num_timesteps: int = 1000
    """timesteps run from 0 (data) to this number (noise)"""
    num_sampling_steps: int = 30
    """Euler steps from noise to data"""
    cfg_scale: float = 7.0
    """classifier-free guidance scale of sampling; 1 turns guidance off"""
    use_timestep_transform: bool = False
    """move timesteps towards noise for large or long videos, and towards data for small ones"""
    transform_scale: float = 1.0
    """extra factor of the ratio of the timestep transform"""
    use_discrete_timesteps: bool = False
    """round the sampling schedule to whole timesteps (before the transform)"""
    sample_method: str = "uniform"
    """distribution of the training timesteps: uniform, discrete-uniform or logit-normal"""
    loc: float = 0.0
    """mean of the normal behind logit-normal"""
    scale: float = 1.0
    """standard deviation of the normal behind logit-normal"""

    def __post_init__(self):
        if self.sample_method not in SAMPLE_METHODS:
            raise UserError(f"sample_method={self.sample_method} is not known; use one of {', '.join(SAMPLE_METHODS)}")
        for name in ("num_timesteps", "num_sampling_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} has to be at least 1")
        for name in ("transform_scale", "scale"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} has to be larger than 0")


def timestep_transform(t, ratio, num_timesteps: int = 1000) -> np.ndarray:
    """Shifts timesteps, with r > 1 towards noise: ``t' = r t / (1 + (r - 1) t)`` on [0, 1] (Esser et al. 2024).

    Args:
        t: timesteps in [0, num_timesteps], (B,) or a scalar.
        ratio: r > 0, (B,) or a scalar.
    Returns:
        float32 timesteps of the broadcast shape, in [0, num_timesteps].
    """
    t, ratio = np.asarray(t, np.float32) / np.float32(num_timesteps), np.asarray(ratio, np.float32)
    # Rounding must not push pure noise beyond the end of the path.
    return np.minimum(ratio * t / (1 + (ratio - 1) * t), np.float32(1)) * np.float32(num_timesteps)


def point_on_path(x_start, noise, t, frames_mask=None, num_timesteps: int = 1000):
    """The point at timestep ``t`` of the path from ``x_start`` to ``noise``.

    Args:
        x_start, noise: (B, C, T, H, W) float.
        t: (B,) float in [0, num_timesteps].
        frames_mask: (B, T); a given frame (False) is at t = 0, that is, exactly ``x_start``.
    Returns:
        (B, C, T, H, W), of the dtype of ``x_start``.
    """
    tau = (t / num_timesteps).astype(x_start.dtype).reshape(-1, 1, 1, 1, 1)
    if frames_mask is not None:
        tau = tau * frames_mask.astype(x_start.dtype).reshape(x_start.shape[0], 1, -1, 1, 1)
    return (1 - tau) * x_start + tau * noise


def training_loss(prediction, x_start, noise, frames_mask=None):
    """Mean squared error of the velocity, per sample.

    Args:
        prediction: (B, C or 2C, T, H, W); only the first C channels are the velocity (a network with a learned
            variance keeps its channels, but rectified flow has no use for the second half).
        x_start, noise: (B, C, T, H, W).
        frames_mask: (B, T); given frames (False) are left out of the mean.
    Returns:
        (B,) losses, of the dtype of ``x_start``.
    """
    velocity = prediction[:, : x_start.shape[1]].astype(x_start.dtype)
    error = velocity - (x_start - noise)
    per_frame = (error * error).mean(axis=(1, 3, 4))
    if frames_mask is None:
        return per_frame.mean(axis=1)
    weight = frames_mask.astype(x_start.dtype)
    # A sample whose frames are all given has nothing to learn from: its loss is 0, not 0 / 0.
    count = weight.sum(axis=1)
    return (per_frame * weight).sum(axis=1) / (count + (count == 0).astype(x_start.dtype))


class RectifiedFlow:
    """Training timesteps and the sampling loop for one `RectifiedFlowConfig`."""

    def __init__(self, config: RectifiedFlowConfig | None = None, size_ratio: SizeRatio | None = None):
        """``size_ratio`` says how ``use_timestep_transform`` shifts the timesteps of a video of some size."""
        self.config, self.size_ratio = config or RectifiedFlowConfig(), size_ratio
        if self.config.use_timestep_transform and size_ratio is None:
            raise UserError("use_timestep_transform needs a size_ratio: the rule from a video's size to the shift")

    # --- training ----------------------------------------------------------------------------------------------------

    def draw_timesteps(self, generators: Sequence[np.random.Generator], height, width, num_frames) -> np.ndarray:
        """One timestep per sample, each from the sample's own random stream; (B,) float32 in [0, num_timesteps].

        ``height``, ``width`` (pixels) and ``num_frames`` (video frames) are scalars or (B,); they only matter with
        ``use_timestep_transform``.
        """
        normal = self.config.sample_method == "logit-normal"
        draws = [generator.standard_normal() if normal else generator.random() for generator in generators]
        return self.timesteps_from_draws(np.asarray(draws, np.float32), height, width, num_frames)

    def timesteps_from_draws(self, draws: np.ndarray, height, width, num_frames) -> np.ndarray:
        """As `draw_timesteps`, from (B,) given draws: uniform in [0, 1), or standard normal for logit-normal."""
        config = self.config
        draws = np.asarray(draws, np.float32)
        if config.sample_method == "logit-normal":
            fraction = 1 / (1 + np.exp(-(np.float32(config.loc) + np.float32(config.scale) * draws)))
            t = fraction * np.float32(config.num_timesteps)
        else:
            t = draws * np.float32(config.num_timesteps)
            if config.sample_method == "discrete-uniform":
                t = np.floor(t)
        return self._transform(t, height, width, num_frames)

    def add_noise(self, x_start, noise, t, frames_mask=None):
        """`point_on_path` with the number of timesteps of this flow."""
        return point_on_path(x_start, noise, t, frames_mask, self.config.num_timesteps)

    def _transform(self, t: np.ndarray, height, width, num_frames) -> np.ndarray:
        config = self.config
        if not config.use_timestep_transform:
            return np.asarray(t, np.float32)
        ratio = self.size_ratio(height, width, num_frames) * np.float32(config.transform_scale)
        return timestep_transform(t, ratio, config.num_timesteps)

    # --- sampling ----------------------------------------------------------------------------------------------------

    def schedule(self, batch_size: int, height, width, num_frames) -> np.ndarray:
        """The timesteps of all sampling steps, (num_sampling_steps, B) float32, from noise downwards."""
        config = self.config
        t = (1 - np.arange(config.num_sampling_steps) / config.num_sampling_steps) * config.num_timesteps
        if config.use_discrete_timesteps:
            t = np.round(t)
        grid = np.repeat(t.astype(np.float32)[:, None], batch_size, axis=1)
        return self._transform(grid, height, width, num_frames)

    def sample(
        self,
        velocity: Velocity,
        latents: np.ndarray,
        height,
        width,
        num_frames,
        edit_mask: np.ndarray | None = None,
        step_noise: StepNoise | None = None,
    ) -> Iterator[np.ndarray]:
        """Euler steps from noise to data; yields the latents after every step, the last ones being the result.

        Args:
            velocity: ``velocity(z, t, frames_mask)`` gives (B, C, T, H, W) (guidance included) or (B, 2C, T, H, W), of
                which the first half counts; t is (B,), frames_mask (B, T) bool, or None without ``edit_mask``.
            latents: (B, C, T, H, W): noise, and the given latents in frames that ``edit_mask`` keeps.
            height, width, num_frames: the size of the video in pixels and frames, scalars or (B,).
            edit_mask: (B, T) float in [0, 1]: 0 keeps a frame, 1 generates it; in between, a given frame joins once
                t <= num_timesteps * value: it is noised to that t then, and regenerated from there.
            step_noise: ``step_noise(step)`` gives the (B, C, T, H, W) noise for frames that join at that step.
        """
        z = np.asarray(latents, np.float32)
        timesteps = self.schedule(len(z), height, width, num_frames)
        joins_at = None if edit_mask is None else np.asarray(edit_mask, np.float32) * self.config.num_timesteps
        joined = None if edit_mask is None else np.asarray(edit_mask) == 1
        for step, t in enumerate(timesteps):
            active = None
            if joins_at is not None:
                active = joins_at >= t[:, None]
                z = self._noise_joining(z, t, active & ~joined, step, step_noise)
                joined = active
            following = timesteps[step + 1] if step + 1 < len(timesteps) else np.zeros_like(t)
            tau = ((t - following) / self.config.num_timesteps).reshape(-1, 1, 1, 1, 1)
            moved = z + np.asarray(velocity(z, t, active), np.float32)[:, : z.shape[1]] * tau
            z = moved if active is None else np.where(active[:, None, :, None, None], moved, z)
            yield z

    def _noise_joining(self, z, t, joining, step: int, step_noise: StepNoise | None) -> np.ndarray:
        if not joining.any():
            return z
        if step_noise is None:
            raise UserError("edit_mask has values between 0 and 1, which need step_noise")
        noise = np.asarray(step_noise(step), np.float32)
        return np.where(joining[:, None, :, None, None], self.add_noise(z, noise, t), z)
