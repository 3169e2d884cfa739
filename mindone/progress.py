"""Progress bars that are redrawn on a terminal, and seldom written where somebody reads them later, such as a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SECONDS_ON_TERMINAL, SECONDS_IN_FILE = 0.1, 30.0
"""Least time between two states of a bar, unless the environment says another as ``TQDM_MININTERVAL``."""


def progress_bar(
    what: str,
    items: Iterable[Item] | None = None,
    total: int | None = None,
    shown: bool = True,
    layout: str | None = None,
) -> tqdm[Item]:
    """A bar on the standard error stream; iterate over it, or call its ``update``.

    Args:
        what: stands before the bar.
        total: number of items, if those cannot be counted.
        shown: False is silent.
        layout: a ``bar_format`` of tqdm.
    """
    usual = SECONDS_ON_TERMINAL if sys.stderr.isatty() else SECONDS_IN_FILE
    seconds = float(os.environ.get("TQDM_MININTERVAL") or usual)
    return tqdm(items, what, total, disable=not shown, bar_format=layout, mininterval=seconds, file=sys.stderr)
