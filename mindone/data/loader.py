"""Batches from a dataset: worker processes, an order that does not depend on them, and an account of bad samples.

The order is a function of seed and epoch. Of each global batch of ``world_size * batch_size`` positions a rank takes
its own consecutive part, so two ranks with batch b see what one rank with batch 2b sees. A sample that cannot be read
is counted, reported, and replaced by the next readable one in the order, which is the same on every rank and with any
number of workers; when too large a share is bad, loading stops.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import multiprocessing
import os
import re
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mindone import runtime
from mindone.data.errors import BadSample
from mindone.errors import UserError

logger = logging.getLogger(__name__)

# A share of bad samples means something only after this many were tried.
MIN_TRIED = 20
# How many samples in a row may be bad before the search for a replacement ends.
MAX_REPLACEMENTS = 64
REPORTED_SINGLY = 10

Batch = dict[str, Any]


class Dataset(Protocol):
    """What a loader needs; a dataset for worker processes has to be picklable.

    ``name(index)``, if there is one, says in reports which sample it was.
    """

    def __len__(self) -> int: ...

    def get(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A sample, with all its random choices drawn from ``rng``; raises `BadSample` with the reason."""
        ...


class BadRecord(NamedTuple):
    """A sample that could not be used."""

    index: int
    name: str
    reason: str


@dataclass(frozen=True)
class Order:
    """Which sample stands where: ``order(epoch)[position]`` is its index."""

    length: int
    seed: int
    shuffle: bool

    def __call__(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.length)
        return runtime.stream(self.seed, "data", epoch).permutation(self.length)


@dataclass
class Loaded:
    """A batch's samples, the indices that were tried for them, and which of those were bad."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)


class Source:
    """Reads samples by their position in an epoch's order; lives in the main process or in each worker."""

    def __init__(self, dataset: Dataset, order: Order, replace_bad: bool):
        self.dataset, self.order, self.replace_bad = dataset, order, replace_bad
        self._epoch, self._indices = -1, np.empty(0, np.int64)

    def load(self, epoch: int, positions: Sequence[int]) -> Loaded:
        if epoch != self._epoch:
            self._epoch, self._indices = epoch, self.order(epoch)
        loaded = Loaded()
        for position in positions:
            self._load_one(epoch, position, loaded)
        return loaded

    def _load_one(self, epoch: int, position: int, loaded: Loaded) -> None:
        attempts = min(len(self._indices), MAX_REPLACEMENTS) if self.replace_bad else 1
        for offset in range(attempts):
            index = int(self._indices[(position + offset) % len(self._indices)])
            loaded.tried.append(index)
            try:
                rng = runtime.stream(self.order.seed, "data", epoch, position)
                loaded.samples.append(self.dataset.get(index, rng))
                return
            except BadSample as error:
                name = self.dataset.name(index) if hasattr(self.dataset, "name") else f"sample {index}"
                loaded.bad.append(BadRecord(index, name, str(error)))


# --- worker processes ------------------------------------------------------------------------------------------------

_worker_source: Source | None = None


