"""What belongs together in each version of Open-Sora: one object per version, and no other branch on the version.

Pipelines know the interface of `Family` only.
"""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindone import runtime
from mindone.diffusion.rectified_flow import RectifiedFlow, RectifiedFlowConfig
from mindone.errors import UserError
from opensora.data.aspect import named_size, parse_num_frames
from opensora.model_folder import read_config, require_path
from opensora.text.cleaning import cleaner
from opensora.text.prompts import append_scores
from opensora.timestep_shift import size_ratio

logger = logging.getLogger(__name__)

IMAGE_FPS = 120
VideoSize = tuple[int, int, int]


@dataclass(frozen=True)
class PromptRules:
    """What happens to a prompt before the text encoder sees it; None leaves a suffix out."""

    aesthetic_score: float | None = None
    motion_score: float | None = None
    camera_motion: str | None = None
    cleaning: str = "basic"


@dataclass(frozen=True)
class Family(ABC):
    """One version of Open-Sora: its networks, flow, token length, conditioning and prompt rules."""

    name: str
    model_max_length: int
    denoiser_preset: str
    autoencoder_preset: str
    flow_defaults: RectifiedFlowConfig

    # --- networks ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def denoiser_config(self, path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Any:
        """The denoiser's config: the preset, replaced by the folder's ``config.json``, then by ``overrides``."""

    @abstractmethod
    def build_denoiser(
        self, config: Any, dtype: str = "fp32", recompute: bool | int = False, parallel: Any = None
    ) -> Any:
        """The denoiser with fresh weights; ``recompute`` says for how many of its blocks, True for all."""

    @abstractmethod
    def guided_velocity(self, denoiser: Any, guided: bool) -> Any:
        """A cell ``(z, t, text, text_mask, frames_mask, guidance_scale, *conditions) -> velocity``, compiled once."""

    @abstractmethod
    def conditions(self, height: int, width: int, num_frames: int, fps: float, batch: int) -> dict[str, np.ndarray]:
        """What else the denoiser is told, by argument name, (batch,) float32 each, in the order of its arguments."""

    @abstractmethod
    def prepare_prompt(self, prompt: str, rules: PromptRules) -> str:
        """The text that is encoded for a prompt."""

    # --- shared by all versions --------------------------------------------------------------------------------------

    def flow(self, **changes: Any) -> RectifiedFlow:
        """The family's flow; settings that are None keep the family's own."""
        given = {name: value for name, value in changes.items() if value is not None}
        return RectifiedFlow(dataclasses.replace(self.flow_defaults, **given), size_ratio)

    def load_denoiser(
        self,
        path: str | Path | None,
        overrides: Mapping[str, Any] | None = None,
        dtype: str = "fp32",
        recompute: bool | int = False,
        allow_random: bool = False,
        parallel: Any = None,
        option: str = "ckpt_path",
        trained: bool = False,
    ) -> Any:
        """The denoiser with the weights at ``path``, a folder or file.

        Args:
            overrides: config fields that replace those of the folder.
            recompute: as in `build_denoiser`.
            allow_random: without a path, keep random weights instead of refusing.
            option: the setting that gave the path, for messages.
            trained: keep all parameters in float32; otherwise matrices are held in ``dtype``.
        Raises:
            UserError: no weights, or they do not fit the network.
        """
        from mindone.checkpoint import load_into, read_tensors
        from mindone.nn import set_compute_dtype

        config = self.denoiser_config(path, overrides)
        if not path and allow_random:
            logger.warning("the denoiser has random weights")
            return self.build_denoiser(config, dtype, recompute, parallel)
        source = require_path(path, "the denoiser's weights", option)
        with runtime.lazy_parameters():
            denoiser = self.build_denoiser(config, dtype, recompute, parallel)
            if not trained:
                set_compute_dtype(denoiser, runtime.compute_dtype(dtype), store=True)
        load_into(denoiser, read_tensors(source))
        return denoiser.set_train(False)

    def autoencoder_config(
        self, path: str | Path | None = None, micro_batch_size: int | None = None, micro_frame_size: int | None = None
    ) -> Any:
        """The autoencoder's config: published sizes, or those of the folder's ``config.json``; micro size 0 is none."""
        from opensora.autoencoders import autoencoder_config

        sizes = {"micro_batch_size": micro_batch_size, "micro_frame_size": micro_frame_size}
        return autoencoder_config(self.autoencoder_preset, path, **sizes)

    def build_autoencoder(self, config: Any, dtype: str = "fp32") -> Any:
        """The autoencoder with fresh weights."""
        from opensora.autoencoders import build_autoencoder

        return build_autoencoder(config, dtype)

    def load_autoencoder(
        self,
        path: str | Path | None,
        dtype: str = "fp32",
        micro_batch_size: int | None = None,
        micro_frame_size: int | None = None,
        allow_random: bool = False,
        option: str = "vae_checkpoint",
    ) -> Any:
        """The autoencoder with the weights at ``path``; the arguments are those of `load_denoiser`."""
        from opensora.autoencoders import load_autoencoder

        sizes = {"micro_batch_size": micro_batch_size, "micro_frame_size": micro_frame_size}
        if not path and allow_random:
            logger.warning("the autoencoder has random weights")
            return self.build_autoencoder(self.autoencoder_config(path, **sizes), dtype)
        return load_autoencoder(path, self.autoencoder_preset, dtype, option, **sizes)

    def autoencoder_skeleton(self, path: str | Path | None = None) -> Any:
        """The autoencoder without weights or memory, to ask it for sizes."""
        with runtime.lazy_parameters():
            return self.build_autoencoder(self.autoencoder_config(path))

    def load_text_encoder(
        self,
        path: str | Path | None,
        max_length: int | None = None,
        dtype: str = "fp32",
        batch_size: int = 1,
        expected_dim: int = 0,
    ) -> Any:
        """The text encoder in the folder ``path``, with the token length of this family unless another is given."""
        from opensora.text.encoder import TextEncoder

        return TextEncoder.from_folder(path, max_length or self.model_max_length, dtype, batch_size, expected_dim)

    def video_size(
        self,
        num_frames: int | str,
        image_size: Sequence[int] | int | None = None,
        resolution: str | None = None,
        aspect_ratio: str | None = None,
        compression: int = 8,
    ) -> VideoSize:
        """(frames, height, width) that the user asks for by numbers or by names.

        Named sizes are the published ones, also those that the autoencoder rounds down (426 becomes 424 pixels).

        Raises:
            UserError: no size, unknown names, or an explicit size that ``compression`` does not divide.
        """
        frames = parse_num_frames(num_frames)
        if image_size:
            return frames, *_explicit_size(image_size, compression)
        if not resolution or not aspect_ratio:
            raise UserError("the video has no size; give image_size (height width), or resolution and aspect_ratio")
        return frames, *named_size(resolution, aspect_ratio)


