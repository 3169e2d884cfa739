"""Open-Sora 1.0: STDiT, IDDPM, an image autoencoder frame by frame, T5 with 120 tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from opensora.config.common import Refusals
from opensora.families.base import NO_PATCHES, is_on
from opensora.families.diffusion import DiffusionFamily
from opensora.models.stdit import STDiT


@dataclass(frozen=True)
class OpenSora10(DiffusionFamily):
    """Open-Sora 1.0."""

    name: str = "v1"
    model_max_length: int = 120
    num_frames: int = 16
    denoiser_preset: str = "STDiT-XL/2"
    autoencoder_preset: str = "SD-VAE"
    condition_names = STDiT.condition_names

    refused: ClassVar[Refusals] = DiffusionFamily.refused | {
        **NO_PATCHES,
        "mask_ratios": (is_on, "leave it out; its network knows no given frames"),
        "condition_config": (is_on, "leave it out; version 2.0 has it"),
        "fps_max": (is_on, "use frame_stride"),
        "reference_path": (is_on, "use version 1.1 or later"),
        "mask_strategy": (is_on, "use version 1.1 or later"),
        "task": (is_on, "use version 1.1 or later"),
        "loop": (lambda value: value > 1, "use version 1.1 or 1.2"),
    }

    def defaults(self) -> dict[str, Any]:
        return super().defaults() | {"fps": 8}


FAMILY = OpenSora10()
