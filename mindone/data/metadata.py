"""What is known of every sample of a table before training: its length, size and rate, as arrays.

It comes from the table's columns ``num_frames``, ``height``, ``width`` and ``fps``. Where they are empty the files are
looked at once, and what was found stands beside the table, in ``<table>.probed.csv``.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindone.checkpoint.atomic import atomic_write
from mindone.data.errors import BadSample
from mindone.data.table import VideoRow
from mindone.data.video import probe
from mindone.errors import UserError

logger = logging.getLogger(__name__)

COLUMNS = ("video", "bytes", "num_frames", "height", "width", "fps")
# Seconds between two lines that say how far it is.
PROGRESS = 10.0
REPORTED_SINGLY = 3

# Frames, height, width, frames per second.
Found = tuple[int, int, int, float]


@dataclass(frozen=True)
class Metadata:
    """(N,) arrays with a row per sample; a sample whose ``num_frames`` is 0 cannot be read."""

    num_frames: np.ndarray
    """int32, 1 for pictures"""
    height: np.ndarray
    """int32, pixels as shown"""
    width: np.ndarray
    """int32, pixels as shown"""
    fps: np.ndarray
    """float32, frames per second; 0 where it is not known, and for pictures"""

    def __len__(self) -> int:
        return len(self.num_frames)

    @staticmethod
    def of_rows(rows: Sequence[VideoRow]) -> Metadata:
        """What a table says; 0 where it says nothing."""
        columns = (("num_frames", np.int32), ("height", np.int32), ("width", np.int32), ("fps", np.float32))
        return Metadata(
            *(np.fromiter((getattr(row, name) or 0 for row in rows), dtype, len(rows)) for name, dtype in columns)
        )

    def lacking(self, with_fps: bool = False) -> np.ndarray:
        """Rows of which length or size is not known; ``with_fps`` also videos whose frame rate is not."""
        unknown = (self.num_frames == 0) | (self.height == 0) | (self.width == 0)
        return np.flatnonzero(unknown | (with_fps & (self.num_frames > 1) & (self.fps == 0)))

    def to_bytes(self) -> bytes:
        """All numbers, to tell tables from each other."""
        return b"".join(np.ascontiguousarray(column).tobytes() for column in vars(self).values())


def cache_file(csv_path: str | Path) -> Path:
    """Where the numbers that were found in the files of a table are kept."""
    return Path(f"{csv_path}.probed.csv")


def probed(rows: Sequence[VideoRow], csv_path: str | Path, with_fps: bool = False, workers: int = 0) -> Metadata:
    """What the table says, and what its files say where the table says nothing.

    Files are opened by several threads, with a line of progress every few seconds. Numbers of files that have the same
    length in bytes as before come from `cache_file`. Files that cannot be read are reported and have 0 frames.

    Args:
        with_fps: frame rates are needed.
        workers: threads; 0: twice the number of processors.
    """
    metadata = Metadata.of_rows(rows)
    lacking = metadata.lacking(with_fps)
    if not len(lacking):
        return metadata
    known, sizes = _read_cache(cache_file(csv_path)), {}
    for index in lacking:
        try:
            sizes[int(index)] = rows[index].file.stat().st_size
        except OSError:
            metadata.num_frames[index] = 0
    left = [index for index in sizes if (rows[index].relative, sizes[index]) not in known]
    if left:
        try:
            _probe_all(rows, left, sizes, known, workers or 2 * (os.cpu_count() or 1))
        finally:
            _write_cache(cache_file(csv_path), known)
    missing = len(lacking) - len(sizes)
    if missing:
        logger.warning("%s: %d of %d files are missing", csv_path, missing, len(rows))
    for index, size in sizes.items():
        found = known.get((rows[index].relative, size), (0, 0, 0, 0.0))
        for column, value in zip(vars(metadata).values(), found):
            column[index] = value
    return metadata


def _probe_all(
    rows: Sequence[VideoRow],
    left: Sequence[int],
    sizes: dict[int, int],
    known: dict[tuple[str, int], Found],
    workers: int,
) -> None:
    """Opens the files of ``left`` and adds what they say to ``known``."""
    logger.info("looking at length and size of %d files", len(left))
    since, bad = time.monotonic(), []
    with ThreadPoolExecutor(workers) as pool:
        for done, (index, found) in enumerate(zip(left, pool.map(lambda index: _probe(rows[index]), left)), start=1):
            if isinstance(found, str):
                bad.append(found)
            else:
                known[(rows[index].relative, sizes[index])] = found
            if time.monotonic() - since > PROGRESS:
                since = time.monotonic()
                logger.info("looked at %d of %d files", done, len(left))
    for reason in bad[:REPORTED_SINGLY]:
        logger.warning("left out: %s", reason)
    if len(bad) > REPORTED_SINGLY:
        logger.warning("%d further files cannot be read", len(bad) - REPORTED_SINGLY)


def _probe(row: VideoRow) -> Found | str:
    """The numbers of a file, or why there are none."""
    try:
        info = probe(row.file)
    except BadSample as error:
        return str(error)
    return info.num_frames, info.height, info.width, info.fps


def _read_cache(path: Path) -> dict[tuple[str, int], Found]:
    """What was found before; nothing if it cannot be read as it was written."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        if tuple(header) != COLUMNS:
            raise ValueError("other columns")
        return {
            (video, int(size)): (int(frames), int(height), int(width), float(fps))
            for video, size, frames, height, width, fps in lines
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, csv.Error) as error:
        logger.warning("%s cannot be used and is made anew: %s", path, error)
        return {}


def _write_cache(path: Path, known: dict[tuple[str, int], Found]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *((*key, *found) for key, found in known.items())])
    try:
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())
    except UserError as error:
        logger.warning("what the files say is not kept: %s", error)
