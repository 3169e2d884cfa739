"""An account of samples that could not be used: which, why, and whether they are too many."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindone.errors import UserError

logger = logging.getLogger(__name__)

# A share of bad samples means something only after this many were tried.
MIN_TRIED = 20
REPORTED_SINGLY = 10


class BadRecord(NamedTuple):
    """A sample that could not be used."""

    index: int
    name: str
    reason: str


class BadSamples:
    """The bad samples of a dataset that were met so far, each once.

    Args:
        length: samples of the dataset.
        max_fraction: a larger share of those that were tried is an error.
        action: what becomes of them, for reports.
    """

    def __init__(self, length: int, max_fraction: float, action: str):
        self.max_fraction, self.action = max_fraction, action
        self._records: dict[int, BadRecord] = {}
        self._tried = np.zeros(length, bool)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[BadRecord]:
        return iter(self._records.values())

    def add(self, tried: Iterable[int], bad: Iterable[BadRecord]) -> None:
        """Takes note of samples that were tried, and of the bad ones among them; the first few are reported."""
        self._tried[list(tried)] = True
        for record in bad:
            if record.index not in self._records:
                self._records[record.index] = record
                self._report(record)

    def check(self, complete: bool) -> None:
        """Raises a `UserError` if too large a share is bad, once 20 were tried, or all of a ``complete`` epoch."""
        tried = int(self._tried.sum())
        enough = tried >= MIN_TRIED or complete
        if len(self) and enough and len(self) > self.max_fraction * tried:
            raise UserError(
                f"{len(self)} of {tried} samples cannot be used, more than max_bad_fraction="
                f"{self.max_fraction:g} allows; {self.summary()}"
            )

    def none_left(self, tried: int) -> UserError:
        """The error of a sample in whose place no other one can be used."""
        return UserError(f"none of {tried} samples that were tried can be used; {self.summary()}")

    def _report(self, record: BadRecord) -> None:
        if len(self) <= REPORTED_SINGLY:
            who = "" if record.name in record.reason else f" {record.name}"
            logger.warning("bad sample%s, %s: %s", who, self.action, record.reason)
        if len(self) == REPORTED_SINGLY:
            logger.warning("further bad samples are counted, but not listed one by one")

    def summary(self, most: int = 3) -> str:
        """The most common reasons and how often each was met, with one sample's message for each."""
        counts, example = Counter(), {}
        for record in self:
            kind = _kind(record)
            counts[kind] += 1
            example.setdefault(kind, record.reason)
        return "; ".join(f"{count}x {example[kind]}" for kind, count in counts.most_common(most)) or "no bad samples"

    def save(self, path: str | Path) -> None:
        """Writes a CSV with the columns index, sample, reason."""
        from mindone.checkpoint.atomic import atomic_write

        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("index", "sample", "reason"), *self])
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())


def _kind(record: BadRecord) -> str:
    """A reason without what differs from sample to sample: the name and the numbers."""
    return re.sub(r"\d+", "#", record.reason.replace(record.name, "").split("; ")[0])
