"""A picture of what the bundled models make: every model on the same prompts, and tasks beside them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindone.checkpoint import read_tensors
from mindone.config import arguments, parse
from mindone.data.video import read_video
from mindone.data.write import contact_sheet, write_palette_png
from mindone.errors import UserError
from opensora.config import GalleryConfig, ScoreConfig
from opensora.config.toy import LOOP_TASK
from opensora.model_folder import require_path
from opensora.networks import own_tensors
from opensora.toy.cases import for_task, make_cases

logger = logging.getLogger(__name__)

WHITE = 255
# Each smaller picture has frames of so much of the width of the one before.
SHRINK = 0.85
SMALLEST = 16


class Row(NamedTuple):
    """One video, frames (T, H, W, 3) uint8, and what stands under it."""

    frames: np.ndarray
    caption: str


def make_gallery(config: GalleryConfig) -> Path:
    """Generates the videos and writes the picture; says which models and tasks are left out.

    Raises:
        UserError: no model is there, a recipe that cannot work, or a picture that gets too large.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    models = [model for recipe in config.recipes if (model := _model(config, recipe))]
    if not models:
        raise UserError(f"none of these recipes has its model: {', '.join(map(str, config.recipes))}; train one first")
    texts = [rows_of_prompts(config, model) for model in models]
    by_prompt = [rows[number] for number in range(len(config.captions)) for rows in texts]
    by_task = [row for task in config.tasks for model in models for row in rows_of_task(config, model, task)]
    path = write_sheets(config, [rows for rows in (by_prompt, by_task) if rows])
    logger.info("%d videos, %d bytes: %s", len(by_prompt) + len(by_task), path.stat().st_size, path)
    return path


def _model(config: GalleryConfig, recipe: str) -> ScoreConfig | None:
    """The settings of a recipe; None, and a line, if its file or its models are missing."""
    if not Path(recipe).is_file():
        logger.info("left out: there is no recipe %s", recipe)
        return None
    model = _settings(config, recipe)
    try:
        read_tensors(require_path(model.denoiser.ckpt_path, "the denoiser's weights", "ckpt_path"))
        own_tensors(require_path(model.autoencoder.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint"))
    except UserError as error:
        logger.info("left out: %s: %s", recipe, error)
        return None
    return model


def _settings(config: GalleryConfig, recipe: str) -> ScoreConfig:
    values = {"config": recipe, "output_path": config.output_path, "seed": config.seed}
    return parse(ScoreConfig, arguments(values | {"device_target": config.device_target}))


def name_of(model: ScoreConfig) -> str:
    """``Open-Sora 1.1``"""
    version = model.denoiser.model_version.removeprefix("v")
    return f"Open-Sora {version if '.' in version else f'{version}.0'}"


def rows_of_prompts(config: GalleryConfig, model: ScoreConfig) -> list[Row]:
    """A video of every prompt."""
    model.prompts.captions = list(config.captions)
    return [
        Row(frames, f"{name_of(model)}: {text}") for frames, text in zip(_videos(model), config.captions, strict=True)
    ]


def rows_of_task(config: GalleryConfig, model: ScoreConfig, task: str) -> list[Row]:
    """One video of a task; none, and a line, if the version does not know it."""
    asked = copy.deepcopy(model)
    asked.prompts.captions, asked.conditions.task = None, task
    try:
        asked, setup = for_task(asked)
    except UserError as error:
        logger.info("left out: %s: %s", name_of(model), error)
        return []
    folder = Path(asked.output.output_path) / f"references_{task}"
    (case,) = make_cases(setup, 1, folder, asked.sampler.fps or 8)
    asked.prompts.captions = [case.caption]
    if task != LOOP_TASK:
        asked.conditions.reference_path = [";".join(map(str, case.files))]
    caption = f"{name_of(model)}, {task}: {case.caption}"
    return [Row(frames, caption) for frames in _videos(asked)]


def _videos(model: ScoreConfig) -> Iterator[np.ndarray]:
    from opensora.generate.run import generate

    return (read_video(result.video) for result in generate(model))


def write_sheets(config: GalleryConfig, sheets: Sequence[Sequence[Row]]) -> Path:
    """Writes columns of rows beside each other, with frames as wide as asked for or as the size of the file allows.

    Raises:
        UserError: the smallest picture is too large.
    """
    width = config.width
    while True:
        picture = beside(sheets, config.columns, width)
        path = Path(config.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        if write_palette_png(path, picture, 1000 * config.max_kilobytes):
            return path
        width = int(width * SHRINK)
        if width < SMALLEST:
            raise UserError(
                f"the picture does not fit into max_kilobytes={config.max_kilobytes}; show fewer prompts or columns"
            )


def beside(sheets: Sequence[Sequence[Row]], columns: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: contact sheets side by side, filled up with white at their ends."""
    parts = [
        contact_sheet([row.frames for row in rows], [row.caption for row in rows], columns, width) for rows in sheets
    ]
    height = max(len(part) for part in parts)
    filled = [np.pad(part, ((0, height - len(part)), (0, 0), (0, 0)), constant_values=WHITE) for part in parts]
    return np.concatenate(filled, axis=1)