def _start_worker(source: Source) -> None:
    """Receives the dataset, and sees to it that the worker ends when, and only when, the main process wants it to.

    A terminal or a scheduler sends its signals to all processes of a run; the main process may then still want the
    batches that are under way, to finish a step and save.
    """
    import cv2

    global _worker_source
    _worker_source = source
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for watch in (_end_with_parent, _end_by_parent):
        threading.Thread(target=watch, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _end_by_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != multiprocessing.parent_process().pid:
        pass
    os._exit(1)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Holds back signals from a process that starts now, until it has set up what to do with them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _load_in_worker(epoch: int, positions: Sequence[int]) -> Loaded:
    return _worker_source.load(epoch, positions)


# --- loader ----------------------------------------------------------------------------------------------------------


class Loader:
    """Iterates over a dataset in batches: ``for batch in loader.epoch(0)``, or endlessly ``for batch in loader``.

    Args:
        batch_size: samples per batch of this rank.
        seed: of the order (stream ``("data", epoch)``) and of what a sample draws (``("data", epoch, position)``).
        drop_last: leave out the last, incomplete global batch; needed with more than one rank.
        num_workers: processes that read; 0 reads in this process.
        prefetch: batches under way per worker process.
        replace_bad: put the next good sample in a bad one's place; False leaves it out, and batches get smaller.
        max_bad_fraction: a larger share of bad samples stops with an error, once 20 (or all) were tried.
        collate: False yields lists of samples instead of batches.
    Attributes:
        state: ``{"epoch": e, "batch": b}`` of the next batch; assign it to continue where another run stopped.
        bad_samples: those met so far, each once.
    Raises:
        UserError: the dataset is too small for one batch, or too many samples are bad.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        num_workers: int = 0,
        prefetch: int = 2,
        rank: int = 0,
        world_size: int = 1,
        replace_bad: bool = True,
        max_bad_fraction: float = 0.2,
        collate: bool = True,
    ):
        _check_settings(batch_size, num_workers, prefetch, world_size, drop_last)
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.num_workers, self.prefetch, self.rank, self.world_size = num_workers, prefetch, rank, world_size
        self.max_bad_fraction, self.collate = max_bad_fraction, collate
        self.state = {"epoch": 0, "batch": 0}
        self._source = Source(dataset, Order(len(dataset), seed, shuffle), replace_bad)
        self._bad: dict[int, BadRecord] = {}
        self._tried = np.zeros(len(dataset), bool)
        self._pool: ProcessPoolExecutor | None = None
        if len(self) == 0:
            needed = batch_size * world_size if drop_last else 1
            ranks = f" ({world_size} ranks x batch_size={batch_size})" if world_size > 1 else ""
            raise UserError(
                f"the dataset has {len(dataset)} samples, but one batch needs {needed}{ranks}; "
                "use a smaller batch_size or more data"
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size * self.world_size)
        return whole if self.drop_last or not rest else whole + 1

    def __iter__(self) -> Iterator[Any]:
        """Yields batches from `state` on, epoch after epoch, without an end."""
        while True:
            yield from self.epoch(self.state["epoch"], self.state["batch"])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yields the batches of one epoch from batch number ``start`` on; `state` follows."""
        if not 0 <= start < len(self):
            raise UserError(
                f"an epoch has {len(self)} batches, so it cannot continue at batch {start}; "
                "the data, the batch size or the number of ranks is not that of the run to resume"
            )
        self.state = {"epoch": epoch, "batch": start}
        for number, loaded in enumerate(self._loaded(epoch, start), start=start):
            last = number + 1 == len(self)
            self._account(loaded, complete=last and start == 0)
            self.state = {"epoch": epoch + 1, "batch": 0} if last else {"epoch": epoch, "batch": number + 1}
            if loaded.samples:
                yield collate(loaded.samples) if self.collate else loaded.samples

    def _positions(self, batch: int) -> range:
        start = (batch * self.world_size + self.rank) * self.batch_size
        return range(start, min(start + self.batch_size, len(self.dataset)))

    def _loaded(self, epoch: int, start: int) -> Iterator[Loaded]:
        batches = [self._positions(batch) for batch in range(start, len(self))]
        if self.num_workers == 0:
            yield from (self._source.load(epoch, positions) for positions in batches)
            return
        pool, waiting, pending = self._workers(), iter(batches), deque()
        try:
            for positions in waiting:
                with _signals_held():
                    pending.append(pool.submit(_load_in_worker, epoch, positions))
                if len(pending) > self.num_workers * self.prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            self.close()
            raise UserError(
                "a data worker was killed or crashed, most often for lack of memory; lower num_workers or prefetch"
            ) from error
        finally:
            for future in pending:
                future.cancel()

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not "fork": the main process has a framework's threads, which a forked child inherits in a broken state.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.num_workers, context, _start_worker, (self._source,))
        return self._pool

    # --- bad samples -------------------------------------------------------------------------------------------------

    @property
    def bad_samples(self) -> list[BadRecord]:
        return list(self._bad.values())

    def _account(self, loaded: Loaded, complete: bool) -> None:
        self._tried[loaded.tried] = True
        for record in loaded.bad:
            if record.index not in self._bad:
                self._bad[record.index] = record
                self._report(record)
        tried = int(self._tried.sum())
        if not loaded.samples and self._source.replace_bad:
            raise UserError(f"{len(loaded.bad)} samples in a row cannot be used; {self.bad_summary()}")
        enough = tried >= MIN_TRIED or complete
        if self._bad and enough and len(self._bad) > self.max_bad_fraction * tried:
            raise UserError(
                f"{len(self._bad)} of {tried} samples cannot be used, more than max_bad_fraction="
                f"{self.max_bad_fraction:g} allows; {self.bad_summary()}"
            )

    def _report(self, record: BadRecord) -> None:
        if len(self._bad) <= REPORTED_SINGLY:
            action = "replaced by another" if self._source.replace_bad else "left out"
            who = "" if record.name in record.reason else f" {record.name}"
            logger.warning("bad sample%s, %s: %s", who, action, record.reason)
        if len(self._bad) == REPORTED_SINGLY:
            logger.warning("further bad samples are counted, but not listed one by one")

    def bad_summary(self, most: int = 3) -> str:
        """The most common reasons and how often each was met, with one sample's message for each."""
        counts, example = Counter(), {}
        for record in self._bad.values():
            kind = _kind(record)
            counts[kind] += 1
            example.setdefault(kind, record.reason)
        return "; ".join(f"{count}x {example[kind]}" for kind, count in counts.most_common(most)) or "no bad samples"

    def save_bad_samples(self, path: str | Path) -> None:
        """Writes the bad samples met so far as a CSV with the columns index, sample, reason."""
        from mindone.checkpoint.atomic import atomic_write

        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("index", "sample", "reason"), *self.bad_samples])
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())

    # --- end ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the worker processes; the loader can be used again and starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _check_settings(batch_size: int, num_workers: int, prefetch: int, world_size: int, drop_last: bool) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} has to be at least 1")
    if num_workers < 0 or prefetch < 1:
        raise UserError(f"num_workers={num_workers} has to be at least 0, and prefetch={prefetch} at least 1")
    if world_size > 1 and not drop_last:
        raise UserError(f"drop_last=False would give {world_size} ranks batches of different sizes; use drop_last=True")


def _kind(record: BadRecord) -> str:
    """A reason without what differs from sample to sample: the name and the numbers."""
    return re.sub(r"\d+", "#", record.reason.replace(record.name, "").split("; ")[0])


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Samples to a batch: arrays and numbers are stacked, anything else becomes a list.

    Raises:
        UserError: arrays of one name differ in shape, or samples in their names.
    """
    batch: Batch = {}
    for key in samples[0]:
        if any(key not in sample for sample in samples):
            raise UserError(f"some samples of a batch have {key}, others do not")
        values = [sample[key] for sample in samples]
        batch[key] = (
            _stack(key, values) if isinstance(values[0], np.ndarray | np.number | np.bool_ | int | float) else values
        )
    return batch


def _stack(key: str, values: Sequence[Any]) -> np.ndarray:
    shapes = {np.shape(value) for value in values}
    if len(shapes) > 1:
        raise UserError(
            f"samples of one batch differ in the shape of {key}: {' and '.join(map(str, sorted(shapes)))}; "
            "use batch_size=1, or data of one size"
        )
    return np.stack([np.asarray(value, np.float32) if isinstance(value, float) else value for value in values])
