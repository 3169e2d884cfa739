"""What a run trains on, row by row: tells tables from each other, and says where they differ."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mindone.checkpoint.atomic import atomic_write
from mindone.data.metadata import Metadata
from mindone.data.table import VideoRow

ROWS = "rows.npy"


class Contents:
    """The rows of a table, with what is known of their samples if that says how they train."""

    def __init__(self, rows: Sequence[VideoRow], metadata: Metadata | None = None):
        self.rows, self.metadata = rows, metadata

    @cached_property
    def digest(self) -> str:
        """Tells tables of different videos or captions, or in another order, from each other."""
        digest = hashlib.blake2b(digest_size=8)
        for row in self.rows:
            digest.update(f"{row.relative}\0{row.caption}\0".encode())
        return f"{len(self.rows)} rows, {digest.hexdigest()}"

    @cached_property
    def hashes(self) -> np.ndarray:
        """(N,) uint64, one per row."""
        told = zip(*(column.tolist() for column in vars(self.metadata).values())) if self.metadata else None
        texts = (
            f"{row.relative}\0{row.caption}\0{next(told) if told else ''}".encode("utf-8", "surrogatepass")
            for row in self.rows
        )
        joined = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
        return np.frombuffer(joined, np.uint64)

    def save(self, folder: Path) -> None:
        """Writes the hashes into a run's folder."""
        content = io.BytesIO()
        np.save(content, self.hashes, allow_pickle=False)
        with atomic_write(folder / ROWS) as file:
            file.write(content.getbuffer())

    def difference(self, folder: Path) -> str | None:
        """In words, how the rows differ from those of a run; None if they do not, or if the run does not say."""
        try:
            before = np.load(folder / ROWS, allow_pickle=False)
        except (OSError, ValueError):
            return None
        new = np.flatnonzero(~np.isin(self.hashes, before))
        gone = int((~np.isin(before, self.hashes)).sum())
        said = []
        if len(new):
            first = self.rows[new[0]]
            said.append(f"{_rows(len(new))} new or changed, the first in line {first.line} ({first.relative})")
        if gone:
            said.append(f"{_rows(gone)} gone")
        if not said and not np.array_equal(before, self.hashes):
            said.append("the rows are in another order, or some come more often")
        return "; ".join(said) or None


def _rows(count: int) -> str:
    return f"{count} row{'s are' if count > 1 else ' is'}"
