"""The training loop: batches in, updates, log lines, checkpoints, and an orderly end on a signal.

The loop is handed what it runs: the finished step, the data, what is done in between. It builds nothing.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindone import runtime, signals
from mindone.data.loader import Batch, Loader
from mindone.data.plan import size_name
from mindone.parallel.collectives import any_rank
from mindone.parallel.heartbeat import beat
from mindone.train.checkpoints import TrainingCheckpoints, TrainState
from mindone.train.schedule import Schedule
from mindone.train.skipped import SkippedUpdates
from mindone.train.step import Step, StepResult
from mindone.train.tracker import Record, Trackers

logger = logging.getLogger(__name__)

# Speed and ETA follow the mean over this many updates.
WINDOW = 100


@dataclass(frozen=True)
class Place:
    """Where the samples of a batch stand: their positions in the global batch of update ``step`` (from 0).

    The random numbers of a sample depend on nothing else, so neither on ranks nor on micro batches.
    """

    seed: int
    step: int
    positions: Sequence[int]

    def streams(self, name: str) -> list[np.random.Generator]:
        """The stream called ``name`` of each sample."""
        return [runtime.stream(self.seed, name, self.step, position) for position in self.positions]

    def normal(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """Standard normal numbers (B, *shape) float32."""
        return np.stack([stream.standard_normal(tuple(shape), np.float32) for stream in self.streams(name)])


# Makes the loss cell's inputs of a batch.
Inputs = Callable[[Batch, Place], Sequence[Any]]


@dataclass(frozen=True)
class Every:
    """Something to do after every ``interval`` updates, and after the last one; all ranks take part."""

    interval: int
    action: Callable[[int], None]
    """gets the number of finished updates"""

    def __call__(self, step: int, last: bool) -> None:
        if self.interval > 0 and (last or step % self.interval == 0):
            self.action(step)


@dataclass
class Clock:
    """Time per update. The first update of a process, which compiles, and pauses do not count."""

    seconds: float = 0.0
    """of all counted updates, over restarts"""
    steps: int = 0
    recent: collections.deque = field(default_factory=lambda: collections.deque(maxlen=WINDOW))
    """duration and samples of the last updates"""
    _since: float | None = None
    _warm: bool = False

    def start(self) -> None:
        """Begins to measure, after the beginning or a pause."""
        self._since = time.perf_counter()

    def tick(self, samples: int = 0) -> float:
        """Ends an update of so many samples and returns its duration."""
        now = time.perf_counter()
        duration, self._since = now - self._since, now
        if self._warm:
            self.seconds, self.steps = self.seconds + duration, self.steps + 1
            self.recent.append((duration, samples))
        self._warm = True
        return duration

    def per_step(self) -> float:
        """Seconds per update: of the recent ones, or those of before a restart; 0 if not known yet."""
        if self.recent:
            return sum(duration for duration, _ in self.recent) / len(self.recent)
        return self.seconds / self.steps if self.steps else 0.0

    def samples_per_second(self) -> float:
        """Of the recent updates; 0 if not known yet."""
        return sum(samples for _, samples in self.recent) / sum(each for each, _ in self.recent) if self.recent else 0.0


@dataclass
class Training:
    """All that `fit` needs.

    Args:
        step: finished; it has the state that ``checkpoints`` restored.
        micro_batches: batches per update.
        inputs: see `Inputs`.
        save_steps: updates between checkpoints; 0 saves the last state only.
        part_names: of the step's further values, for the log.
        hooks: further things to do, such as sampling.
    """

    step: Step
    loader: Loader
    inputs: Inputs
    schedule: Schedule
    total_steps: int
    checkpoints: TrainingCheckpoints
    state: TrainState
    skipped: SkippedUpdates
    micro_batches: int = 1
    trackers: Trackers = field(default_factory=Trackers)
    save_steps: int = 0
    part_names: Sequence[str] = ()
    hooks: Sequence[Every] = ()


def fit(training: Training) -> signal.Signals | None:
    """Trains from ``training.state`` to the end, or until a signal; the last state is saved in both cases.

    SIGUSR1 saves a checkpoint after the running update.

    Returns:
        The signal that ended the run, or None if it is complete.
    Raises:
        UserError: too many samples are bad, or too many updates in a row were not finite.
    """
    state, clock = training.state, Clock(training.state.clock_seconds, training.state.clock_steps)
    training.loader.state = dict(state.loader)
    batches, saved_at, mesh = iter(training.loader), state.step, training.loader.mesh
    with signals.requests() as asked, contextlib.closing(training.loader), contextlib.closing(training.trackers):
        clock.start()
        while state.step < training.total_steps:
            _update(training, batches, clock)
            last = state.step == training.total_steps
            stopping, saving = any_rank(asked.stop is not None, mesh), any_rank(asked.save, mesh)
            if stopping or saving or last or _due(state.step, training.save_steps):
                beat(f"saving after update {state.step}")
                training.checkpoints.save(state)
                asked.save, saved_at = False, state.step
            if stopping:
                break
            for hook in training.hooks:
                beat(f"what is done after update {state.step}")
                hook(state.step, last)
            clock.start()
        if state.step > saved_at:
            training.checkpoints.save(state)
        return _ended(asked.stop, state, training.total_steps)


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


@dataclass(frozen=True)
class Replayed:
    """A past update: what it gave, its learning rate, and what this rank saw."""

    result: StepResult
    lr: float
    batches: Sequence[Batch]


def replay(training: Training) -> Replayed:
    """Trains from ``training.state`` to ``training.total_steps`` without saving anything; returns the last update.

    Raises:
        UserError: as for `fit`.
    """
    state, clock = training.state, Clock()
    training.loader.state = dict(state.loader)
    with contextlib.closing(training.loader), contextlib.closing(training.trackers):
        batches = iter(training.loader)
        clock.start()
        while True:
            result, seen = _update(training, batches, clock)
            if state.step >= training.total_steps:
                return Replayed(result, training.schedule(state.step - 1), seen)


def _update(training: Training, batches: Iterator[Batch], clock: Clock) -> tuple[StepResult, list[Batch]]:
    """One update, with all that is remembered and logged of it."""
    state, epoch = training.state, training.loader.state["epoch"]
    lr = training.schedule(state.step)
    beat(f"waiting for the data of update {state.step + 1}")
    seen = [next(batches) for _ in range(training.micro_batches)]
    beat(f"update {state.step + 1}")
    result = training.step(_inputs(training, seen), lr, state.step)
    samples = sum(batch.total for batch in seen)
    seconds = clock.tick(samples)
    state.step, state.samples = state.step + 1, state.samples + samples
    state.loader = dict(training.loader.state)
    state.clock_seconds, state.clock_steps = clock.seconds, clock.steps
    training.trackers.log(_record(training, result, seen, epoch, lr, seconds, clock))
    training.skipped.note(state.step, result, seen, training.loader.dataset)
    return result, seen


def _inputs(training: Training, batches: Sequence[Batch]) -> list[Sequence[Any]]:
    """The loss cell's inputs of one update. Positions run over micro batches, then ranks, then samples."""
    inputs, before = [], 0
    for batch in batches:
        first = before + batch.start
        place = Place(training.state.seed, training.state.step, range(first, first + len(batch)))
        inputs.append(training.inputs(batch, place))
        before += batch.total
    return inputs


def _record(
    training: Training,
    result: StepResult,
    seen: Sequence[Batch],
    epoch: int,
    lr: float,
    seconds: float,
    clock: Clock,
) -> Record:
    step = training.state.step
    return Record(
        step=step,
        epoch=epoch + 1,
        loss=result.loss.asnumpy()[()],
        grad_norm=result.grad_norm.asnumpy()[()],
        lr=lr,
        seconds=seconds,
        samples_per_second=clock.samples_per_second(),
        eta=clock.per_step() * (training.total_steps - step),
        parts={name: float(value.asnumpy()) for name, value in zip(training.part_names, result.aux)},
        size=size_name(seen[-1].size),
    )


def _ended(stop: signal.Signals | None, state: TrainState, total_steps: int) -> signal.Signals | None:
    if state.step >= total_steps:
        return None
    logger.warning("stopped after step %d of %d, which is saved; go on with --resume True", state.step, total_steps)
    return stop or signal.SIGTERM
