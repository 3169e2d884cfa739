"""How far apart two runs of a small training are, and the tables that say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindone.checkpoint import read_tensors
from mindone.data.arrays import read_npy
from mindone.train.curves import log_rows
from mindone.train.tracker import RESULT_LOG
from opensora.config.prove import Spread
from opensora.generate.forecast import size

LIMIT, PIXEL_LIMIT = 1e-5, 1e-4
"""How far apart numbers of a training may be, relative to their size, and latents and pixels of what is generated."""


@dataclass(frozen=True)
class Compared:
    """A quantity of both runs."""

    name: str
    difference: float
    limit: float
    what: str
    """what the difference is, in words"""

    @property
    def holds(self) -> bool:
        return self.difference <= self.limit


@dataclass(frozen=True)
class Proved:
    """What was found of a plan."""

    spread: Spread
    compared: Sequence[Compared] = ()
    memory: Sequence[float] = ()
    """peak memory in bytes of every process of the training"""
    failure: str = ""
    """why there is nothing to compare"""

    @property
    def wrong(self) -> list[str]:
        """What does not hold, by name."""
        return ["a run failed"] if self.failure else [each.name for each in self.compared if not each.holds]


def compare_runs(one: Path, many: Path) -> Iterator[Compared]:
    """The differences of two trainings, by their folders."""
    numbers = [_numbers(run / RESULT_LOG) for run in (one, many)]
    for name in ("loss", "grad_norm"):
        a, b = (np.array(each[name]) for each in numbers)
        difference = float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else float("inf")
        yield Compared(name, difference, LIMIT, f"largest of {len(a)} updates, of the largest value")
    weights = [read_tensors(run / "model") for run in (one, many)]
    yield Compared("weights", _distance(*weights), LIMIT, "norm of the difference, of the weights' norm")


def _numbers(path: Path) -> dict[str, list[float]]:
    rows = log_rows(path)
    return {name: [float(row[name]) for row in rows] for name in ("loss", "grad_norm")}


def _distance(one: dict, many: dict) -> float:
    """The relative distance of two sets of weights; infinite if they are not the same arrays."""
    if one.keys() != many.keys():
        return float("inf")
    arrays = [(np.asarray(one[name], np.float64), np.asarray(many[name], np.float64)) for name in one]
    apart = sum(float(np.square(a - b).sum()) for a, b in arrays)
    return (apart / sum(float(np.square(a).sum()) for a, _ in arrays)) ** 0.5


def compare_videos(one: Path, many: Path) -> Iterator[Compared]:
    """The differences of latents and of pixels in two folders of generated videos.

    Pixels are whole levels in the files: a difference far below a level moves few of them by one. So their mean
    difference is that of the pixels before they are rounded.
    """
    from PIL import Image

    def differences(pattern: str, read: Callable[[Path], np.ndarray]) -> np.ndarray:
        found = [{path.relative_to(run): read(path) for path in run.rglob(pattern)} for run in (one, many)]
        if not found[0] or found[0].keys() != found[1].keys():
            return np.array([np.inf])
        return np.concatenate([np.abs(found[0][name] - found[1][name]).ravel() for name in found[0]])

    latents = differences("*.npy", read_npy)
    yield Compared("latents", float(latents.max()), PIXEL_LIMIT, "largest of all videos, absolute")
    levels = differences("*/[0-9]*.png", lambda path: np.asarray(Image.open(path), np.float64))
    yield Compared("pixels", float(levels.mean() / 127.5), PIXEL_LIMIT, "mean of all videos, of -1 to 1")
    yield Compared("levels", float(levels.max()), 1.0, "largest difference of a pixel, in levels of 255")


# --- tables ----------------------------------------------------------------------------------------------------------


def details(proved: Proved, memory: float) -> Iterator[str]:
    """Lines about one plan.

    Args:
        memory: of the one process, in bytes.
    """
    yield ""
    yield f"{proved.spread}: {proved.spread.processes} against one"
    if proved.failure:
        yield proved.failure
        return
    for each in proved.compared:
        verdict = "equal" if each.holds else "NOT EQUAL"
        yield f"{each.name:10} {each.difference:9.2e}  limit {each.limit:g}  {verdict:9}  {each.what}"
    yield f"peak memory of a training process: {', '.join(map(size, proved.memory))}; of the one: {size(memory)}"


def overview(found: Sequence[Proved]) -> Iterator[str]:
    """A row per plan, as Markdown."""
    columns = next((proved.compared for proved in found if proved.compared), ())
    yield ""
    yield f"| plan | processes | {' | '.join(each.name for each in columns)} | |"
    yield "|---" * (len(columns) + 3) + "|"
    for proved in found:
        numbers = [f"{each.difference:.1e}" for each in proved.compared] or ["-"] * len(columns)
        verdict = "NOT EQUAL" if proved.wrong else "equal"
        yield f"| {proved.spread} | {proved.spread.ranks} | {' | '.join(numbers)} | {verdict} |"
