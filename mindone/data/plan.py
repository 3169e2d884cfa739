"""Which samples make up which batch: planned ahead, by seed, epoch and metadata alone.

A plan is the same on every rank, with any number of worker processes, and whatever samples turn out to be bad.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mindone import runtime
from mindone.errors import UserError

# What a sample shall be like, such as (frames, height, width); the dataset knows what it means.
Size = Hashable


@dataclass(frozen=True)
class Planned:
    """One batch of all ranks together, or a rank's part of it."""

    indices: tuple[int, ...]
    """samples of the dataset"""
    positions: tuple[int, ...]
    """their places in the epoch, which their random draws belong to"""
    size: Size = None
    """of all samples of the batch"""

    def __len__(self) -> int:
        return len(self.indices)

    def part(self, number: int, parts: int) -> tuple[int, Planned]:
        """Where the part of rank ``number`` of ``parts`` begins, and the part: consecutive samples."""
        count = len(self) // parts
        start = number * count
        stop = start + count
        return start, Planned(self.indices[start:stop], self.positions[start:stop], self.size)


class EpochPlan(Sequence[Planned]):
    """The batches of one epoch, and who stands in for whom."""

    @abstractmethod
    def stand_ins(self, position: int) -> Iterator[int]:
        """Samples of the same size that may replace the one at a position, one after the other, without itself."""


class Plan(ABC):
    """The batches of every epoch."""

    seed: int
    """of the order, and of what a sample draws"""

    @abstractmethod
    def epoch(self, number: int) -> EpochPlan:
        """The batches of an epoch, which is numbered from 0."""


@dataclass(frozen=True)
class FixedPlan(Plan):
    """Samples of one size in batches of one size, in an order (stream ``("data", epoch)``) of each epoch's own.

    Args:
        length: samples of the dataset.
        batch_size: samples per rank.
        ranks: how many ranks have samples of their own.
        drop_last: leave out the last, incomplete batch.
        size: handed to the dataset.
    Raises:
        UserError: there are not enough samples for one batch, or ranks would get batches of different sizes.
    """

    length: int
    batch_size: int = 1
    ranks: int = 1
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = True
    size: Size = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size} has to be at least 1")
        if self.ranks > 1 and not self.drop_last:
            raise UserError(
                f"drop_last=False would give {self.ranks} ranks batches of different sizes; use drop_last=True"
            )
        needed = self.batch_size * self.ranks if self.drop_last else 1
        if self.length < needed:
            ranks = f" ({self.ranks} ranks x batch_size={self.batch_size})" if self.ranks > 1 else ""
            raise UserError(
                f"the dataset has {self.length} samples, but one batch needs {needed}{ranks}; "
                "use a smaller batch_size or more data"
            )

    def epoch(self, number: int) -> FixedEpoch:
        order = np.arange(self.length)
        if self.shuffle:
            order = runtime.stream(self.seed, "data", number).permutation(self.length)
        return FixedEpoch(order, self.batch_size * self.ranks, self.drop_last, self.size)


class FixedEpoch(EpochPlan):
    """An order, cut into batches; a sample's stand-ins are those that follow it, from the end on those at the start."""

    def __init__(self, order: np.ndarray, batch_size: int, drop_last: bool, size: Size):
        self.order, self.batch_size, self.drop_last, self.size = order, batch_size, drop_last, size

    def __len__(self) -> int:
        whole, rest = divmod(len(self.order), self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def __getitem__(self, number: int) -> Planned:
        if not 0 <= number < len(self):
            raise IndexError(f"an epoch has {len(self)} batches, not a number {number}")
        start = number * self.batch_size
        indices = self.order[start : start + self.batch_size]
        return Planned(tuple(map(int, indices)), tuple(range(start, start + len(indices))), self.size)

    def stand_ins(self, position: int) -> Iterator[int]:
        for offset in range(1, len(self.order)):
            yield int(self.order[(position + offset) % len(self.order)])
