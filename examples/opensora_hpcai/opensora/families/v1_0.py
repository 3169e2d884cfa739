"""Open-Sora 1.0: STDiT, IDDPM, an image autoencoder frame by frame, T5 with 120 tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mindspore import nn

from mindone.diffusion.iddpm import Diffusion, DiffusionConfig
from opensora.config.common import Refusals
from opensora.config.generate import Sampler as SamplerSettings
from opensora.config.train import Flow
from opensora.families.base import Arrays, is_on
from opensora.families.diffusion import DiffusionObjective, DiffusionSampler
from opensora.families.stdit import STDiTFamily
from opensora.models.stdit import STDiT

# The guidance of published 1.0 and 1.1 leaves one of the four latent channels alone.
GUIDED_CHANNELS = 3


@dataclass(frozen=True)
class OpenSora10(STDiTFamily):
    """Open-Sora 1.0."""

    name: str = "v1"
    model_max_length: int = 120
    num_frames: int = 16
    denoiser_preset: str = "STDiT-XL/2"
    autoencoder_preset: str = "SD-VAE"

    refused: ClassVar[Refusals] = {
        "vae_type": (lambda value: value != "VideoAutoencoderKL", "use VideoAutoencoderKL"),
        "noise_scheduler": (lambda value: value != "ddpm", "use ddpm"),
        "sampling": (lambda value: value == "rflow", "use ddpm, ddim or dpm-solver"),
        "mask_ratios": (is_on, "leave it out; its network knows no given frames"),
        "condition_config": (is_on, "leave it out; version 2.0 has it"),
        "fps_max": (is_on, "use frame_stride"),
        "reference_path": (is_on, "use version 1.1 or later"),
        "mask_strategy": (is_on, "use version 1.1 or later"),
        "task": (is_on, "use version 1.1 or later"),
        "loop": (lambda value: value > 1, "use version 1.1 or 1.2"),
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
            "fps": 8,
        }

    def objective(self, flow: Flow, denoiser_config: Any, null_text: Arrays | None = None) -> DiffusionObjective:
        diffusion = Diffusion(DiffusionConfig(learn_sigma=denoiser_config.pred_sigma))
        return DiffusionObjective(diffusion, STDiT.condition_names, denoiser_config.class_dropout_prob)

    def sampler(self, denoiser: nn.Cell, settings: SamplerSettings) -> DiffusionSampler:
        return DiffusionSampler(denoiser, settings, denoiser.config.pred_sigma)


FAMILY = OpenSora10()
