"""DPM-Solver++ of order 2 on a discrete noise schedule (Lu et al., "DPM-Solver++", algorithm 2M), uniform in time.

The discrete steps 0..N-1 become times 1/N..1, between which log(sqrt(abar)) is interpolated linearly.

Legend: ``B`` batch, ``C`` channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from mindone.diffusion.iddpm import betas_of

Prediction = Callable[[np.ndarray, np.ndarray], np.ndarray]


class DPMSolver:
    """Samples a network that predicts noise, or the data themselves.

    Args:
        num_sampling_steps: calls of the network.
        num_timesteps, noise_schedule: the schedule that the network was trained on.
        predict_xstart: the network predicts x_0 instead of the noise.
    """

    def __init__(
        self,
        num_sampling_steps: int = 20,
        num_timesteps: int = 1000,
        noise_schedule: str = "linear",
        predict_xstart: bool = False,
    ):
        self.predict_xstart = predict_xstart
        self.num_timesteps = num_timesteps
        self._log_alphas = 0.5 * np.cumsum(np.log(1 - betas_of(noise_schedule, num_timesteps)))
        self.times = np.linspace(1.0, 1 / num_timesteps, num_sampling_steps + 1)

    def timestep(self, time: float) -> float:
        """What the network is told at a time in [1/N, 1]: a number in [0, N - 1], not always a whole one."""
        return (time - 1 / self.num_timesteps) * self.num_timesteps

    def _log_alpha(self, time: float) -> float:
        grid = np.linspace(0, 1, self.num_timesteps + 1)[1:]
        return float(np.interp(time, grid, self._log_alphas))

    def sample(self, predict: Prediction, latents: np.ndarray) -> Iterator[np.ndarray]:
        """From noise to data; yields the latents after every step.

        Args:
            predict: ``predict(z, t)`` gives noise or x_0 (B, C, ...) (guidance included, further channels are ignored);
                t (B,) float32 are timesteps.
            latents: (B, C, ...) noise.
        """
        z = np.asarray(latents, np.float32)
        steps = [self._levels(time) for time in self.times]
        before = None
        for number, (here, there) in enumerate(zip(steps, steps[1:])):
            t = np.full(len(z), self.timestep(self.times[number]), np.float32)
            x_start = np.asarray(predict(z, t), np.float32)[:, : z.shape[1]]
            if not self.predict_xstart:
                x_start = (z - np.float32(here[1]) * x_start) / np.float32(here[0])
            h = there[2] - here[2]
            # The last step of a multistep method is of order 1: it is the most stable at the smallest noise.
            if before is None or number == len(steps) - 2:
                update = x_start
            else:
                ratio = (here[2] - steps[number - 1][2]) / h
                update = x_start + np.float32(0.5 / ratio) * (x_start - before)
            z = np.float32(there[1] / here[1]) * z - np.float32(there[0] * math.expm1(-h)) * update
            before = x_start
            yield z

    def _levels(self, time: float) -> tuple[float, float, float]:
        """Signal, noise, and half the log of their squared ratio, at a time."""
        log_alpha = self._log_alpha(time)
        log_sigma = 0.5 * math.log(-math.expm1(2 * log_alpha))
        return math.exp(log_alpha), math.exp(log_sigma), log_alpha - log_sigma
