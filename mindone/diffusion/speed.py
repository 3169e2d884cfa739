"""Timestep sampling and weights of SpeeD (Wang et al., "A Closer Look at Time Steps is Worthy of Triple Speed-Up")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mindone.diffusion.iddpm import Diffusion

# Where the noise level still rises by this much per step, steps are drawn five times as often ...
RISING = 1e-4
# ... and beyond the first step that rises by less than this there is little to learn.
MEANINGFUL = 5e-5


@dataclass(frozen=True)
class Speed:
    """How often each of the N timesteps is drawn, and what its squared error counts.

    ``weights`` (N,) are ``1 / (1 + snr)`` (P2); ``probabilities`` (N,) add up to 1; ``meaningful_steps`` is the number
    of steps before the schedule is nearly flat.
    """

    weights: np.ndarray
    probabilities: np.ndarray
    meaningful_steps: int

    @classmethod
    def of(cls, diffusion: Diffusion) -> Speed:
        slope = np.gradient(diffusion.sqrt_one_minus_alphas_cumprod)
        share = np.tanh(1e6 * (slope - RISING)) + 1.5
        return cls(1 - diffusion.alphas_cumprod, share / share.sum(), int(np.argmax(slope < MEANINGFUL)) + 1)

    def draw_timesteps(self, generators) -> np.ndarray:
        """One step per sample, each from the sample's own random stream; (B,) int32."""
        ends = np.cumsum(self.probabilities)
        draws = [np.searchsorted(ends, generator.random(), side="right") for generator in generators]
        return np.minimum(draws, len(ends) - 1).astype(np.int32)
