"""Prompts: where they come from, and what Open-Sora 1.2 adds to them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from mindone.errors import UserError

CAMERA_MOTIONS = ("pan right", "pan left", "tilt up", "tilt down", "zoom in", "zoom out", "static")


def collect_prompts(captions: Sequence[str] | None, prompt_path: str | None) -> list[str]:
    """The prompts of a run: those of the file if there is one, else the given ones.

    Raises:
        UserError: none at all, or a file that `read_prompts` refuses.
    """
    if prompt_path:
        return read_prompts(prompt_path)
    prompts = [caption.strip() for caption in captions or () if caption.strip()]
    if not prompts:
        raise UserError("there is no prompt; give --captions 'a red circle moves left' or --prompt_path FILE")
    return prompts


def read_prompts(path: str | Path, column: str = "caption") -> list[str]:
    """Prompts from a csv file (its column ``caption``) or a text file (one per line); blank ones are left out.

    Raises:
        UserError: the file is missing, is not UTF-8, has no such column, or holds no prompt.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"prompt_path={path} is not a file; give a .txt with one prompt per line or a .csv")
    try:
        if path.suffix.lower() == ".csv":
            prompts = _csv_column(path, column)
        else:
            prompts = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a readable csv file: {error}") from error
    prompts = [prompt.strip() for prompt in prompts if prompt.strip()]
    if not prompts:
        raise UserError(f"{path} holds no prompt; write one per line")
    return prompts


def _csv_column(path: Path, column: str) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if column not in (reader.fieldnames or ()):
            found = ", ".join(reader.fieldnames or ()) or "nothing"
            raise UserError(f"{path} has no column '{column}' (found: {found}); name the prompt column '{column}'")
        return [row[column] or "" for row in reader]


def append_scores(
    prompt: str, aesthetic: float | None = None, motion: float | None = None, camera: str | None = None
) -> str:
    """Adds the suffixes of Open-Sora 1.2: `` aesthetic score: 6.5. motion score: 10.0. camera motion: pan left.``

    A suffix whose keyword the prompt already has is left out.

    Raises:
        UserError: an unknown camera motion.
    """
    if camera is not None and camera not in CAMERA_MOTIONS:
        raise UserError(f"camera_motion={camera} is not known; use one of {', '.join(CAMERA_MOTIONS)}")
    suffixes = {
        "aesthetic score:": None if aesthetic is None else f"{aesthetic:.1f}",
        "motion score:": None if motion is None else f"{motion:.1f}",
        "camera motion:": camera,
    }
    for keyword, value in suffixes.items():
        if value is not None and keyword not in prompt:
            prompt = f"{prompt} {keyword} {value}."
    return prompt
