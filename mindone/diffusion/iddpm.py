"""Denoising diffusion with a discrete noise schedule: DDPM, its improvements, and DDIM.

Ho et al., "Denoising Diffusion Probabilistic Models" (q, posterior); Nichol and Dhariwal, "Improved DDPM" (learned
variance between two bounds, variational bound in bits, respaced schedules); Song et al., "DDIM" (eta). With
``abar_t = prod(1 - beta)``::

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise        the network predicts the noise, or x_0

A network that learns its variance has twice the channels: the second half is ``v`` in [-1, 1], which places the
log-variance between that of the posterior and log(beta). Tables are float64 on the host; `training_losses` runs in a
compiled graph and takes the table entries of its timesteps as tensors (`Diffusion.coefficients`).

Legend: ``B`` batch, ``C`` channels, ``T`` frames, ``H``/``W`` height and width. A frames mask is ``(B, T)``, True (1)
where a frame is generated and False (0) where it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mindone.errors import UserError

NOISE_SCHEDULES = ("linear", "squaredcos_cap_v2")
LOSSES = ("mse", "rescaled_mse", "rescaled_kl")
MAX_BETA = 0.999

Prediction = Callable[[np.ndarray, np.ndarray, "np.ndarray | None"], np.ndarray]
StepNoise = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class DiffusionConfig:
    """Settings of the noise schedule, of what the network predicts, and of the loss."""

    num_timesteps: int = 1000
    """length of the schedule that the network was trained on"""
    respacing: str = ""
    """steps that are taken: ``""`` all, ``"100"``, ``"10,15,20"`` (per section), ``"ddim50"`` (even stride)"""
    noise_schedule: str = "linear"
    """linear or squaredcos_cap_v2"""
    predict_xstart: bool = False
    """the network predicts x_0 instead of the noise"""
    learn_sigma: bool = True
    """the network predicts the variance in as many channels again"""
    sigma_small: bool = False
    """a fixed variance is that of the posterior instead of beta"""
    loss: str = "mse"
    """mse (and the bound for a learned variance), rescaled_mse (the bound times T / 1000), rescaled_kl (the bound)"""
    snr_range: tuple[float, float] | None = None
    """with predict_xstart, the squared error counts its signal-to-noise ratio, within this range"""

    def __post_init__(self):
        if self.snr_range is not None:
            low, high = self.snr_range
            if not 0 <= low <= high or high == 0:
                raise UserError(f"snr_range={low} {high} has to be two numbers, the smaller one first and not below 0")
            if not self.predict_xstart:
                raise UserError("snr_range weighs the errors of a network that predicts x_0; use predict_xstart")
        for name, value, known in (
            ("noise_schedule", self.noise_schedule, NOISE_SCHEDULES),
            ("loss", self.loss, LOSSES),
        ):
            if value not in known:
                raise UserError(f"{name}={value} is not known; use one of {', '.join(known)}")


def betas_of(schedule: str, num_timesteps: int) -> np.ndarray:
    """(num_timesteps,) float64 variances of the steps: linear from 1e-4 to 2e-2 for 1000 steps, or a squared cosine."""
    if schedule == "linear":
        scale = 1000 / num_timesteps
        return np.linspace(scale * 0.0001, scale * 0.02, num_timesteps, dtype=np.float64)
    bar = [math.cos((i / num_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(num_timesteps + 1)]
    return np.array([min(1 - after / before, MAX_BETA) for before, after in zip(bar, bar[1:])])


def respaced_timesteps(num_timesteps: int, respacing: str) -> list[int]:
    """The timesteps that a respacing string keeps, in rising order.

    ``"N,M,..."`` divides the schedule into sections of (almost) equal length and takes so many steps of each, first and
    last included; ``"ddimN"`` takes every k-th step for the whole k that gives exactly N.

    Raises:
        UserError: the string is none of these, or asks for more steps than there are.
    """
    if not respacing:
        return list(range(num_timesteps))
    text = respacing.removeprefix("ddim")
    counts = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if len(counts) != len(text.split(",")) or min(counts) < 1 or (text != respacing and len(counts) != 1):
        raise UserError(f"respacing={respacing} is not known; use a number of steps, 'a,b,c' or 'ddimN'")
    if text != respacing:
        for stride in range(1, num_timesteps):
            if len(range(0, num_timesteps, stride)) == counts[0]:
                return list(range(0, num_timesteps, stride))
        raise UserError(f"respacing={respacing}: no whole stride gives {counts[0]} of {num_timesteps} steps")
    return _in_sections(num_timesteps, counts, respacing)


def _in_sections(num_timesteps: int, counts: Sequence[int], respacing: str) -> list[int]:
    size, extra = divmod(num_timesteps, len(counts))
    start, steps = 0, []
    for number, count in enumerate(counts):
        length = size + (number < extra)
        if count > length:
            raise UserError(f"respacing={respacing} wants {count} steps of a section that has {length}")
        stride = 1.0 if count == 1 else (length - 1) / (count - 1)
        position = 0.0
        for _ in range(count):
            steps.append(start + round(position))
            position += stride
        start += length
    return steps


class Diffusion:
    """Tables of one schedule, training quantities and sampling loops.

    Attributes:
        timestep_map: (N,) the timestep that the network is told at each of the N steps.
        betas, alphas_cumprod, ...: float64 tables (N,) by their usual names.
    """

    def __init__(self, config: DiffusionConfig | None = None):
        self.config = config or DiffusionConfig()
        full = np.cumprod(1 - betas_of(self.config.noise_schedule, self.config.num_timesteps))
        self.timestep_map = np.array(respaced_timesteps(self.config.num_timesteps, self.config.respacing))
        kept = full[self.timestep_map]
        before = np.concatenate([[1.0], kept[:-1]])
        self.betas = 1 - kept / before
        self.alphas_cumprod, self.alphas_cumprod_prev = kept, before
        self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod = np.sqrt(kept), np.sqrt(1 - kept)
        self.sqrt_recip_alphas_cumprod, self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / kept), np.sqrt(1 / kept - 1)
        self.posterior_variance = self.betas * (1 - before) / (1 - kept)
        # The first step's posterior variance is 0; it takes the second's, so that the logarithm exists.
        clipped = np.concatenate([self.posterior_variance[1:2], self.posterior_variance[1:]])
        self.posterior_log_variance_clipped = np.log(clipped if len(kept) > 1 else self.betas)
        self.posterior_mean_coef1 = self.betas * np.sqrt(before) / (1 - kept)
        self.posterior_mean_coef2 = (1 - before) * np.sqrt(1 - self.betas) / (1 - kept)

    def __len__(self) -> int:
        return len(self.timestep_map)

    @cached_property
    def fixed_log_variance(self) -> np.ndarray:
        """Log-variance (N,) of a network that does not learn it."""
        if self.config.sigma_small:
            return self.posterior_log_variance_clipped
        return np.log(np.concatenate([self.posterior_variance[1:2], self.betas[1:]]))

    def add_noise(self, x_start: np.ndarray, noise: np.ndarray, step: np.ndarray | int) -> np.ndarray:
        """x at ``step``, (B,) or one for all, of x_0 and noise (B, ...)."""
        shape = (-1, *[1] * (x_start.ndim - 1))
        keep, add = (table[np.asarray(step)].astype(np.float32).reshape(shape) for table in self._noising)
        return keep * x_start + add * noise

    @property
    def _noising(self) -> tuple[np.ndarray, np.ndarray]:
        return self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod

    # --- training ----------------------------------------------------------------------------------------------------

    def draw_timesteps(self, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """One step per sample, uniform, each from the sample's own random stream; (B,) int32."""
        return np.array([generator.integers(len(self)) for generator in generators], np.int32)

    def coefficients(self, steps: np.ndarray) -> np.ndarray:
        """What `training_losses` needs of the tables for steps (B,): (B, 11) float32.

        The columns: sqrt(abar), sqrt(1 - abar), both at step 0 (for given frames), 1 / sqrt(abar), sqrt(1 / abar - 1),
        the two posterior coefficients, the bounds of the log-variance (equal if it is not learned), and that of the
        posterior.
        """
        first = np.zeros_like(steps)
        low, high = self.posterior_log_variance_clipped, np.log(self.betas)
        if not self.config.learn_sigma:
            low = high = self.fixed_log_variance
        columns = [
            *(table[steps] for table in self._noising),
            *(table[first] for table in self._noising),
            self.sqrt_recip_alphas_cumprod[steps],
            self.sqrt_recipm1_alphas_cumprod[steps],
            self.posterior_mean_coef1[steps],
            self.posterior_mean_coef2[steps],
            low[steps],
            high[steps],
        ]
        columns.append(self.posterior_log_variance_clipped[steps])
        return np.stack(columns, 1).astype(np.float32)

    # --- sampling ----------------------------------------------------------------------------------------------------

    def sample(
        self,
        predict: Prediction,
        latents: np.ndarray,
        step_noise: StepNoise,
        edit_mask: np.ndarray | None = None,
        edit_noise: StepNoise | None = None,
        eta: float | None = None,
        clip: bool = False,
    ) -> Iterator[np.ndarray]:
        """From noise to data; yields the latents after every step, the last ones being the result.

        Args:
            predict: ``predict(z, t, frames_mask)`` gives (B, C, T, H, W) or, with a learned variance, (B, 2C, ...);
                guidance included; t (B,) int32 are timesteps of the full schedule; frames_mask (B, T) bool, or None.
            latents: (B, C, T, H, W): noise, and the given latents in frames that ``edit_mask`` keeps.
            step_noise: ``step_noise(k)`` gives the (B, C, T, H, W) noise of step k, k = 0 being the noisiest.
            edit_mask: (B, T) in [0, 1]: 0 keeps a frame, 1 generates it; a value between joins at that share of the
                steps: it is noised to that level then, and regenerated from there.
            edit_noise: noise for frames that join at step k; needed with such values.
            eta: None: ancestral sampling (DDPM); a number: DDIM with that share of DDPM's noise.
            clip: clip the predicted x_0 to [-1, 1].
        """
        z = np.asarray(latents, np.float32)
        joins_at = None if edit_mask is None else (np.asarray(edit_mask) * len(self)).astype(int)
        for k, step in enumerate(range(len(self) - 1, -1, -1)):
            start, generated = z, None
            if joins_at is not None:
                start, generated = self._joined(z, joins_at, step, k, edit_noise)
            t = np.full(len(z), self.timestep_map[step], np.int32)
            output = np.asarray(predict(start, t, generated), np.float32)
            mean, deviation = (
                self._ancestral(start, output, step, clip)
                if eta is None
                else self._implicit(start, output, step, clip, eta)
            )
            moved = mean + deviation * step_noise(k) if step else mean
            if joins_at is not None:
                moved = np.where(_of_frames(joins_at >= step), moved, z)
            z = moved.astype(np.float32)
            yield z

    def _joined(self, z, joins_at, step: int, k: int, edit_noise: StepNoise | None) -> tuple[np.ndarray, np.ndarray]:
        """Latents in which frames that join at this step are noised, and which frames (B, T) count as generated."""
        joining = joins_at == step
        if joining.any():
            if edit_noise is None:
                raise UserError("edit_mask has values below 1, which need edit_noise")
            z = np.where(_of_frames(joining), self.add_noise(z, edit_noise(k), step), z)
        return z, joins_at > step

    def _x_start(self, z: np.ndarray, prediction: np.ndarray, step: int, clip: bool) -> np.ndarray:
        if not self.config.predict_xstart:
            recip, recipm1 = self.sqrt_recip_alphas_cumprod[step], self.sqrt_recipm1_alphas_cumprod[step]
            prediction = np.float32(recip) * z - np.float32(recipm1) * prediction
        return np.clip(prediction, -1, 1) if clip else prediction

    def _ancestral(self, z: np.ndarray, output: np.ndarray, step: int, clip: bool) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the step before."""
        channels = z.shape[1]
        x_start = self._x_start(z, output[:, :channels], step, clip)
        mean = np.float32(self.posterior_mean_coef1[step]) * x_start + np.float32(self.posterior_mean_coef2[step]) * z
        if not self.config.learn_sigma:
            return mean, np.float32(np.exp(0.5 * self.fixed_log_variance[step]))
        low, high = self.posterior_log_variance_clipped[step], np.log(self.betas[step])
        share = (output[:, channels:] + 1) / 2
        return mean, np.exp(0.5 * (share * np.float32(high) + (1 - share) * np.float32(low)))

    def _implicit(self, z, output, step: int, clip: bool, eta: float) -> tuple[np.ndarray, np.float32]:
        x_start = self._x_start(z, output[:, : z.shape[1]], step, clip)
        bar, before = self.alphas_cumprod[step], self.alphas_cumprod_prev[step]
        recip, recipm1 = self.sqrt_recip_alphas_cumprod[step], self.sqrt_recipm1_alphas_cumprod[step]
        noise = (np.float32(recip) * z - x_start) / np.float32(recipm1)
        deviation = eta * math.sqrt((1 - before) / (1 - bar)) * math.sqrt(1 - bar / before)
        mean = x_start * np.float32(math.sqrt(before)) + np.float32(math.sqrt(1 - before - deviation**2)) * noise
        return mean, np.float32(deviation)


def _of_frames(mask: np.ndarray) -> np.ndarray:
    return mask[:, None, :, None, None]
