"""Training and sampling of the STDiT families that learned noise with IDDPM (1.0, 1.1).

Legend: `B` batch, `C` channels, `T` latent frames, `L` text tokens, `D` caption channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone.diffusion.dpm_solver import DPMSolver
from mindone.diffusion.iddpm import Diffusion, DiffusionConfig
from mindone.diffusion.iddpm_loss import noisy, training_losses
from mindone.diffusion.speed import Speed
from mindone.errors import UserError
from mindone.train.band import LossBand
from mindone.train.loop import Place
from opensora.config.common import Refusals
from opensora.config.generate import Sampler as SamplerSettings
from opensora.config.train import Flow
from opensora.families.base import ONLY_2_0, Arrays, LatentBatch, Objective, SampleRequest
from opensora.families.cached import StepCache, cached
from opensora.families.packed import PackedDenoiser, Packing
from opensora.families.stdit import (
    Denoise,
    GuidedPrediction,
    STDiTFamily,
    all_conditions,
    condition_tensors,
    dropped_captions,
    inputs_of_text,
)
from opensora.models.stdit import FactorizedConfig

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig

# The guidance of published 1.0 and 1.1 leaves one of the four latent channels alone.
GUIDED_CHANNELS = 3


class DiffusionLoss(nn.Cell):
    """Mean loss, squared error and bound over the batch. All that is random comes in as tensors.

    Args:
        patch_width: of a network of rows, whose last condition says which patches there are; None: there are no rows.
    """

    def __init__(self, denoiser: nn.Cell, config: DiffusionConfig, patch_width: int | None = None):
        super().__init__(auto_prefix=False)
        self.patch_width = patch_width
        self.denoise = Denoise(denoiser)
        self.config = config

    def construct(
        self,
        latents: Tensor,
        noise: Tensor,
        t: Tensor,
        coefficients: Tensor,
        text: Tensor,
        text_mask: Tensor,
        drop: Tensor,
        frames_mask: Tensor | None,
        *conditions: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The loss and its parts.

        Args:
            latents, noise: (B, C, T, H, W), the latents normalised.
            t: (B,) int32 timesteps.
            coefficients: (B, 11), see `mindone.diffusion.iddpm.Diffusion.coefficients`.
            text, text_mask: (B, 1, L, D) embeddings and (B, L) mask, 1 = valid.
            drop: (B,), 1 = train without the caption.
            frames_mask: (B, T) bool, False = given and left out of the loss; None: all are generated.
            conditions: (B,) each, see `Denoise`.
        """
        columns = None
        if self.patch_width is not None:
            columns = ops.repeat_interleave(conditions[-1], self.patch_width, 1)
        x_t = noisy(latents, noise, coefficients, frames_mask)
        output = self.denoise(x_t, t, text, text_mask, frames_mask, conditions, drop)
        loss, error, bound = training_losses(
            output,
            latents,
            x_t,
            noise,
            t == 0,
            coefficients,
            frames_mask,
            self.config.learn_sigma,
            self.config.predict_xstart,
            self.config.loss,
            self.config.num_timesteps,
            columns,
            self.config.snr_range,
        )
        return loss.mean(), (error.mean(), bound.mean())


@dataclass(frozen=True)
class DiffusionObjective(Objective):
    """IDDPM on an STDiT."""

    diffusion: Diffusion
    condition_names: tuple[str, ...]
    dropout: float
    """share of the captions that are dropped"""
    packing: Packing | None = None
    """rows of patches, which the latents are then"""
    part_names: tuple[str, ...] = ("mse", "vb")
    speed: Speed | None = None
    """draws the timesteps; None: they are uniform"""
    band: ClassVar[LossBand] = LossBand(1.0, "mse")

    def loss_cell(self, denoiser: nn.Cell) -> nn.Cell:
        if self.packing is None:
            return DiffusionLoss(denoiser, self.diffusion.config)
        return DiffusionLoss(PackedDenoiser(denoiser), self.diffusion.config, self.packing.patch[2])

    def draw(self, place: Place, at: float | None = None) -> np.ndarray:
        """(B,) int32 timesteps of the samples at a place of the run; all the same if a time in [0, 1] is given."""
        if at is None:
            return (self.speed or self.diffusion).draw_timesteps(place.streams("timestep"))
        return np.full(len(place.streams("timestep")), round(at * (len(self.diffusion) - 1)), np.int32)

    def loss_inputs(self, batch: LatentBatch, place: Place, at: float | None = None) -> tuple[Tensor | None, ...]:
        shape = batch.latents.shape
        t = self.draw(place, at)
        told = all_conditions(batch.fps, batch.num_frames, batch.height, batch.width, shape[0]) | (batch.packed or {})
        names = self.condition_names if self.packing is None else PackedDenoiser.condition_names
        return (
            batch.latents,
            Tensor(place.normal("noise", shape[1:])),
            Tensor(t),
            Tensor(self.diffusion.coefficients(t)),
            *inputs_of_text(batch.text),
            Tensor(dropped_captions(self.dropout, place, at)),
            None if batch.frames_mask is None else Tensor(batch.frames_mask),
            *condition_tensors(names, told),
        )


