"""``opensora evaluate compare``: the same prompts and seeds by several checkpoints, on one page with intervals.

Videos of the same name belong together. Differences are paired; their 95 % intervals are percentiles of means over
videos drawn with replacement (bootstrap).
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindone import runtime
from mindone.checkpoint.atomic import atomic_write
from mindone.data.video import read_video
from mindone.errors import UserError
from mindone.progress import progress_bar
from opensora.config.evaluate import CompareConfig
from opensora.evaluation.temporal import colour_consistency, flickering, motion_strength, videos_of

MEASURES = {"flicker": flickering, "motion": motion_strength, "consistency": colour_consistency}
# Of the bootstrap, in parts for the sake of memory.
DRAWS, PARTS = 10_000, 10
TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif", ".mkv": "video/mp4", ".mov": "video/mp4"}
STYLE = "body{font:14px sans-serif;margin:2em}td,th{padding:4px 10px;text-align:left}video,img{width:240px}"


class Difference(NamedTuple):
    """A measure's mean for a folder, and how much it is above the first folder's, with its 95 % interval."""

    mean: float
    above: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """The interval does not hold 0."""
        return not self.low <= 0 <= self.high


def compare(config: CompareConfig) -> dict[str, list[Difference]]:
    """Writes the page; prints and returns each measure's differences, a folder each.

    Raises:
        UserError: fewer than two folders, or no video that all of them have.
    """
    if len(config.folders) < 2:
        raise UserError("compare needs two folders or more as --folders A B ...")
    found = [videos_of(folder) for folder in config.folders]
    names = [name for name in found[0] if all(name in videos for videos in found)]
    if not names:
        raise UserError(f"no video has the same name in {' and '.join(map(str, config.folders))}")
    left = sum(len(videos) - len(names) for videos in found)
    scores = _scores(found, names)
    table = {
        measure: [paired_difference(values[0], other, config.seed) for other in values]
        for measure, values in scores.items()
    }
    page = _page(config.folders, found, names, table, left)
    with atomic_write(config.output) as file:
        file.write(page.encode())
    for line in _lines(config.folders, table):
        print(line)
    print(
        f"{config.output}: {len(names)} videos of {len(found)} folders" + (f", {left} without partners" if left else "")
    )
    return table


def _scores(found: Sequence[Mapping[str, Path]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Of each measure the scores (folders, videos)."""
    values = np.zeros((len(MEASURES), len(found), len(names)))
    for place, name in enumerate(progress_bar("compare", names)):
        for folder, videos in enumerate(found):
            frames = read_video(videos[name])
            values[:, folder, place] = [measure(frames) for measure in MEASURES.values()]
    return dict(zip(MEASURES, values))


def paired_difference(first: np.ndarray, other: np.ndarray, seed: int = 0) -> Difference:
    """How much ``other`` is above ``first``, both (N,) in the same order; the interval is that of the mean.

    Of a single video there is no interval: it is infinite.
    """
    differences = np.asarray(other, np.float64) - np.asarray(first, np.float64)
    low, high = -np.inf, np.inf
    if len(differences) > 1:
        rng = runtime.stream(seed, "compare")
        count = len(differences)
        means = [differences[rng.integers(0, count, (DRAWS // PARTS, count))].mean(1) for _ in range(PARTS)]
        low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Difference(float(np.mean(other)), float(differences.mean()), float(low), float(high))


def _lines(folders: Sequence[str | Path], table: Mapping[str, Sequence[Difference]]) -> list[str]:
    return [
        f"{measure}: {folder}: {_said(each, place)}"
        for measure, row in table.items()
        for place, (folder, each) in enumerate(zip(folders, row))
    ]


def _said(each: Difference, place: int) -> str:
    if place == 0:
        return f"{each.mean:.4f}"
    verdict = "" if each.decided else ", undecided"
    return f"{each.mean:.4f} ({each.above:+.4f}, 95 % from {each.low:+.4f} to {each.high:+.4f}{verdict})"


def _page(
    folders: Sequence[str | Path],
    found: Sequence[Mapping[str, Path]],
    names: Sequence[str],
    table: Mapping[str, Sequence[Difference]],
    left: int,
) -> str:
    head = "<tr><th></th>" + "".join(f"<th>{html.escape(str(folder))}</th>" for folder in folders) + "</tr>"
    rows = [
        f"<tr><th>{measure}</th>"
        + "".join(f"<td>{_said(each, place)}</td>" for place, each in enumerate(row))
        + "</tr>"
        for measure, row in table.items()
    ]
    shown = [
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{_element(videos[name])}</td>" for videos in found)
        + "</tr>"
        for name in names
    ]
    note = f"{len(names)} videos that all folders have; {left} without partners are left out. Differences are from the "
    note += "first folder, over the same videos."
    body = f"<p>{note}</p><table>{head}{''.join(rows)}</table><table>{head}{''.join(shown)}</table>"
    start = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Comparison</title>'
    return f"{start}<style>{STYLE}</style><h1>Comparison</h1>{body}</html>\n"


def _element(path: Path) -> str:
    kind = TYPES[path.suffix.lower()]
    data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return f'<img src="{data}">' if kind.startswith("image") else f'<video src="{data}" controls loop muted></video>'
