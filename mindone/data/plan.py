"""Which samples make up which batch: planned ahead, by seed, epoch and metadata alone.

A plan is the same on every rank, with any number of worker processes, and whatever samples turn out to be bad.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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

    @abstractmethod
    def usual_size(self) -> Size:
        """The size that most batches have."""

    @abstractmethod
    def shapes(self) -> int:
        """How many different pairs of size and number of samples the batches have; a graph is compiled for each."""


class Plan(ABC):
    """The batches of every epoch."""

    seed: int
    """of the order, and of what a sample draws"""

    @abstractmethod
    def epoch(self, number: int) -> EpochPlan:
        """The batches of an epoch, which is numbered from 0."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What batches depend on beside the seed and the samples, by name and as JSON knows it."""


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

    def identity(self) -> dict[str, Any]:
        return {"samples per batch": self.batch_size * self.ranks}


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

    def usual_size(self) -> Size:
        return self.size

    def shapes(self) -> int:
        return 1 if self.drop_last or not len(self.order) % self.batch_size else min(2, len(self))


# --- samples of several sizes ----------------------------------------------------------------------------------------

# (question, "which of its chances", samples) -> a number in [0, 1) for each of these samples
Draw = Callable[[int, str, np.ndarray], np.ndarray]


def make_draw(length: int, seed: int, *names: str | int) -> Draw:
    """What draws the chances of ``length`` samples, from the streams ``(*names, question, name)``."""

    def draw(question: int, name: str, samples: np.ndarray) -> np.ndarray:
        return runtime.stream(seed, *names, question, name).random(length)[samples]

    return draw


def size_name(size: Size) -> str:
    """``17x64x96`` of (frames, height, width); ``-`` where there is no size."""
    return "x".join(map(str, size)) if isinstance(size, tuple) else "-"


PLANNED_RANKS = "ranks that batches are planned for"


class Assignment(Protocol):
    """Puts samples into buckets; the chances of a sample are drawn by ``draw``, and nothing else is random."""

    def assign(self, draw: Draw) -> np.ndarray:
        """(N,) int, the number of each sample's bucket, and -1 where it has none."""
        ...


@dataclass(frozen=True)
class BucketSize:
    """What the samples of a bucket have in common."""

    name: str
    size: Size
    batch_size: int
    """samples per rank"""