def _explicit_size(image_size: Sequence[int] | int, compression: int) -> tuple[int, int]:
    sides = [image_size] if isinstance(image_size, int) else list(image_size)
    if len(sides) not in (1, 2) or any(side < 1 for side in sides):
        raise UserError(f"image_size={image_size} has to be one positive number or two: height width")
    height, width = sides * 2 if len(sides) == 1 else sides
    for side in (height, width):
        if side % compression:
            nearest = max(compression, round(side / compression) * compression)
            raise UserError(
                f"image_size={height}x{width}: {side} is not divisible by {compression}, the compression of the "
                f"autoencoder; use {nearest}"
            )
    return height, width


@dataclass(frozen=True)
class OpenSora12(Family):
    """Open-Sora 1.2: STDiT3, rectified flow, the 3D autoencoder with 17-frame chunks, T5 with 300 tokens."""

    def denoiser_config(self, path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Any:
        from opensora.models.denoisers import denoiser_config

        return denoiser_config(self.denoiser_preset, read_config(path), overrides)

    def build_denoiser(
        self, config: Any, dtype: str = "fp32", recompute: bool | int = False, parallel: Any = None
    ) -> Any:
        from opensora.models.denoisers import build_denoiser

        return build_denoiser(config, dtype, recompute, parallel)

    def guided_velocity(self, denoiser: Any, guided: bool) -> Any:
        from opensora.models.velocity import STDiTVelocity

        return STDiTVelocity(denoiser, guided)

    def conditions(self, height: int, width: int, num_frames: int, fps: float, batch: int) -> dict[str, np.ndarray]:
        values = {"fps": IMAGE_FPS if num_frames == 1 else fps, "height": height, "width": width}
        return {name: np.full(batch, value, np.float32) for name, value in values.items()}

    def prepare_prompt(self, prompt: str, rules: PromptRules) -> str:
        scored = append_scores(prompt, rules.aesthetic_score, rules.motion_score, rules.camera_motion)
        return cleaner(rules.cleaning)(scored)


FAMILIES: dict[str, Family] = {
    "v1.2": OpenSora12(
        name="v1.2",
        model_max_length=300,
        denoiser_preset="STDiT3-XL/2",
        autoencoder_preset="OpenSora-VAE-v1.2",
        flow_defaults=RectifiedFlowConfig(num_sampling_steps=30, cfg_scale=7.0, use_timestep_transform=True),
    ),
}


def get_family(name: str) -> Family:
    """The family called ``name``, with or without the ``v``.

    Raises:
        UserError: there is none of that name.
    """
    key = name if name.startswith("v") else f"v{name}"
    if key not in FAMILIES:
        raise UserError(f"model_version={name} is not known; use one of {', '.join(FAMILIES)}")
    return FAMILIES[key]
