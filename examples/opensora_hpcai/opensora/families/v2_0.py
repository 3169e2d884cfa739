"""Open-Sora 2.0: MMDiT, the shifted flow, the Hunyuan video autoencoder, T5 and CLIP, visual conditions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from mindspore import nn

from mindone.diffusion.shifted_flow import ShiftedFlow, ShiftedFlowConfig
from opensora.conditions.given import GivenToNetwork
from opensora.config.common import Refusals, Shape, Text
from opensora.config.generate import Sampler as SamplerSettings
from opensora.config.train import Flow
from opensora.data.buckets import BucketConfig, BucketRules, rules_2_0, sampling_intervals
from opensora.families.base import NO_PATCHES, Arrays, Family, PromptRules, is_on
from opensora.families.cached import StepCache
from opensora.families.mmdit import FlowMatchingObjective, GuidedSampler
from opensora.flow_settings import FLOW_SETTINGS
from opensora.sizes import VideoSize, video_size_2_0
from opensora.text.conditioner import T5ClipConditioner

if TYPE_CHECKING:
    from mindone.data.table import VideoRow
    from opensora.models.types import DenoiserConfig

# Sides are multiples of a patch of 2x2 latents, or of one latent where it is larger.
GRID = 16
# Of videos, of pictures (the first of t2i2v), and of videos at high compression.
AUTOENCODERS = ("Hunyuan-VAE", "Flux-AE", "Video-DC-AE")
FPS_SUFFIX = re.compile(r"\d+ FPS\.$")


@dataclass(frozen=True)
class OpenSora20(Family):
    """Open-Sora 2.0."""

    name: str = "v2.0"
    model_max_length: int = 512
    num_frames: int = 129
    denoiser_preset: str = "MMDiT-11B"
    autoencoder_preset: str = "Hunyuan-VAE"
    networks = ("MMDiT-", "Flux.")

    refused: ClassVar[Refusals] = {
        **NO_PATCHES,
        "dsp": (is_on, "use enable_sequence_parallelism; its network attends to space and time at once"),
        "vae_type": (lambda value: value not in AUTOENCODERS, f"use {', '.join(AUTOENCODERS)}"),
        "sampling": (lambda value: value != "rflow", "use rflow"),
        "sample_method": (
            lambda value: value in ("speed", "discrete-uniform"),
            "leave it out; its timesteps are logit-normal",
        ),
        "snr_range": (is_on, "leave it out; versions 1.0 and 1.1 have it"),
        "noise_scheduler": (lambda value: value != "rflow", "use rflow"),
        "freeze_y_embedder": (is_on, "leave it out; its network has no null caption"),
        "mask_ratios": (is_on, "use condition_config; its network is told conditions, not frames masks"),
        "aesthetic_score": (lambda value: value is not None, "use version 1.2"),
        "camera_motion": (lambda value: value is not None, "use version 1.2"),
        "mask_strategy": (is_on, "use task"),
        "loop": (lambda value: value > 1, "use 1, and --task extend to go on from a video"),
    }

    conditioning = GivenToNetwork()
    default_negative = ""
    drops_text = True
    text_encoders = ("t5_model_name_or_path", "clip_model_name_or_path")

    def defaults(self) -> dict[str, Any]:
        return {
            "vae_type": "Hunyuan-VAE",
            "noise_scheduler": "rflow",
            "sampling": "rflow",
            "sampling_steps": 50,
            "guidance_scale": 7.5,
            "guidance_img": 3.0,
            "use_timestep_transform": True,
            "fps": 24,
            "motion_score": 4.0,
        }

    def size(self, shape: Shape, compression: int = 8) -> VideoSize:
        frames, grid = shape.num_frames or self.num_frames, max(GRID, compression)
        return video_size_2_0(frames, shape.image_size, shape.resolution, shape.aspect_ratio, grid)

    def bucket_rules(self, config: BucketConfig, compression: int = 8) -> BucketRules:
        return rules_2_0(config, max(GRID, compression))

    def described(
        self, rows: Sequence[VideoRow], rates: Sequence[float] | None, fps_max: float | None
    ) -> Sequence[VideoRow]:
        rates = [row.fps or 0 for row in rows] if rates is None else rates
        return [
            row._replace(caption=training_text(row.caption, float(rate) or None, row.motion, fps_max))
            for row, rate in zip(rows, rates)
        ]

    def prepare_prompt(self, prompt: str, rules: PromptRules) -> str:
        """As it is, for a picture: what has no frame rate has no motion."""
        return prompt_text(prompt, rules.fps, None if rules.fps is None else rules.motion_score)

    def conditioner(
        self, text: Text, denoiser_config: DenoiserConfig | None = None, batch_size: int = 1
    ) -> T5ClipConditioner:
        config = denoiser_config
        widths = (config.context_in_dim, config.vec_in_dim) if config else (0, 0)
        length = text.model_max_length or self.model_max_length
        return T5ClipConditioner(
            text.t5_model_name_or_path, text.clip_model_name_or_path, length, widths, text.t5_dtype, batch_size
        )

    def objective(
        self, flow: Flow, denoiser_config: DenoiserConfig, null_text: Arrays | None = None
    ) -> FlowMatchingObjective:
        return FlowMatchingObjective(denoiser_config.patch_size, null_text, denoiser_config.cond_embed)

    def sampler(
        self, denoiser: nn.Cell, settings: SamplerSettings, step_cache: StepCache | None = None
    ) -> GuidedSampler:
        flow = ShiftedFlowConfig(**{name: getattr(settings, common) for name, common in FLOW_SETTINGS.items()})
        return GuidedSampler(denoiser, ShiftedFlow(flow), denoiser.config.guidance_embed, step_cache)


def prompt_text(prompt: str, fps: float | None, motion_score: float | None) -> str:
    """A prompt as it is encoded: with a full stop, its frame rate and its motion score; None leaves one out."""
    if fps is not None:
        prompt = with_fps(prompt, fps)
    return prompt if motion_score is None else with_motion(prompt, motion_score)


def with_fps(prompt: str, fps: float) -> str:
    """Adds `` 24 FPS.``, unless the prompt ends so already."""
    prompt = prompt.strip()
    if not prompt.endswith("."):
        prompt += "."
    return prompt if FPS_SUFFIX.search(prompt) else f"{prompt} {fps:g} FPS."


def with_motion(prompt: str, score: float | str) -> str:
    """Adds `` 4 motion score.``"""
    score = score if isinstance(score, str) else f"{score:g}"
    return f"{prompt} {score} motion score."


def sampling_interval(fps: float | None, fps_max: float | None) -> int:
    """Every how many-th frame of a training video is taken, so that it has at most ``fps_max`` frames per second.

    Args:
        fps: of the file; None if it is not known.
        fps_max: None sets no limit.
    """
    return int(sampling_intervals(np.array(fps or 0.0), fps_max))


def training_text(text: str, fps: float | None, motion_score: float | None, fps_max: float | None) -> str:
    """A caption as it is trained on: ``a boat 12 FPS, 3 motion score.``

    As published, it has no full stop of its own, frame rate and motion stand in one sentence (in prompts in two), a
    rate below the limit is written as a decimal number, and without a limit none is said.

    Args:
        fps: of the file, before `sampling_interval`; None leaves it out, as does no ``fps_max``.
        motion_score: of the video; None leaves it out.
    """
    said = []
    if fps is not None and fps_max is not None:
        rate = float(fps) if fps < fps_max else int(fps / sampling_interval(fps, fps_max))
        said.append(f"{rate} FPS")
    if motion_score is not None:
        said.append(f"{int(motion_score + 0.5)} motion score")
    return f"{text} {', '.join(said)}." if said else text


FAMILY = OpenSora20()