class BucketPlan(Plan):
    """Batches of several sizes, one size per batch, which is the same on all ranks.

    A bucket's samples are shuffled in every epoch (stream ``("data", epoch)``) and cut into batches; those that do not
    fill one are left out of the epoch. The batches of a bucket are spread evenly over the epoch, each with a random
    place within its share of it (stream ``("steps", epoch)``), so sizes alternate. In which bucket a sample is may be
    random too (stream ``("bucket", epoch, question, name)``), and depends on its place in the table.

    Args:
        assignment: of ``length`` samples to ``buckets``.
        ranks: how many ranks the batch sizes are meant for. A batch has the samples of all of them, and may be shared
            out among another number of ranks.
        fingerprint: tells the assignment from any other.
    Raises:
        UserError: no bucket has enough samples for a batch; it names what they lack.
    """

    def __init__(
        self,
        assignment: Assignment,
        length: int,
        buckets: Sequence[BucketSize],
        ranks: int = 1,
        seed: int = 0,
        fingerprint: str = "",
    ):
        self.assignment, self.length, self.buckets = assignment, length, tuple(buckets)
        self.ranks, self.seed = ranks, seed
        self._whole = np.array([bucket.batch_size * ranks for bucket in buckets], np.int64)
        sizes = [(bucket.name, bucket.size, bucket.batch_size) for bucket in buckets]
        content = json.dumps([fingerprint, length, ranks, seed, sizes]).encode()
        self.digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        self._last: tuple[int, BucketEpoch] | None = None
        if not len(self.epoch(0)):
            raise UserError(self._nothing())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def epoch(self, number: int) -> BucketEpoch:
        if self._last is None or self._last[0] != number:
            self._last = (number, self._make(number))
        return self._last[1]

    def assigned(self, number: int) -> np.ndarray:
        """(N,) int, the buckets of all samples in an epoch; -1 where a sample has none."""
        return self.assignment.assign(self.draw(number))

    def draw(self, number: int) -> Draw:
        """What draws the chances of an epoch."""
        return make_draw(self.length, self.seed, "bucket", number)

    def _make(self, number: int) -> BucketEpoch:
        found = self.assigned(number)
        order = runtime.stream(self.seed, "data", number).permutation(self.length).astype(np.int32)
        order = order[found[order] >= 0]
        order = order[np.argsort(found[order], kind="stable")]
        held = np.bincount(found[order], minlength=len(self.buckets))
        counts = np.where(self._whole > 0, held // np.maximum(1, self._whole), 0)
        return BucketEpoch(order, held, counts, self, runtime.stream(self.seed, "steps", number))

    def identity(self) -> dict[str, Any]:
        return {PLANNED_RANKS: self.ranks, "plan": self.digest}

    def _nothing(self, most: int = 5) -> str:
        """Why there is no batch: how many samples the buckets lack that are nearest to one."""
        held = self.epoch(0).held
        if not held.any():
            return f"none of {self.length} samples falls into a bucket"
        filled = np.flatnonzero(held)
        nearest = filled[np.argsort(-held[filled] / np.maximum(1, self._whole[filled]), kind="stable")]
        lacks = "; ".join(
            f"{self.buckets[i].name} has {held[i]} of {self._whole[i]} samples and lacks {self._whole[i] - held[i]}"
            for i in nearest[:most]
        )
        more = f"; and {len(nearest) - most} more" if len(nearest) > most else ""
        ranks = f" of {self.ranks} ranks" if self.ranks > 1 else ""
        return f"no bucket has enough samples for one batch{ranks}: {lacks}{more}; use smaller batch sizes or more data"


class BucketEpoch(EpochPlan):
    """The batches of an epoch in several sizes.

    A sample's stand-ins are those that follow it in its bucket, from the end on those at the start.

    Attributes:
        held: (buckets,) samples of each bucket.
        steps: (batches,) number of the bucket of each batch.
    """

    def __init__(
        self, order: np.ndarray, held: np.ndarray, counts: np.ndarray, plan: BucketPlan, rng: np.random.Generator
    ):
        """``order`` has the samples, bucket by bucket; ``counts`` the batches of each bucket."""
        self.order, self.held, self._buckets = order, held, plan.buckets
        self._starts = np.cumsum(held) - held
        buckets = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(len(buckets)) - np.repeat(np.cumsum(counts) - counts, counts)
        # where in the epoch, from 0 to 1
        when = (places + rng.random(len(buckets))) / np.maximum(1, np.repeat(counts, counts))
        sequence = np.argsort(when, kind="stable")
        self.steps, self._places = buckets[sequence], places[sequence]
        self._whole = plan._whole
        ends = np.cumsum(self._whole[self.steps])
        self._positions = ends - self._whole[self.steps]
        self.samples = int(ends[-1]) if len(ends) else 0

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, number: int) -> Planned:
        if not 0 <= number < len(self):
            raise IndexError(f"an epoch has {len(self)} batches, not a number {number}")
        bucket, size = int(self.steps[number]), int(self._whole[self.steps[number]])
        start, position = int(self._starts[bucket] + self._places[number] * size), int(self._positions[number])
        indices = self.order[start : start + size]
        return Planned(tuple(indices.tolist()), tuple(range(position, position + size)), self._buckets[bucket].size)

    def stand_ins(self, position: int) -> Iterator[int]:
        number = int(np.searchsorted(self._positions, position, side="right")) - 1
        bucket = self.steps[number]
        place = int(self._places[number] * self._whole[bucket] + position - self._positions[number])
        start, held = int(self._starts[bucket]), int(self.held[bucket])
        for offset in range(1, held):
            yield int(self.order[start + (place + offset) % held])

    def usual_size(self) -> Size:
        return self._buckets[int(np.bincount(self.steps).argmax())].size

    def shapes(self) -> int:
        return len({(self._buckets[i].size, self._buckets[i].batch_size) for i in np.unique(self.steps)})
