"""A bar of denoising steps whose remaining time leaves out the first steps, in which graphs are compiled."""

from __future__ import annotations

import time
from collections.abc import Callable

from tqdm import tqdm

from mindone.parallel.heartbeat import beat
from mindone.progress import progress_bar


class Steps:
    """Use it as a context manager; `begin` before each batch, `tick` after each of its steps.

    Args:
        total: steps of all batches.
        shown: False is silent.
        clock: seconds.
    """

    def __init__(self, total: int, shown: bool = True, clock: Callable[[], float] = time.perf_counter):
        self.total, self.done, self.clock = total, 0, clock
        self._steady, self._count, self._first = 0.0, 0, True
        self._last = clock()
        layout = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        self._bar = progress_bar("denoise", total=total, shown=shown, layout=layout)

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def begin(self) -> None:
        """The next step is the first of a batch."""
        self._first, self._last = True, self.clock()
        beat(self._next())

    def tick(self) -> None:
        now = self.clock()
        if not self._first:
            self._steady += now - self._last
            self._count += 1
        self._first, self._last = False, now
        self.done += 1
        beat(self._next())
        self._bar.set_postfix_str(f"{self.said()}", refresh=False)
        self._bar.update(1)

    def _next(self) -> str:
        return f"denoising step {min(self.done + 1, self.total)} of {self.total}"

    @property
    def seconds_left(self) -> float | None:
        """From the mean of the steps that compiled nothing; None while there was none."""
        return (self.total - self.done) * self._steady / self._count if self._count else None

    def said(self) -> str:
        left = self.seconds_left
        return "first step: compiling" if left is None else f"{tqdm.format_interval(left)} left"
