"""Open-Sora 1.1: STDiT2 with frames masks and size conditions, IDDPM, an image autoencoder, T5 with 200 tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mindspore import nn

from opensora.conditions.given import GivenFrames
from opensora.config.common import Refusals
from opensora.config.generate import Sampler as SamplerSettings
from opensora.data.buckets import BucketConfig, BucketRules, rules_1
from opensora.families.base import is_on
from opensora.families.cached import StepCache
from opensora.families.diffusion import DiffusionFamily, DiffusionSampler
from opensora.families.packed import packing_of
from opensora.models.stdit2 import STDiT2


@dataclass(frozen=True)
class OpenSora11(DiffusionFamily):
    """Open-Sora 1.1."""

    name: str = "v1.1"
    model_max_length: int = 200
    num_frames: int = 16
    denoiser_preset: str = "STDiT2-XL/2"
    autoencoder_preset: str = "SD-VAE"
    condition_names = STDiT2.condition_names
    networks = ("STDiT2-",)

    refused: ClassVar[Refusals] = DiffusionFamily.refused | {
        "condition_config": (is_on, "use mask_ratios"),
        "fps_max": (is_on, "use frame_stride"),
    }

    conditioning = GivenFrames()

    def defaults(self) -> dict[str, Any]:
        return super().defaults() | {"fps": 24, "condition_frame_length": 4, "max_image_size": 512}

    def bucket_rules(self, config: BucketConfig, compression: int = 8) -> BucketRules:
        return rules_1(config)

    def sampler(
        self, denoiser: nn.Cell, settings: SamplerSettings, step_cache: StepCache | None = None
    ) -> DiffusionSampler:
        packing = packing_of(denoiser.config, settings.max_image_size) if settings.pre_patchify else None
        return DiffusionSampler(denoiser, settings, packing, step_cache)


FAMILY = OpenSora11()
