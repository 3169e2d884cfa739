"""The numbers of training runs as a picture: loss, gradient norm, learning rate, and time per update by size."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindone.checkpoint.atomic import atomic_write
from mindone.errors import UserError
from mindone.train.tracker import RESULT_LOG, VALIDATION_LOG

# Runs of more sizes show the ones with the most updates.
MOST_SIZES = 12


@dataclass(frozen=True)
class Curves:
    """The logs of one run. Arrays have an entry per update."""

    name: str
    step: np.ndarray
    loss: np.ndarray
    lr: np.ndarray
    grad_norm: np.ndarray
    seconds: np.ndarray
    size: list[str] = field(default_factory=list)
    """of each batch; empty in logs that do not tell"""
    validation: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """by size: steps, losses"""


def read_curves(folder: str | Path) -> Curves:
    """The logs in a run's folder.

    Raises:
        UserError: there is no log, or no update in it.
    """
    path = Path(folder) / RESULT_LOG
    if not path.is_file():
        raise UserError(f"{folder} has no {RESULT_LOG}; give the folder of a training run")
    rows = log_rows(path)
    if not rows:
        raise UserError(f"{path} has no updates yet")
    try:
        columns = {name: np.array([float(row[name]) for row in rows]) for name in ("step", "loss", "lr", "grad_norm")}
        seconds = np.array([float(row["train_time(s)"]) for row in rows])
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not the log of a training run: {error}") from error
    sizes = [row["size"] for row in rows] if "size" in rows[0] else []
    return Curves(Path(folder).name, **columns, seconds=seconds, size=sizes, validation=_validation(Path(folder)))


def log_rows(path: Path) -> list[dict[str, str]]:
    """The whole lines of a run's table by the names of its columns; none without a file.

    The last line may be being written.
    """
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines(), delimiter="\t"))


def _validation(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for row in log_rows(folder / VALIDATION_LOG):
        found.setdefault(row["size"], []).append((int(row["step"]), float(row["loss"])))
    return {size: tuple(np.array(column) for column in zip(*points)) for size, points in found.items()}


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last ``window`` values at each place, of as many as there are at first; others than finite
    numbers count for nothing."""
    finite = np.isfinite(values)
    sums = np.cumsum(np.where(finite, values, 0))
    counts = np.cumsum(finite)
    before = np.maximum(np.arange(len(values)) - window, -1)
    earlier = [np.where(before >= 0, total[before], 0) for total in (sums, counts)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums - earlier[0]) / (counts - earlier[1])


def draw_curves(runs: Sequence[Curves], path: str | Path) -> Path:
    """Writes the picture, a PNG, and returns its path; several runs share its axes.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError('pictures of curves need matplotlib; pip install "mindone[plot]"') from error
    figure = Figure(figsize=(12, 8), layout="constrained")
    (loss, norm), (rate, time) = figure.subplots(2, 2)
    for number, run in enumerate(runs):
        _draw_run(run, f"C{number}", loss, norm, rate)
    for axes, title in ((loss, "loss"), (norm, "gradient norm"), (rate, "learning rate")):
        axes.set(title=title, xlabel="update")
    norm.set_yscale("log")
    loss.legend()
    _draw_times(runs, time)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=100)
    return Path(path)


def _draw_run(run: Curves, colour: str, loss: Any, norm: Any, rate: Any) -> None:
    window = max(1, len(run.step) // 50)
    for axes, values in ((loss, run.loss), (norm, run.grad_norm)):
        axes.plot(run.step, values, color=colour, alpha=0.25, linewidth=0.5)
    loss.plot(run.step, smoothed(run.loss, window), color=colour, label=run.name)
    norm.plot(run.step, smoothed(run.grad_norm, window), color=colour)
    rate.plot(run.step, run.lr, color=colour)
    for (size, (steps, losses)), marker in zip(run.validation.items(), "os^vDPX*" * 9):
        loss.plot(steps, losses, marker, color=colour, markersize=4, label=f"{run.name}, validation {size}")


def _draw_times(runs: Sequence[Curves], axes: Any) -> None:
    """The spread of the seconds per update for every size; the first update of each, which compiles, is left out."""
    groups: dict[str, list[float]] = {}
    for run in runs:
        seen: set[str] = set()
        for size, seconds in zip(run.size or ["all"] * len(run.step), run.seconds):
            if size in seen:
                groups.setdefault(size if len(runs) == 1 else f"{run.name} {size}", []).append(seconds)
            seen.add(size)
    kept = sorted(sorted(groups, key=lambda name: -len(groups[name]))[:MOST_SIZES])
    if kept:
        axes.boxplot([groups[name] for name in kept], vert=False, showfliers=False)
        axes.set_yticks(range(1, len(kept) + 1), kept)
    axes.set(title="time per update by size", xlabel="seconds", xlim=(0, None))
