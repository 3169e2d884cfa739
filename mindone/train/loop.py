"""The training loop: batches in, updates, log lines, checkpoints, and an orderly end on a signal."""

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

from mindone import runtime
from mindone.data.loader import Batch, Loader
from mindone.parallel.collectives import any_rank
from mindone.train.run_folder import TrainingCheckpoints, TrainState
from mindone.train.schedule import Schedule
from mindone.train.step import StepResult, TrainStep
from mindone.train.tracker import Record, Trackers

logger = logging.getLogger(__name__)

# The ETA follows the mean duration of this many updates.
ETA_WINDOW = 100


@dataclass(frozen=True)
class Place:
    """Where the samples of a batch stand: their positions in the global batch of update ``step`` (from 0).

    The random numbers of a sample depend on nothing else, so neither on ranks nor on micro batches.
    """

    seed: int
    step: int
    positions: range

    def streams(self, name: str) -> list[np.random.Generator]:
        """The stream called ``name`` of each sample."""
        return [runtime.stream(self.seed, name, self.step, position) for position in self.positions]

    def normal(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """Standard normal numbers (B, *shape) float32."""
        return np.stack([stream.standard_normal(tuple(shape), np.float32) for stream in self.streams(name)])


# Makes the loss cell's inputs of a batch.
Prepare = Callable[[Batch, Place], Sequence[Any]]


@dataclass(frozen=True)
class Every:
    """Something to do after every ``interval`` updates."""

    interval: int
    action: Callable[[int], None]
    """gets the number of finished updates"""

    def __call__(self, step: int) -> None:
        if self.interval > 0 and step % self.interval == 0:
            self.action(step)


@dataclass
class Clock:
    """Time per update. The first update of a process, which compiles, and pauses do not count."""

    seconds: float = 0.0
    """of all counted updates, over restarts"""
    steps: int = 0
    recent: collections.deque = field(default_factory=lambda: collections.deque(maxlen=ETA_WINDOW))
    _since: float | None = None
    _warm: bool = False

    def start(self) -> None:
        """Begins to measure, after the beginning or a pause."""
        self._since = time.perf_counter()

    def tick(self) -> float:
        """Ends an update and returns its duration."""
        now = time.perf_counter()
        duration, self._since = now - self._since, now
        if self._warm:
            self.seconds, self.steps = self.seconds + duration, self.steps + 1
            self.recent.append(duration)
        self._warm = True
        return duration

    def per_step(self) -> float:
        """Seconds per update: of the recent ones, or those of before a restart; 0 if not known yet."""
        if self.recent:
            return sum(self.recent) / len(self.recent)
        return self.seconds / self.steps if self.steps else 0.0


class StopSignal:
    """Takes SIGINT and SIGTERM as a request to stop after the running update; a second SIGINT stops at once.

    Attributes:
        received: the signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self._before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
        logger.warning("%s: the running step is finished and saved; Ctrl+C aborts", self.received.name)


@dataclass
class Training:
    """All that `fit` needs.

    Args:
        prepare: see `Prepare`.
        total_steps: updates of the whole run, those before a restart included.
        save_steps: updates between checkpoints; 0 saves at the end only.
        part_names: names of the loss cell's aux values, for the log.
        hooks: further things to do, such as sampling.
    """

    step: TrainStep
    loader: Loader
    prepare: Prepare
    schedule: Schedule
    total_steps: int
    checkpoints: TrainingCheckpoints
    state: TrainState
    trackers: Trackers = field(default_factory=Trackers)
    save_steps: int = 0
    part_names: Sequence[str] = ()
    hooks: Sequence[Every] = ()


def fit(training: Training) -> signal.Signals | None:
    """Trains from ``training.state`` to the end, or until a signal; the last state is saved in both cases.

    Returns:
        The signal that ended the run, or None if it is complete.
    """
    state, clock = training.state, Clock(training.state.clock_seconds, training.state.clock_steps)
    training.loader.state = dict(state.loader)
    batches, saved_at = iter(training.loader), state.step
    with StopSignal() as stop, contextlib.closing(training.loader), contextlib.closing(training.trackers):
        clock.start()
        while state.step < training.total_steps:
            epoch = training.loader.state["epoch"]
            lr = training.schedule(state.step)
            result = training.step(list(_micro_batches(training, batches)), lr, state.step)
            seconds = clock.tick()
            state.step += 1
            _remember(training, clock)
            training.trackers.log(_record(training, result, epoch, lr, seconds, clock))
            stopping = any_rank(stop.received is not None)
            if stopping or state.step == training.total_steps or _due(state.step, training.save_steps):
                training.checkpoints.save(state)
                saved_at = state.step
            if stopping:
                break
            for hook in training.hooks:
                hook(state.step)
            clock.start()
        if state.step > saved_at:
            training.checkpoints.save(state)
        return _ended(stop, state, training.total_steps)


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _micro_batches(training: Training, batches: Iterator[Batch]) -> Iterator[Sequence[Any]]:
    """The loss cell's inputs of one update. Positions run over micro batches, then ranks, then samples."""
    current, size = runtime.current(), training.loader.batch_size
    for number in range(training.step.accumulation_steps):
        batch = next(batches)
        start = (number * current.world_size + current.rank) * size
        count = len(next(iter(batch.values())))
        place = Place(training.state.seed, training.state.step, range(start, start + count))
        yield training.prepare(batch, place)


def _remember(training: Training, clock: Clock) -> None:
    """Brings the state up to date with loader, loss scale and clock."""
    state, step = training.state, training.step
    state.loader = dict(training.loader.state)
    state.loss_scale, state.finite_in_a_row = step.loss_scale.value, step.loss_scale.good
    state.skipped = step.skipped
    state.clock_seconds, state.clock_steps = clock.seconds, clock.steps


def _record(training: Training, result: StepResult, epoch: int, lr: float, seconds: float, clock: Clock) -> Record:
    step = training.state.step
    samples = training.loader.batch_size * training.step.accumulation_steps * runtime.current().world_size
    if not bool(result.finite.asnumpy()):
        logger.warning("step %d: loss or gradients are not finite; the update is left out", step)
    return Record(
        step=step,
        epoch=epoch + 1,
        loss=result.loss.asnumpy()[()],
        grad_norm=result.grad_norm.asnumpy()[()],
        lr=lr,
        seconds=seconds,
        samples_per_second=samples / clock.per_step() if clock.per_step() else 0.0,
        eta=clock.per_step() * (training.total_steps - step),
        parts={name: float(value.asnumpy()) for name, value in zip(training.part_names, result.aux)},
    )


def _ended(stop: StopSignal, state: TrainState, total_steps: int) -> signal.Signals | None:
    if state.step >= total_steps:
        return None
    logger.warning("stopped after step %d of %d, which is saved; go on with --resume True", state.step, total_steps)
    return stop.received or signal.SIGTERM
