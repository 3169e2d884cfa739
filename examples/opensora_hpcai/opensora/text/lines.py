"""One prompt and what its line says beside it: columns of a table, keys of JSON, or options behind the text.

In a text, ``a cat --w 320 --h 240 --f 17 --s 7 --n a dog`` has options; ``\\--`` is no option. JSON at the end of any
prompt may give references and mask strategies, see `opensora.text.loops`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindone.data.table import says_something
from mindone.errors import UserError
from opensora.text.loops import split_settings

# name in a table or in JSON → field of `Line`
NAMES = {
    "reference": "reference_path",
    "reference_path": "reference_path",
    "ref": "reference_path",
    "mask_strategy": "mask_strategy",
    "task": "task",
    "cond_type": "task",
    "negative": "negative",
    "negative_prompt": "negative",
    "seed": "seed",
    "height": "height",
    "width": "width",
    "image_size": "image_size",
    "num_frames": "num_frames",
}
SHORT_NAMES = {"w": "width", "h": "height", "f": "num_frames", "s": "seed", "n": "negative"}
TEXT_KEYS = ("caption", "prompt", "text")
OPTION = re.compile(r"(?:^|\s)--(\w+)(?=\s|$)")


@dataclass(frozen=True)
class Line:
    """A prompt; what is None is as the command says. ``where`` names the line in messages."""

    text: str
    reference_path: str | None = None
    mask_strategy: str | None = None
    task: str | None = None
    negative: str | None = None
    seed: int | None = None
    height: int | None = None
    width: int | None = None
    num_frames: str | None = None
    where: str = ""


def line_of(text: str, values: Mapping[str, Any], where: str, folder: Path | None = None) -> Line:
    """A prompt whose text may end in JSON, and further values by their names; empty ones count as not given.

    Args:
        folder: where relative references are looked for first.
    Raises:
        UserError: a value that is none, half a size, or something said twice.
    """
    text, inside = split_settings(text)
    fields: dict[str, Any] = {}
    for name, value in [*values.items(), *inside.items()]:
        field = NAMES[name]
        if value is None or not says_something(str(value)):
            continue
        if field in fields:
            raise UserError(f"{where} says {field} twice")
        fields[field] = value
    if "image_size" in fields:
        if "height" in fields or "width" in fields:
            raise UserError(f"{where} gives image_size and height or width; one of them is enough")
        fields["height"], fields["width"] = _size(fields.pop("image_size"), where)
    if ("height" in fields) != ("width" in fields):
        raise UserError(f"{where} gives a height or a width alone; give both")
    for name, least in (("height", 1), ("width", 1), ("seed", 0)):
        if name in fields:
            fields[name] = _whole(fields[name], name, least, where)
    for name in set(fields) - {"height", "width", "seed"}:
        fields[name] = str(fields[name]).strip()
    if "reference_path" in fields:
        fields["reference_path"] = _located(fields["reference_path"], folder)
    return Line(text.strip(), where=where, **fields)


def line_of_text(line: str, where: str, folder: Path | None = None) -> Line:
    """A prompt with options behind its text.

    Raises:
        UserError: as `line_of`, an option that is not known, or options alone.
    """
    parts = OPTION.split(line)
    text = parts[0].replace("\\--", "--").strip()
    values: dict[str, str] = {}
    for name, value in zip(parts[1::2], parts[2::2]):
        long = SHORT_NAMES.get(name, name)
        if long not in NAMES:
            known = ", ".join(f"--{known}" for known in [*SHORT_NAMES, *NAMES])
            raise UserError(f"{where}: --{name} is not known; use one of {known}, or \\--{name} if it is text")
        if not value.strip():
            raise UserError(f"{where}: --{name} has no value")
        if long in values:
            raise UserError(f"{where} says {long} twice")
        values[long] = value.strip()
    if values and not text:
        raise UserError(f"{where} has options, but no prompt; begin with the text")
    return line_of(text, values, where, folder)


def line_of_json(values: object, where: str, folder: Path | None = None) -> Line:
    """A prompt as a JSON object: its text is ``caption``, ``prompt`` or ``text``.

    Raises:
        UserError: as `line_of`, no object, no text, or a key that is not known.
    """
    if not isinstance(values, dict):
        raise UserError(f'{where} is no JSON object such as {{"prompt": "a cat", "seed": 7}}')
    texts = [values[key] for key in TEXT_KEYS if key in values]
    if len(texts) != 1 or not isinstance(texts[0], str) or not texts[0].strip():
        raise UserError(f"{where} has no text; give it as one of {', '.join(TEXT_KEYS)}")
    rest = {key: value for key, value in values.items() if key not in TEXT_KEYS}
    unknown = sorted(set(rest) - set(NAMES))
    if unknown:
        raise UserError(f"{where} has {', '.join(unknown)}; known are {', '.join([*TEXT_KEYS, *NAMES])}")
    return line_of(texts[0], {key: _flat(value, key, where) for key, value in rest.items()}, where, folder)


def _flat(value: object, key: str, where: str) -> object:
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return (";" if NAMES[key] == "reference_path" else " ").join(map(str, value))
    if isinstance(value, list | dict | bool):
        raise UserError(f"{where}: {key} is neither a text nor a number")
    return value


def _whole(value: object, name: str, least: int, where: str) -> int:
    text = str(value).strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) < least:
        raise UserError(f"{where}: {name}={text[:40]} has to be a whole number from {least} on")
    return int(text)


def _size(value: object, where: str) -> tuple[int, int]:
    sides = [_whole(side, "image_size", 1, where) for side in re.split(r"[x×,\s]+", str(value).strip())]
    if len(sides) > 2:
        raise UserError(f"{where}: image_size={value} has to be one number, or two: height width")
    return sides[0], sides[-1]


def _located(paths: str, folder: Path | None) -> str:
    """References of a file of prompts are looked for beside it, then where the command runs."""
    found = []
    for path in paths.split(";"):
        path = os.path.expanduser(path.strip())
        beside = None if folder is None else folder / path
        found.append(str(beside) if beside is not None and beside.exists() else path)
    return ";".join(found)
