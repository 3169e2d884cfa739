"""Prompts: where they come from, and what Open-Sora 1.2 adds to them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mindone.data.table import read_table, says_something
from mindone.data.textfile import lines_of
from mindone.errors import UserError

logger = logging.getLogger(__name__)

CAMERA_MOTIONS = ("pan right", "pan left", "tilt up", "tilt down", "zoom in", "zoom out", "static")
COMMENT = "#"


def collect_prompts(captions: Sequence[str] | None, prompt_path: str | None) -> list[str]:
    """The prompts of a run: those of the file if there is one, else the given ones.

    Raises:
        UserError: none at all, one that is no text, or a file that `read_prompts` refuses.
    """
    if prompt_path:
        return read_prompts(prompt_path)
    prompts = [caption.strip() for caption in captions or () if caption.strip()]
    if not prompts:
        raise UserError("there is no prompt; give --captions 'a red circle moves left' or --prompt_path FILE")
    for number, prompt in enumerate(prompts, start=1):
        require_text(prompt, f"prompt {number}")
    return prompts


def require_text(text: str, what: str) -> None:
    """Refuses what no tokenizer can take: bytes of another encoding than UTF-8, halves of characters, NUL.

    Bytes of a command line that are not UTF-8 arrive as lone surrogates.

    Raises:
        UserError: names the text as ``what`` and the first such character.
    """
    if text.isascii() and "\0" not in text:
        return
    for place, char in enumerate(text):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            found = f"the byte 0x{code - 0xDC00:02x}, which is not UTF-8"
        elif 0xD800 <= code <= 0xDFFF:
            found = f"one half of a character (\\u{code:04x})"
        elif char == "\0":
            found = "a NUL character"
        else:
            continue
        start = ascii(text[max(0, place - 30) : place])[1:-1]
        raise UserError(f"{what} has {found}, behind '{start}'; write it in UTF-8")


def read_prompts(path: str | Path, column: str = "caption") -> list[str]:
    """Prompts from a csv file (its column ``caption``) or a text file (one per line); blank ones are left out.

    In a text file lines that begin with ``#`` are comments; ``\\#`` begins a prompt with that character. Only the usual
    line ends divide it: other characters that some programs show as line breaks stay in the prompt.

    Raises:
        UserError: the file is missing, is not UTF-8, has no such column, or holds no prompt.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"prompt_path={path} is not a file; give a .txt with one prompt per line or a .csv")
    if path.suffix.lower() == ".csv":
        found = read_table(path, [column]).column(column)
        silent = sum(not says_something(text) for text in found)
        if silent:
            logger.warning(
                "%s: %d of %d prompts are empty, which are left out, or a word such as NaN", path, silent, len(found)
            )
    else:
        found = _without_comments([line.strip() for line in lines_of(path)], path)
    prompts = [prompt for prompt in found if prompt]
    if not prompts:
        raise UserError(f"{path} holds no prompt; write one per line")
    return prompts


def _without_comments(lines: Sequence[str], path: Path) -> list[str]:
    kept = [line for line in lines if not line.startswith(COMMENT)]
    if len(kept) < len(lines):
        logger.info("%s: %d lines are comments", path, len(lines) - len(kept))
    return [line[1:] if line.startswith(f"\\{COMMENT}") else line for line in kept]


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
