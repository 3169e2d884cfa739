"""Open-Sora 1.1: STDiT2 with frames masks and size conditions, IDDPM, an image autoencoder, T5 with 200 tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mindspore import nn

from mindone.diffusion.iddpm import Diffusion, DiffusionConfig
from opensora.conditions.given import GivenFrames
from opensora.config.common import Refusals
from opensora.config.generate import Sampler as SamplerSettings
from opensora.config.train import Flow
from opensora.data.buckets import BucketConfig, BucketRules, rules_1
from opensora.families.base import Arrays, is_on
from opensora.families.diffusion import DiffusionObjective, DiffusionSampler
from opensora.families.stdit import STDiTFamily
from opensora.families.v1_0 import GUIDED_CHANNELS, OpenSora10
from opensora.models.stdit2 import STDiT2


@dataclass(frozen=True)
class OpenSora11(STDiTFamily):
    """Open-Sora 1.1."""

    name: str = "v1.1"
    model_max_length: int = 200
    num_frames: int = 16
    denoiser_preset: str = "STDiT2-XL/2"
    autoencoder_preset: str = "SD-VAE"

    refused: ClassVar[Refusals] = {
        name: OpenSora10.refused[name]
        for name in ("vae_type", "noise_scheduler", "sampling", "aesthetic_score", "motion_score", "camera_motion")
    } | {"condition_config": (is_on, "use mask_ratios"), "fps_max": (is_on, "use frame_stride")}

    conditioning = GivenFrames()

    def defaults(self) -> dict[str, Any]:
        return {
            "vae_type": "VideoAutoencoderKL",
            "noise_scheduler": "ddpm",
            "sampling": "ddpm",
            "sampling_steps": 100,
            "guidance_scale": 7.0,
            "guidance_channels": GUIDED_CHANNELS,
            "use_timestep_transform": False,
            "fps": 24,
            "condition_frame_length": 4,
        }

    def bucket_rules(self, config: BucketConfig, compression: int = 8) -> BucketRules:
        return rules_1(config)

    def objective(self, flow: Flow, denoiser_config: Any, null_text: Arrays | None = None) -> DiffusionObjective:
        diffusion = Diffusion(DiffusionConfig(learn_sigma=denoiser_config.pred_sigma))
        return DiffusionObjective(diffusion, STDiT2.condition_names, denoiser_config.class_dropout_prob)

    def sampler(self, denoiser: nn.Cell, settings: SamplerSettings) -> DiffusionSampler:
        return DiffusionSampler(denoiser, settings, denoiser.config.pred_sigma)


FAMILY = OpenSora11()
