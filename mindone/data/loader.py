"""Batches from a dataset: worker processes, an order that does not depend on them, and stand-ins for bad samples.

Which samples make up which batch is planned (`mindone.data.plan`). Of each batch a rank takes its own consecutive
part, so two ranks with batch b see what one rank with batch 2b sees. A sample that cannot be read is counted,
reported, and replaced by the next readable one of its size, which is the same on every rank and with any number of
workers; when too large a share is bad, loading stops.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from mindone import runtime
from mindone.data import workers
from mindone.data.bad_samples import BadRecord, BadSamples
from mindone.data.errors import BadSample
from mindone.data.plan import Plan, Planned, Size
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh

# How many samples may be tried in the place of a bad one.
MAX_REPLACEMENTS = 64

Sample = dict[str, Any]


class Dataset(Protocol):
    """What a loader needs; a dataset for worker processes has to be picklable.

    ``name(index)``, if there is one, says in reports which sample it was.
    """

    def __len__(self) -> int: ...

    def get(self, index: int, rng: np.random.Generator, size: Size = None) -> Sample:
        """A sample of a size, with all its random choices drawn from ``rng``; raises `BadSample` with the reason."""
        ...


@dataclass(frozen=True)
class Batch:
    """What one rank gets of a batch."""

    samples: list[Sample]
    indices: tuple[int, ...]
    """of the samples, in the dataset: where one was bad, those of the stand-ins"""
    positions: tuple[int, ...]
    """their places in the epoch"""
    size: Size = None
    start: int = 0
    """place of the first sample in the batch of all ranks"""
    total: int = 0
    """samples of all ranks"""

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """The samples as one, see `collate`."""
        return collate(self.samples)


@dataclass
class Loaded:
    """A batch's samples, the indices that were tried for them, and which of those were bad.

    ``lacking`` is the number of samples that were tried for a place that stayed empty.
    """

    samples: list[Sample] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    lacking: int = 0


class Source:
    """Reads the samples of a batch; lives in the main process or in each worker.

    Args:
        replace_bad: put a stand-in into a bad one's place.
        timeout: seconds after which a sample counts as bad; 0 waits for ever.
    """

    def __init__(self, dataset: Dataset, plan: Plan, replace_bad: bool, timeout: float = 0):
        self.dataset, self.plan, self.replace_bad, self.timeout = dataset, plan, replace_bad, timeout
        self._hung: dict[int, str] = {}

    def load(self, epoch: int, planned: Planned) -> Loaded:
        loaded = Loaded()
        for index, position in zip(planned.indices, planned.positions):
            self._load_one(epoch, index, position, planned.size, loaded)
            if loaded.lacking:
                break
        return loaded

    def _load_one(self, epoch: int, index: int, position: int, size: Size, loaded: Loaded) -> None:
        tried = 0
        for candidate in self._candidates(epoch, index, position):
            tried += 1
            loaded.tried.append(candidate)
            try:
                sample = self._get(candidate, runtime.stream(self.plan.seed, "data", epoch, position), size)
            except BadSample as error:
                loaded.bad.append(BadRecord(candidate, name_of(self.dataset, candidate), str(error)))
                continue
            loaded.samples.append(sample)
            loaded.indices.append(candidate)
            loaded.positions.append(position)
            return
        loaded.lacking = tried if self.replace_bad else 0

    def _candidates(self, epoch: int, index: int, position: int) -> Iterator[int]:
        yield index
        if self.replace_bad:
            stand_ins = self.plan.epoch(epoch).stand_ins(position)
            yield from (candidate for candidate, _ in zip(stand_ins, range(MAX_REPLACEMENTS - 1)))

    def _get(self, index: int, rng: np.random.Generator, size: Size) -> Sample:
        if not self.timeout:
            return self.dataset.get(index, rng, size)
        if index in self._hung:
            raise BadSample(self._hung[index])
        reading = _Reading(self.dataset, index, rng, size)
        reading.join(self.timeout)
        if reading.is_alive():
            self._hung[index] = f"{name_of(self.dataset, index)} was not read within {self.timeout:g} seconds"
            raise BadSample(self._hung[index])
        return reading.result()


class _Reading(threading.Thread):
    """Reads one sample. A decoder that hangs cannot be stopped, but its thread can be left to itself."""

    def __init__(self, dataset: Dataset, *arguments: Any):
        super().__init__(daemon=True)
        self._dataset, self._arguments = dataset, arguments
        self._sample: Sample | None = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._sample = self._dataset.get(*self._arguments)
        except BaseException as error:
            self._error = error

    def result(self) -> Sample:
        if self._error is not None:
            raise self._error
        return self._sample


def name_of(dataset: Dataset, index: int) -> str:
    """How reports call a sample."""
    return dataset.name(index) if hasattr(dataset, "name") else f"sample {index}"


# --- worker processes ------------------------------------------------------------------------------------------------

_worker_source: Source | None = None


def _start_worker(source: Source) -> None:
    global _worker_source
    _worker_source = source
    workers.become_worker()


def _load_in_worker(epoch: int, planned: Planned) -> Loaded:
    return _worker_source.load(epoch, planned)


# --- loader ----------------------------------------------------------------------------------------------------------


class Loader:
    """Iterates over a dataset in batches: ``for batch in loader.epoch(0)``, or endlessly ``for batch in loader``.

    Args:
        plan: which samples make up which batch; what a sample draws comes from stream ``("data", epoch, position)``.
        mesh: whose part of each batch is loaded.
        num_workers: processes that read; 0 reads in this process.
        prefetch: batches under way per worker process.
        replace_bad: put a stand-in into a bad sample's place; False leaves it out, and batches get smaller.
        max_bad_fraction: a larger share of bad samples stops with an error, once 20 (or all) were tried.
        sample_timeout: seconds after which a sample that is still being read counts as bad; 0 waits for ever.
    Attributes:
        state: ``{"epoch": e, "batch": b}`` of the next batch; assign it to continue where another run stopped.
        bad_samples: those met so far.
    Raises:
        UserError: the plan's batches cannot be shared out among the ranks, or too many samples are bad.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        *,
        mesh: Mesh | None = None,
        num_workers: int = 0,
        prefetch: int = 2,
        replace_bad: bool = True,
        max_bad_fraction: float = 0.2,
        sample_timeout: float = 0,
    ):
        if num_workers < 0 or prefetch < 1:
            raise UserError(f"num_workers={num_workers} has to be at least 0, and prefetch={prefetch} at least 1")
        self.dataset, self.plan, self.mesh = dataset, plan, mesh or Mesh()
        self.num_workers, self.prefetch, self.replace_bad = num_workers, prefetch, replace_bad
        self.state = {"epoch": 0, "batch": 0}
        action = "replaced by another" if replace_bad else "left out"
        self.bad_samples = BadSamples(len(dataset), max_bad_fraction, action)
        self._source = Source(dataset, plan, replace_bad, sample_timeout)
        self._pool: ProcessPoolExecutor | None = None

    def __len__(self) -> int:
        """Batches of the first epoch; where chance decides what is in an epoch, others may have a few more or less."""
        return len(self.plan.epoch(0))

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches from `state` on, epoch after epoch, without an end."""
        while True:
            yield from self.epoch(self.state["epoch"], self.state["batch"])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of one epoch from batch number ``start`` on; `state` follows."""
        plan = self.plan.epoch(epoch)
        if not len(plan) and not start:
            # where chance decides, an epoch of a small table may have no batch
            self.state = {"epoch": epoch + 1, "batch": 0}
            return
        if not 0 <= start < len(plan):
            raise UserError(
                f"an epoch has {len(plan)} batches, so it cannot continue at batch {start}; "
                "the data, the batch size or the number of ranks is not that of the run to resume"
            )
        self.state = {"epoch": epoch, "batch": start}
        parts = (self._part(plan[number])[1] for number in range(start, len(plan)))
        for number, loaded in enumerate(self._loaded(epoch, parts), start=start):
            last = number + 1 == len(plan)
            self._account(loaded, complete=last and start == 0)
            self.state = {"epoch": epoch + 1, "batch": 0} if last else {"epoch": epoch, "batch": number + 1}
            if loaded.samples:
                first, part = self._part(plan[number])
                total = len(plan[number])
                yield Batch(loaded.samples, tuple(loaded.indices), tuple(loaded.positions), part.size, first, total)

    def _part(self, planned: Planned) -> tuple[int, Planned]:
        """Where this rank's part of a batch begins, and the part."""
        if len(planned) % self.mesh.data:
            raise UserError(f"a batch of {len(planned)} samples cannot be shared out among {self.mesh.data} ranks")
        return planned.part(self.mesh.data_index, self.mesh.data)

    def _account(self, loaded: Loaded, complete: bool) -> None:
        self.bad_samples.add(loaded.tried, loaded.bad)
        if loaded.lacking:
            raise self.bad_samples.none_left(loaded.lacking)
        self.bad_samples.check(complete)

    def _loaded(self, epoch: int, batches: Iterable[Planned]) -> Iterator[Loaded]:
        if self.num_workers == 0:
            yield from (self._source.load(epoch, planned) for planned in batches)
            return
        pool, pending = self._workers(), deque()
        try:
            for planned in batches:
                with workers.signals_held():
                    pending.append(pool.submit(_load_in_worker, epoch, planned))
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
            with workers.signals_held():
                self._pool = ProcessPoolExecutor(self.num_workers, workers.CONTEXT, _start_worker, (self._source,))
        return self._pool

    def close(self) -> None:
        """Ends the worker processes; the loader can be used again and starts new ones."""
        if self._pool is not None:
            workers.close(self._pool)
            self._pool = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples to a batch: arrays and numbers are stacked, anything else becomes a list.

    Raises:
        UserError: arrays of one name differ in shape, or samples in their names.
    """
    batch: dict[str, Any] = {}
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