class DiffusionSampler:
    """Ancestral (DDPM), DDIM or DPM-Solver++ steps with an STDiT, which runs compiled, once per batch shape."""

    def __init__(
        self,
        denoiser: nn.Cell,
        settings: SamplerSettings,
        packing: Packing | None = None,
        step_cache: StepCache | None = None,
    ):
        """
        Args:
            settings: ``sampling`` is ddpm, ddim or dpm-solver; ``guidance_channels`` None guides all latent channels.
            packing: the network sees rows of patches of one length, whatever the size of the video.
            step_cache: which steps leave the blocks out; None: none.
        """
        self.step_cache = step_cache
        self.packing = packing
        self._config = denoiser.config
        denoiser = denoiser if packing is None else PackedDenoiser(denoiser)
        self.scale, self.num_steps = settings.guidance_scale, settings.sampling_steps
        self.sampling, self.eta = settings.sampling, settings.ddim_eta
        self._names = denoiser.condition_names
        self._predict = GuidedPrediction(denoiser, self.scale > 1, settings.guidance_channels, keep_variance=True)
        respacing = f"ddim{self.num_steps}" if self.sampling == "ddim" and 1000 % self.num_steps == 0 else None
        self.diffusion = _diffusion(self._config, respacing or str(self.num_steps))

    def steps(self, request: SampleRequest) -> Iterator[np.ndarray]:
        frames, height, width = request.size
        told = all_conditions(request.fps, frames, height, width, len(request.noise))
        packing, size = self.packing, request.noise.shape
        if packing is not None:
            told |= packing.conditions(size, height, width, len(request.noise))
        conditions = condition_tensors(self._names, told)
        text = inputs_of_text(request.text)
        negative = (None, None) if request.negative is None else inputs_of_text(request.negative)
        scale = Tensor(self.scale, ms.float32)
        run = cached(self.step_cache, self._predict, self.num_steps)

        def predict(z: np.ndarray, t: np.ndarray, frames_mask: np.ndarray | None = None) -> np.ndarray:
            mask = None if frames_mask is None else Tensor(frames_mask)
            seen = Tensor(z if packing is None else packing.pack(z))
            output = run(seen, Tensor(t), *text, *negative, mask, scale, *conditions).asnumpy()
            return output if packing is None else packing.unpack(output, size)

        if self.sampling == "dpm-solver":
            if request.edit_mask is not None:
                raise UserError("sampling=dpm-solver keeps no given frames; use ddpm or ddim with references and loops")
            solver = DPMSolver(self.num_steps, predict_xstart=self._config.predict_xstart)
            yield from solver.sample(predict, request.noise)
            return
        yield from self.diffusion.sample(
            predict,
            request.noise,
            request.step_noise,
            request.edit_mask,
            request.edit_noise,
            self.eta if self.sampling == "ddim" else None,
        )


def _diffusion(
    config: FactorizedConfig, respacing: str = "", snr_range: tuple[float, float] | None = None
) -> Diffusion:
    """The noise schedule, what the network predicts of it, and what its errors count."""
    return Diffusion(
        DiffusionConfig(
            respacing=respacing,
            learn_sigma=config.pred_sigma,
            predict_xstart=config.predict_xstart,
            snr_range=snr_range,
        )
    )


class DiffusionFamily(STDiTFamily):
    """A version whose STDiT learned noise, of pictures' latents frame by frame."""

    condition_names: ClassVar[tuple[str, ...]]
    """the conditions that its network is told"""

    refused: ClassVar[Refusals] = {
        **ONLY_2_0,
        "vae_type": (lambda value: value != "VideoAutoencoderKL", "use VideoAutoencoderKL"),
        "noise_scheduler": (lambda value: value != "ddpm", "use ddpm"),
        "sampling": (lambda value: value == "rflow", "use ddpm, ddim or dpm-solver"),
        "sample_method": (lambda value: value == "logit-normal", "use uniform or speed"),
        "aesthetic_score": (lambda value: value is not None, "use version 1.2"),
        "motion_score": (lambda value: value is not None, "use version 1.2"),
        "camera_motion": (lambda value: value is not None, "use version 1.2"),
    }

    def defaults(self) -> dict[str, Any]:
        return {
            "vae_type": "VideoAutoencoderKL",
            "noise_scheduler": "ddpm",
            "sampling": "ddpm",
            "sampling_steps": 100,
            "guidance_scale": 7.0,
            "guidance_channels": GUIDED_CHANNELS,
            "use_timestep_transform": False,
        }

    def objective(
        self, flow: Flow, denoiser_config: DenoiserConfig, null_text: Arrays | None = None
    ) -> DiffusionObjective:
        diffusion = _diffusion(denoiser_config, snr_range=flow.snr_range)
        speed = Speed.of(diffusion) if flow.sample_method == "speed" else None
        return DiffusionObjective(diffusion, self.condition_names, denoiser_config.class_dropout_prob, speed=speed)

    def sampler(
        self, denoiser: nn.Cell, settings: SamplerSettings, step_cache: StepCache | None = None
    ) -> DiffusionSampler:
        return DiffusionSampler(denoiser, settings, step_cache=step_cache)
