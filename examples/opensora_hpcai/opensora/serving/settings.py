"""From what somebody asks for to the command line that makes it, and which settings may be asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mindone.config import Leaf, leaves, parse
from mindone.errors import UserError
from opensora.config import GenerateConfig
from opensora.text.lines import Line
from opensora.text.prompts import collect_lines

# What a request may set, by the label of its setting; the recipe decides all else: models, precision, device, places.
OPEN = (
    "captions",
    "negative_prompts",
    "image_size",
    "resolution",
    "aspect_ratio",
    "num_frames",
    "seed",
    "sampling",
    "sampling_steps",
    "guidance_scale",
    "guidance_img",
    "flow_shift",
    "step_cache",
    "rel_l1_thresh",
    "fps",
    "task",
    "mask_strategy",
    "edit_ratio",
    "loop",
    "condition_frame_length",
    "condition_frame_edit",
    "aesthetic_score",
    "motion_score",
    "camera_motion",
)
# The queue's own: one video per job, in the job's folder, found again after a restart.
FIXED = {"prompt_path": None, "num_samples": 1, "append_timestr": False, "use_vae_decode": True, "overwrite": False}
REFERENCES = "reference_path"
# Files that may be given as references.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".mp4", ".mov", ".mkv", ".avi", ".webm")
LONGEST_PROMPT = 10_000


def open_leaves() -> dict[str, Leaf]:
    """The settings that a request may have, in the order in which they are shown."""
    known = leaves(GenerateConfig)
    return {name: known[name] for name in OPEN}


def command_line(recipe: str, settings: Mapping[str, Any]) -> list[str]:
    """The arguments of ``opensora generate`` for a recipe and further settings; None leaves one to the recipe."""
    argv = ["--config", recipe]
    for name, value in settings.items():
        if value is not None or name in FIXED:
            argv.append(f"--{name}={_word(name, value)}")
    return argv


def _word(name: str, value: object) -> str:
    """A value as one word of the command line, so that no part of it can be taken for another option."""
    if not isinstance(value, list):
        return str(value)
    if len(value) == 1:
        return _word(name, value[0])
    if not value or not all(isinstance(item, int | float) for item in value):
        raise UserError(f"{name}={value} has to be one text, or numbers")
    return json.dumps(value)


def require_settings(recipe: str, settings: Mapping[str, Any]) -> GenerateConfig:
    """The settings as the command reads them.

    Raises:
        UserError: what they cannot be; what only the networks know is found when the video is made.
    """
    for prompt in settings.get("captions") or [""]:
        _require_mere_text(prompt)
    return parse(GenerateConfig, command_line(recipe, settings))


def _require_mere_text(prompt: str) -> None:
    """Refuses a prompt that would name files, or say by itself what has settings of its own here."""
    if len(prompt) > LONGEST_PROMPT:
        raise UserError(f"the prompt has {len(prompt)} characters; use {LONGEST_PROMPT} or fewer")
    line = collect_lines([prompt], None)[0]
    said = [
        item.name
        for item in fields(Line)
        if item.name not in ("text", "where") and getattr(line, item.name) is not None
    ]
    if said:
        raise UserError(f"the prompt itself says {', '.join(said)}; give that as a setting, and the prompt as text")


def models_of(recipes: Sequence[str]) -> dict[str, str]:
    """Recipes by the names of their models.

    Raises:
        UserError: a recipe that cannot be read, or two of one name.
    """
    models: dict[str, str] = {}
    for recipe in recipes:
        name = Path(recipe).stem
        if name in models:
            raise UserError(f"recipes={models[name]} and {recipe} have the same name; rename one of them")
        parse(GenerateConfig, ["--config", recipe, "--captions", "a test"])
        models[name] = recipe
    return models
