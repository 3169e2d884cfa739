"""Prompts: where they come from, and what Open-Sora 1.2 adds to them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from mindone.data.table import read_table, says_something
from mindone.data.textfile import lines_of
from mindone.errors import UserError
from opensora.text.lines import NAMES, Line, line_of, line_of_json, line_of_text

logger = logging.getLogger(__name__)

CAMERA_MOTIONS = ("pan right", "pan left", "tilt up", "tilt down", "zoom in", "zoom out", "static")
COMMENT = "#"


def collect_prompts(captions: Sequence[str] | None, prompt_path: str | None) -> list[str]:
    """The texts of `collect_lines`."""
    return [line.text for line in collect_lines(captions, prompt_path)]


def collect_lines(captions: Sequence[str] | None, prompt_path: str | None) -> list[Line]:
    """The prompts of a run, with what is said beside them: those of the file if there is one, else the given ones.

    Raises:
        UserError: none at all, one that is no text, or a file that `read_lines` refuses.
    """
    if prompt_path:
        return read_lines(prompt_path)
    prompts = [caption.strip() for caption in captions or () if caption.strip()]
    if not prompts:
        raise UserError("there is no prompt; give --captions 'a red circle moves left' or --prompt_path FILE")
    lines = []
    for number, prompt in enumerate(prompts, start=1):
        require_text(prompt, f"prompt {number}")
        lines.append(line_of_text(prompt, f"prompt {number}"))
    return lines


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


def read_prompts(path: str | Path) -> list[str]:
    """The texts of `read_lines`."""
    return [line.text for line in read_lines(path)]


def read_lines(path: str | Path) -> list[Line]:
    """Prompts of a csv file (its column ``caption``), a jsonl file or a text file; blank ones are left out.

    `opensora.text.lines` says what may stand beside a prompt. In a text file lines that begin with ``#`` are comments;
    ``\\#`` begins a prompt with that character. Only the usual line ends divide it: other characters that some programs
    show as line breaks stay in the prompt.

    Raises:
        UserError: the file is missing, is not UTF-8, has no such column, holds no prompt, or a line that cannot be
            read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"prompt_path={path} is not a file; give a .txt with one prompt per line, a .csv or a .jsonl")
    readers = {".csv": _lines_of_table, ".jsonl": _lines_of_json}
    lines = [line for line in readers.get(path.suffix.lower(), _lines_of_text)(path) if line.text]
    if not lines:
        raise UserError(f"{path} holds no prompt; write one per line")
    for line in lines:
        for text in filter(None, (line.text, line.negative)):
            require_text(text, line.where)
    return lines


def _lines_of_table(path: Path, column: str = "caption") -> list[Line]:
    table = read_table(path, [column])
    texts = table.column(column)
    silent = sum(not says_something(text) for text in texts)
    if silent:
        logger.warning(
            "%s: %d of %d prompts are empty, which are left out, or a word such as NaN", path, silent, len(texts)
        )
    beside = [name for name in table.columns if name in NAMES]
    columns = zip(*(table.column(name) for name in beside)) if beside else [()] * len(texts)
    rows = zip(texts, columns, table.lines)
    return [
        line_of(text, dict(zip(beside, values)), f"{path}, line {number}", path.parent)
        for text, values, number in rows
        if text
    ]


def _lines_of_text(path: Path) -> list[Line]:
    lines, comments = [], 0
    for number, line in enumerate(lines_of(path), start=1):
        line = line.strip()
        if line.startswith(COMMENT):
            comments += 1
        elif line:
            text = line[1:] if line.startswith(f"\\{COMMENT}") else line
            lines.append(line_of_text(text, f"{path}, line {number}", path.parent))
    if comments:
        logger.info("%s: %d lines are comments", path, comments)
    return lines


def _lines_of_json(path: Path) -> list[Line]:
    lines = []
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON: {error}") from error
        lines.append(line_of_json(values, where, path.parent))
    return lines


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
