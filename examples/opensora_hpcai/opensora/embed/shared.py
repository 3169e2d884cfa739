"""What both kinds of cache have in common.

A run works through a list of files to make, skips those that are complete and made from the same (so a stopped run can
be repeated), shares the rest among the ranks, and counts what it did.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mindone import runtime
from mindone.config import Settings, save_config
from mindone.data.errors import BadSample
from mindone.errors import UserError
from mindone.parallel.heartbeat import beat
from mindone.progress import progress_bar
from opensora.config.embed import Cache
from opensora.data import cache

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class Task(Protocol):
    """A cache file to make, and what from, as JSON."""

    path: Path
    made_from: Mapping[str, Any]


AnyTask = TypeVar("AnyTask", bound=Task)


@dataclass
class Counts:
    """What a run did: files written, files that were there already, files that could not be made."""

    written: int = 0
    skipped: int = 0
    bad: int = 0

    def __str__(self) -> str:
        return f"{self.written} written, {self.skipped} there already, {self.bad} bad"


def left_to_do(tasks: Sequence[AnyTask], keys: Sequence[str], place: Cache) -> list[AnyTask]:
    """The tasks whose files are not there yet, not complete, or, with ``stale: renew``, made from something else.

    Raises:
        UserError: some were made from something else, and ``stale`` is ``error``.
    """
    todo, stale, silent = [], [], 0
    for task in tasks:
        record = None if place.allow_overwrite else _record_if_complete(task.path, keys)
        if record is None:
            todo.append(task)
        elif not record:
            silent += 1
        elif reason := cache.difference(record, task.made_from):
            todo.append(task)
            stale.append(f"{task.path}: {reason}")
    if silent:
        logger.info("%d files do not say what they were made from; they are taken as they are", silent)
    if stale and place.stale == "error":
        raise UserError(
            f"{len(stale)} of {len(tasks)} cache files were made from something else ({stale[0]}); give --stale renew "
            "to make these anew, or another --output_path"
        )
    if stale:
        logger.info("%d files were made from something else and are made anew (%s)", len(stale), stale[0])
    return todo


def _record_if_complete(path: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """What a complete file was made from, empty if it does not say; None for a file that has to be made."""
    if not cache.is_complete(path, keys):
        return None
    try:
        return cache.read_record(path) or {}
    except BadSample:
        return None


class Progress:
    """A bar of the files written, and a warning after the first of them if the disk will not hold the rest.

    Use it as a context manager.
    """

    def __init__(self, what: str, total: int, counts: Counts):
        self.total, self.counts = total, counts
        self.bar = progress_bar(what, total=total, shown=runtime.current().is_main)

    def __enter__(self) -> Progress:
        beat(f"file 1 of {self.total}")
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def wrote(self, path: Path) -> None:
        """Counts a file that is complete."""
        self.counts.written += 1
        self.bar.update(1)
        beat(f"file {self.counts.written + 1} of {self.total}")
        if self.counts.written == 1:
            rest, free = (self.total - 1) * path.stat().st_size, shutil.disk_usage(path.parent).free
            if rest > free:
                logger.warning("the other files will take about %.1f MB, but %.1f MB are free", rest / 1e6, free / 1e6)

    def left_out(self, count: int) -> None:
        """Moves the bar by files that could not be made."""
        self.bar.update(count)


def save_settings(config: Settings, folder: str | Path, recipe: str) -> None:
    """Writes the settings beside the cache, once for all ranks."""
    if runtime.current().is_main:
        save_config(config, Path(folder) / recipe)


def in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def rank_suffix() -> str:
    """What tells the files of several ranks apart."""
    current = runtime.current()
    return f"_rank{current.rank}" if current.world_size > 1 else ""


def finish(counts: Counts, folder: str | Path) -> Counts:
    """Says what was done."""
    rank = rank_suffix().replace("_rank", "rank ")
    logger.info("%s%s: %s", f"{rank}: " if rank else "", folder, counts)
    return counts
