"""What the schemas accept but the pipelines cannot do yet: asked for, it is refused instead of being ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindone.config import leaves
from mindone.errors import UserError


def _is_on(value: Any) -> bool:
    return bool(value)


def _any_text(value: list[str] | None) -> bool:
    return any(value or ())


NOT_YET: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model_version": (lambda value: value != "v1.2", "use v1.2"),
    "vae_type": (lambda value: value == "VideoAutoencoderKL", "use OpenSora-VAE-v1.2"),
    "model_type": (lambda value: value == "VideoAutoencoderKL", "use OpenSora-VAE-v1.2"),
    "noise_scheduler": (lambda value: value != "rflow", "use rflow"),
    "sampling": (lambda value: value != "rflow", "use rflow"),
    "enable_sequence_parallelism": (_is_on, "leave it out; --use_parallel True shares the work by samples"),
    "dsp": (_is_on, "leave it out; --use_parallel True shares the work by samples"),
    "sequence_parallel_shards": (lambda value: value > 1, "use 1"),
    "zero_stage": (_is_on, "use 0"),
    "parallel_mode": (lambda value: value != "data", "use data"),
    "pre_patchify": (_is_on, "leave it out"),
    "resize_by_max_value": (_is_on, "leave it out"),
    "validate": (_is_on, "leave it out"),
    "profile": (_is_on, "leave it out"),
    "loop": (lambda value: value > 1, "use 1"),
    "reference_path": (_any_text, "leave it out"),
    "mask_strategy": (_any_text, "leave it out"),
    "negative_prompts": (_any_text, "leave it out; guidance is away from the model's learned empty caption"),
    "guidance_channels": (lambda value: value is not None, "leave it out"),
    "optim": (lambda value: not value.startswith("adamw"), "use adamw"),
    "group_strategy": (lambda value: value not in (None, "not_grouping"), "leave it out"),
    "random_crop": (_is_on, "leave it out; clips are cropped at the centre"),
    "use_discriminator": (_is_on, "leave it out"),
    "scale_lr": (_is_on, "give the learning rate you want as start_learning_rate"),
}


def refuse_not_yet(config: Any) -> None:
    """Raises a `UserError` for the first setting that asks for something of `NOT_YET`."""
    for name in leaves(type(config)):
        wanted, instead = NOT_YET.get(name, (None, ""))
        if wanted and wanted(getattr(config, name)):
            raise UserError(f"{name}={getattr(config, name)} is not supported yet; {instead}")
