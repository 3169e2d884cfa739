"""Who does the work on rows: this process, threads, or processes that may crash without taking the others along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from mindone.data import workers as worker_processes

Row = dict[str, str]
Work = Callable[[list[Row]], list[list[Row]]]
Group = tuple[list[str], list[Row]]
# Groups under way per worker: one that is worked on, and what keeps it busy when that is done.
UNDER_WAY = 3


@dataclass(frozen=True)
class Crashed:
    """In place of results: the worker did not survive."""

    reason: str = "the process that worked on it was killed or crashed, most often for lack of memory"


Done = tuple[list[str], list[list[Row]] | Crashed]


class Inline:
    """Works in this process, one group after the other."""

    def __init__(self, work: Work, workers: int):
        self.work = work

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_) -> None:
        pass

    def run(self, groups: Iterator[Group]) -> Iterator[Done]:
        """Yields the keys and results of each group."""
        for keys, rows in groups:
            yield keys, self.work(rows)


class Threads:
    """Works in threads, for what waits for others; groups come as they are finished."""

    def __init__(self, work: Work, workers: int):
        self.work, self.workers = work, workers

    def __enter__(self) -> Threads:
        self._pool = self._start()
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> Executor:
        return ThreadPoolExecutor(self.workers)

    def _submit(self, rows: list[Row]) -> Future:
        return self._pool.submit(self.work, rows)

    def run(self, groups: Iterator[Group]) -> Iterator[Done]:
        """Yields the keys and results of each group."""
        pending: dict[Future, Group] = {}
        try:
            for group in groups:
                pending[self._submit(group[1])] = group
                if len(pending) >= UNDER_WAY * self.workers:
                    yield from self._collect(pending)
            while pending:
                yield from self._collect(pending)
        except Exception:
            # what is being worked on is not thrown away because of another row
            running = [(future, keys) for future, (keys, _) in pending.items() if not future.cancel()]
            for future, keys in running:
                if future.exception() is None:
                    yield keys, future.result()
            raise

    def _collect(self, pending: dict[Future, Group]) -> Iterator[Done]:
        finished, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            keys, _ = pending.pop(future)
            yield keys, future.result()


class Processes(Threads):
    """Works in processes. When one dies, the groups that were under way are done again, each row by itself."""

    def __exit__(self, *_) -> None:
        worker_processes.close(self._pool)

    def _start(self) -> Executor:
        with worker_processes.signals_held():
            return ProcessPoolExecutor(self.workers, worker_processes.CONTEXT, worker_processes.become_worker)

    def _submit(self, rows: list[Row]) -> Future:
        with worker_processes.signals_held():
            try:
                return self._pool.submit(self.work, rows)
            except BrokenProcessPool as error:
                failed: Future = Future()
                failed.set_exception(error)
                return failed

    def _collect(self, pending: dict[Future, Group]) -> Iterator[Done]:
        finished, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            if isinstance(future.exception(), BrokenProcessPool):
                break
            keys, _ = pending.pop(future)
            yield keys, future.result()
        else:
            return
        yield from self._singly(pending)

    def _singly(self, pending: dict[Future, Group]) -> Iterator[Done]:
        """Does again what was under way when a worker died, one row at a time, so that only the one to blame fails."""
        worker_processes.close(self._pool)
        self._pool = self._start()
        for future, (keys, rows) in list(pending.items()):
            del pending[future]
            if future.done() and future.exception() is None:
                yield keys, future.result()
                continue
            for key, row in zip(keys, rows):
                try:
                    yield [key], self._submit([row]).result()
                except BrokenProcessPool:
                    worker_processes.close(self._pool)
                    self._pool = self._start()
                    yield [key], Crashed()
