"""Open-Sora 1.0: STDiT, IDDPM, an image autoencoder frame by frame, T5 with 120 tokens.

Its code also has DiT, Latte and PixArt, by ``model_name``: DiT and Latte are told one vector of CLIP, or a class.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mindspore import nn

from mindone.config import Settings
from mindone.errors import UserError
from opensora.config.common import Refusals, Text, refuse
from opensora.config.generate import Sampler as SamplerSettings
from opensora.config.train import Flow
from opensora.families.base import NO_GIVEN_FRAMES, NO_PATCHES, Arrays, is_on
from opensora.families.cached import StepCache
from opensora.families.diffusion import DiffusionFamily, DiffusionObjective, DiffusionSampler
from opensora.models.dit import DiTConfig
from opensora.models.stdit import STDiT
from opensora.networks import denoiser_presets
from opensora.text.conditioner import ClassConditioner, ClipConditioner, Conditioner

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig

# What only STDiT has of the networks of 1.0.
ONLY_STDIT: Refusals = {
    "enable_sequence_parallelism": (is_on, "leave it out; STDiT has it"),
    "dsp": (is_on, "leave it out; STDiT has it"),
    "step_cache": (lambda value: value != "none", "use none; STDiT has it"),
}


@dataclass(frozen=True)
class OpenSora10(DiffusionFamily):
    """Open-Sora 1.0."""

    name: str = "v1"
    model_max_length: int = 120
    num_frames: int = 16
    denoiser_preset: str = "STDiT-XL/2"
    autoencoder_preset: str = "SD-VAE"
    networks = ("STDiT-", "DiT-", "Latte-", "PixArt")
    condition_names = STDiT.condition_names

    refused: ClassVar[Refusals] = DiffusionFamily.refused | {
        **NO_PATCHES,
        **NO_GIVEN_FRAMES,
    }

    def defaults(self) -> dict[str, Any]:
        defaults = super().defaults() | {"fps": 8}
        if not self._is_stdit:
            scale = 7.0 if self.denoiser_preset.startswith("PixArt") else 4.0
            defaults |= {"sampling": "dpm-solver", "sampling_steps": 20, "guidance_scale": scale}
            # DPM-Solver guides all channels.
            del defaults["guidance_channels"]
        return defaults

    def check(self, config: Settings) -> None:
        super().check(config)
        if not self._is_stdit:
            refuse(config, ONLY_STDIT, self.denoiser_preset)

    @property
    def _is_stdit(self) -> bool:
        return self.denoiser_preset.startswith("STDiT")

    def encoders_of(self, denoiser_config: DenoiserConfig) -> tuple[str, ...]:
        if not isinstance(denoiser_config, DiTConfig):
            return super().encoders_of(denoiser_config)
        return () if denoiser_config.num_classes else ("clip_model_name_or_path",)

    def conditioner(
        self, text: Text, denoiser_config: DenoiserConfig | None = None, batch_size: int = 1
    ) -> Conditioner:
        config = denoiser_config or denoiser_presets()[self.denoiser_preset]
        if not isinstance(config, DiTConfig):
            return super().conditioner(text, denoiser_config, batch_size)
        if config.num_classes:
            return ClassConditioner(config.num_classes)
        width = denoiser_config.caption_channels if denoiser_config else 0
        return ClipConditioner(text.clip_model_name_or_path, width, text.t5_dtype, batch_size)

    def objective(
        self, flow: Flow, denoiser_config: DenoiserConfig, null_text: Arrays | None = None
    ) -> DiffusionObjective:
        objective = super().objective(flow, denoiser_config, null_text)
        names = getattr(denoiser_config, "condition_names", self.condition_names)
        return dataclasses.replace(objective, condition_names=names)

    def sampler(
        self, denoiser: nn.Cell, settings: SamplerSettings, step_cache: StepCache | None = None
    ) -> DiffusionSampler:
        if settings.guidance_scale > 1 and not getattr(denoiser.config, "has_null", True):
            raise UserError(
                f"guidance_scale={settings.guidance_scale} needs a class that stands for none, and this network was "
                "made without (class_dropout_prob is 0); use guidance_scale 1"
            )
        return super().sampler(denoiser, settings, step_cache)


FAMILY = OpenSora10()
