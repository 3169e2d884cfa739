"""How fast this library is on a CPU: ratios to PyTorch, or to the plain operation, on identical shapes.

The two sides of a case take turns in one process, so that a busy machine slows both alike. The ratio of their medians
is reported, and beside it that of their fastest calls, which other work on the machine disturbs least. Before anything
is timed the two sides have to agree on the result.

python benchmarks/bench.py [--cases stdit3_train_384 ...] [--json out.json]
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mindone import runtime
from mindone.config import FilePath, parse, require_at_least
from mindone.errors import UserError, guarded


@dataclass(frozen=True)
class Case:
    """One comparison: ``ours`` and ``theirs`` do the same work and return when it is done."""

    what: str
    versus: str
    ours: Callable[[], object]
    theirs: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of both sides, their ratio, the same of the fastest calls, and how many turns there were."""

    what: str
    versus: str
    ours_ms: float
    theirs_ms: float
    ratio: float
    ours_fastest_ms: float
    theirs_fastest_ms: float
    fastest_ratio: float
    turns: int


@dataclass
class BenchConfig:
    """Settings of the benchmarks."""

    cases: list[str] | None = None
    """cases to run; all if not given"""
    seconds: float = 20.0
    """time per case after warming up"""
    min_turns: int = 3
    """least number of turns, however long they take"""
    max_turns: int = 50
    """largest number of turns"""
    json: FilePath | None = None
    """file for the results"""

    def check(self) -> None:
        runtime.quiet_mindspore()
        from cases import CASES

        require_at_least(self, seconds=0, min_turns=1, max_turns=1)
        for name in self.cases or ():
            if name not in CASES:
                raise UserError(f"there is no case {name}; use {', '.join(CASES)}")


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(case: Case, seconds: float, min_turns: int, max_turns: int, clock: str = "wall") -> Timing:
    """Warms both sides up, then lets them take turns until the time is over.

    A side is called twice in its turn: OpenMP's threads spin for some milliseconds after their work, so the first call
    pays for the other side. The second one counts.
    """
    for side in (case.ours, case.theirs):
        side()
    times: tuple[list[float], list[float]] = ([], [])
    started = time.perf_counter()
    while len(times[0]) < min_turns or (time.perf_counter() - started < seconds and len(times[0]) < max_turns):
        for taken, side in zip(times, (case.ours, case.theirs)):
            side()
            before = CLOCKS[clock]()
            side()
            taken.append((CLOCKS[clock]() - before) * 1e3)
    ours, theirs = map(statistics.median, times)
    best, their_best = map(min, times)
    turns = len(times[0])
    return Timing(case.what, case.versus, ours, theirs, ours / theirs, best, their_best, best / their_best, turns)


@dataclass
class RatioConfig:
    """Settings of benchmarks that compare a thing with the work inside it."""

    seconds: float = 20.0
    """time per case after warming up"""
    min_turns: int = 3
    """least number of turns, however long they take"""
    clock: Literal["wall", "cpu"] = "wall"
    """cpu: time that processors worked for this process, which other work on the machine disturbs less"""
    json: FilePath | None = None
    """file for the results"""

    def check(self) -> None:
        require_at_least(self, seconds=0, min_turns=1)


def compare(cases: Iterable[tuple[str, Case]], config: RatioConfig, columns: str, limit: float) -> int:
    """Prints the table of all cases, writes the file, and returns 1 if a ratio is above the limit, else 0.

    Args:
        columns: the first four names of the table's header, such as ``loop | shapes | loop, ms | calls, ms``.
    """
    print(f"| {columns} | ratio | of the fastest |\n|---|---|---|---|---|---|", flush=True)
    timings = {}
    for name, case in cases:
        timings[name] = measure(case, config.seconds, config.min_turns, 50, config.clock)
        print(row(name, timings[name]), flush=True)
    if config.json:
        results = {name: vars(timing) for name, timing in timings.items()}
        Path(config.json).write_text(json.dumps(results, indent=2) + "\n")
    return int(max(timing.ratio for timing in timings.values()) > limit)


def machine(threads: int) -> dict[str, str | int]:
    """What the numbers were measured on."""
    import mindspore
    import torch

    return {
        "processor": _processor(),
        "threads": threads,
        "python": platform.python_version(),
        "mindspore": mindspore.__version__,
        "torch": torch.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def row(name: str, timing: Timing) -> str:
    """One line of the table, in Markdown."""
    return (
        f"| `{name}` | {timing.what} | {timing.ours_ms:.1f} | {timing.theirs_ms:.1f} ({timing.versus}) "
        f"| **{timing.ratio:.2f}** | {timing.fastest_ratio:.2f} |"
    )


@guarded
def main(argv: Sequence[str] | None = None) -> None:
    config = parse(BenchConfig, argv, prog="bench.py", description=__doc__.splitlines()[0])
    from cases import CASES
    from pairs import prepare

    threads = len(os.sched_getaffinity(0))
    prepare(threads)
    print("| case | shapes | ours, ms | theirs, ms | ratio | of the fastest |\n|---|---|---|---|---|---|", flush=True)
    timings = {}
    for name in config.cases or CASES:
        with CASES[name]() as case:
            timings[name] = measure(case, config.seconds, config.min_turns, config.max_turns)
        del case
        gc.collect()
        print(row(name, timings[name]), flush=True)
    if config.json:
        results = {name: vars(timing) for name, timing in timings.items()}
        Path(config.json).write_text(json.dumps({"machine": machine(threads), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
