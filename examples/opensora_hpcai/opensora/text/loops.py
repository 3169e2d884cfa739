"""What stands inside a prompt beside its text: settings as JSON at its end, and a text per loop of a long video."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from mindone.errors import UserError

logger = logging.getLogger(__name__)

SEGMENT = re.compile(r"\|(\d+)\|")
KNOWN = ("reference_path", "mask_strategy")


def split_settings(prompt: str) -> tuple[str, dict[str, Any]]:
    """A prompt and the settings at its end: ``a cat{"reference_path": "a.png", "mask_strategy": "0"}``.

    Raises:
        UserError: what begins like settings is no JSON object, or has other names.
    """
    start = prompt.find("{")
    if start < 0 or not prompt.rstrip().endswith("}"):
        return prompt, {}
    try:
        values = json.loads(prompt[start:])
    except (ValueError, RecursionError) as error:
        raise UserError(f"the settings in the prompt '{prompt}' are not JSON: {error}") from error
    unknown = sorted(set(values) - set(KNOWN)) if isinstance(values, dict) else ["a list"]
    if unknown:
        raise UserError(
            f"the settings in the prompt '{prompt}' have {', '.join(unknown)}; {' and '.join(KNOWN)} are known"
        )
    if not all(isinstance(value, str) for value in values.values()):
        raise UserError(f"the settings in the prompt '{prompt}' have to be texts")
    return prompt[:start], values


def split_loops(prompt: str) -> tuple[list[str], list[int] | None]:
    """The texts of ``|0|a cat|2|a dog`` without blanks around them, and the loops they begin at; a plain prompt has
    none.

    Raises:
        UserError: the loops do not begin at 0 or do not rise.
    """
    if not prompt.startswith("|0|"):
        return [prompt], None
    parts = SEGMENT.split(prompt)[1:]
    starts, texts = [int(number) for number in parts[::2]], [text.strip() for text in parts[1::2]]
    if starts != sorted(set(starts)):
        raise UserError(f"the loops in the prompt '{prompt}' have to rise: |0|first|2|second")
    return texts, starts


def merge_loops(texts: list[str], starts: list[int] | None) -> str:
    """The opposite of `split_loops`."""
    if starts is None:
        return texts[0]
    return "".join(f"|{start}|{text}" for start, text in zip(starts, texts))


def text_of_loop(prompt: str, loop: int) -> str:
    """The text that a prompt has at a loop: the last one that begins there or before."""
    if not prompt.startswith("|0|"):
        return prompt
    parts = SEGMENT.split(prompt)[1:]
    chosen = [text for number, text in zip(parts[::2], parts[1::2]) if int(number) <= loop]
    return chosen[-1]


def check_loops(prompt: str, loops: int) -> None:
    """Refuses texts that begin later than right after the last loop, and warns of one that begins there.

    Raises:
        UserError: a text would never be shown.
    """
    _, starts = split_loops(prompt)
    if not starts or starts[-1] < loops:
        return
    message = f"the prompt '{prompt}' has a text for loop {starts[-1]}, but loop={loops}; use --loop {starts[-1] + 1}"
    if starts[-1] > loops:
        raise UserError(message)
    logger.warning(message)
