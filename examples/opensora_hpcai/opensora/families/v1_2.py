"""Open-Sora 1.2: STDiT3, rectified flow, the 3D autoencoder with chunks of 17 frames, T5 with 300 tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mindspore import nn

from mindone.diffusion.rectified_flow import RectifiedFlow, RectifiedFlowConfig
from opensora.conditions.given import GivenFrames
from opensora.config.common import Refusals
from opensora.config.generate import Sampler as SamplerSettings
from opensora.config.train import Flow
from opensora.data.buckets import BucketConfig, BucketRules, rules_1
from opensora.families.base import NO_PATCHES, ONLY_2_0, Arrays, is_on
from opensora.families.cached import StepCache
from opensora.families.stdit import FlowObjective, FlowSampler, STDiTFamily
from opensora.models.stdit3 import STDiT3
from opensora.timestep_shift import size_ratio

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig


@dataclass(frozen=True)
class OpenSora12(STDiTFamily):
    """Open-Sora 1.2."""

    name: str = "v1.2"
    model_max_length: int = 300
    num_frames: int = 51
    denoiser_preset: str = "STDiT3-XL/2"
    autoencoder_preset: str = "OpenSora-VAE-v1.2"
    networks = ("STDiT3-",)

    refused: ClassVar[Refusals] = {
        **NO_PATCHES,
        **ONLY_2_0,
        "vae_type": (lambda value: value not in ("OpenSora-VAE-v1.2", "OpenSoraVAE_V1_2"), "use OpenSora-VAE-v1.2"),
        "noise_scheduler": (lambda value: value != "rflow", "use rflow"),
        "condition_config": (is_on, "use mask_ratios"),
        "fps_max": (is_on, "use frame_stride"),
        "sampling": (lambda value: value != "rflow", "use rflow"),
        "sample_method": (lambda value: value == "speed", "use uniform, discrete-uniform or logit-normal"),
        "snr_range": (is_on, "leave it out; versions 1.0 and 1.1 have it"),
    }

    conditioning = GivenFrames()

    def defaults(self) -> dict[str, Any]:
        return {
            "vae_type": "OpenSora-VAE-v1.2",
            "noise_scheduler": "rflow",
            "sampling": "rflow",
            "sampling_steps": 30,
            "guidance_scale": 7.0,
            "use_timestep_transform": True,
            "fps": 24,
            "condition_frame_length": 17,
        }

    def bucket_rules(self, config: BucketConfig, compression: int = 8) -> BucketRules:
        return rules_1(config)

    def objective(self, flow: Flow, denoiser_config: DenoiserConfig, null_text: Arrays | None = None) -> FlowObjective:
        settings = RectifiedFlowConfig(
            sample_method=flow.sample_method, use_timestep_transform=flow.use_timestep_transform
        )
        dropout = denoiser_config.class_dropout_prob
        return FlowObjective(RectifiedFlow(settings, size_ratio), STDiT3.condition_names, dropout)

    def sampler(self, denoiser: nn.Cell, settings: SamplerSettings, step_cache: StepCache | None = None) -> FlowSampler:
        flow = RectifiedFlowConfig(
            num_sampling_steps=settings.sampling_steps,
            cfg_scale=settings.guidance_scale,
            use_timestep_transform=settings.use_timestep_transform,
        )
        return FlowSampler(denoiser, RectifiedFlow(flow, size_ratio), step_cache=step_cache)


FAMILY = OpenSora12()
