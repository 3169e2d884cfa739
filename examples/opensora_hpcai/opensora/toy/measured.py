"""What the measures of ``opensora evaluate`` are worth: held against the exact score of the toy world.

Clips are damaged by known degrees (`opensora.toy.damage`), and every measure that needs no training is taken of them.
A measure that sees a damage falls with its degree; one that does not see it stays, and one that is misled rises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mindone import runtime
from mindone.metrics.frechet import frechet_distance
from mindone.metrics.image import psnr, ssim
from mindone.progress import progress_bar
from opensora import outputs
from opensora.config.toy import MeasuredConfig
from opensora.evaluation.temporal import colour_consistency, flickering, motion_strength
from opensora.toy.damage import DAMAGES, Original, original
from opensora.toy.judge import expected, judge, wrong_labels

EXACT, FRECHET = "exact", "fvd"
SEEN = 0.5
"""Rank correlation from which on a measure sees a damage (or, below minus that, is misled by it)."""
GRID = 4
"""Cells of a side of the pictures that stand in for the features of a network."""

Measure = Callable[[np.ndarray, Original], float]


def exact(frames: np.ndarray, clip: Original) -> float:
    """The share of the caption's labels that the judge of the toy world sees in the clip."""
    wanted = sum(label is not None for label in expected(clip.caption))
    return 1 - len(wrong_labels(clip.caption, judge(frames))) / wanted


def _picture(measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Measure:
    def mean(frames: np.ndarray, clip: Original) -> float:
        pair = (each.transpose(0, 3, 1, 2) / np.float32(255) for each in (frames, clip.frames))
        return float(measure(*pair).mean())

    return mean


MEASURES: dict[str, Measure] = {
    EXACT: exact,
    "psnr": _picture(psnr),
    "ssim": _picture(ssim),
    "flicker": lambda frames, clip: flickering(frames),
    "motion": lambda frames, clip: motion_strength(frames),
    "consistency": lambda frames, clip: colour_consistency(frames),
}
"""The exact score, and the measures of single clips. Higher is better; psnr and ssim are against the whole clip."""


class Findings(NamedTuple):
    """How measures follow damages, and the exact score: rank correlations from -1 to 1.

    Attributes:
        seen: by damage and measure, how the measure falls with the degree, the mean over clips.
        exact: by measure, how it goes with the exact score over all damaged clips.
        right: by damage, the exact score at full degree.
    """

    seen: dict[str, dict[str, float]]
    exact: dict[str, float]
    right: dict[str, float]


def measure_measures(config: MeasuredConfig) -> Findings:
    """Prints, writes if there is a file for it, and returns how the measures follow the damages."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    degrees = np.linspace(0, 1, config.degrees)
    clips = [original(config.seed, index, config.num_frames, config.image_size) for index in range(config.clips)]
    real = [original(config.seed + 1, index, config.num_frames, config.image_size) for index in range(config.clips)]
    features = np.stack([features_of(clip.frames) for clip in real])
    values, distances = {}, {}
    whole = np.array([_measured(clip.frames, clip) for clip in progress_bar("whole clips", clips)])
    for name in progress_bar("damages", DAMAGES):
        made = [[_damaged(name, clip, degree, config.seed, at) for degree in degrees] for at, clip in enumerate(clips)]
        table = [[_measured(frames, clip) for frames in row[1:]] for row, clip in zip(made, clips)]
        each = np.concatenate([whole[:, None], table], axis=1)
        values[name] = {measure: each[..., place] for place, measure in enumerate(MEASURES)}
        each_degree = [np.stack([features_of(frames) for frames in column]) for column in zip(*made)]
        distances[name] = [frechet_distance(features, found)[0] for found in each_degree]
    found = findings(values, distances, degrees)
    print("\n".join(lines(found)))
    if config.json:
        outputs.write_json(config.json, found._asdict())
    return found


def _measured(frames: np.ndarray, clip: Original) -> list[float]:
    return [measure(frames, clip) for measure in MEASURES.values()]


def _damaged(name: str, clip: Original, degree: float, seed: int, index: int) -> np.ndarray:
    return DAMAGES[name](clip, float(degree), runtime.stream(seed, "damage", name, index))


def features_of(frames: np.ndarray) -> np.ndarray:
    """What stands in for a network's features: brightness of rows and columns of three frames, and colour, (27,)."""
    chosen = frames[[0, len(frames) // 2, -1]]
    small = np.stack([cv2.resize(frame, (GRID, GRID), interpolation=cv2.INTER_AREA) for frame in chosen]).mean(-1)
    return np.concatenate([small.mean(1).reshape(-1), small.mean(2).reshape(-1), chosen.mean((0, 1, 2))])


def findings(
    values: Mapping[str, Mapping[str, np.ndarray]], distances: Mapping[str, Sequence[float]], degrees: np.ndarray
) -> Findings:
    """Correlations of (clips, degrees) values by damage and measure, and of a distance for each degree."""
    seen = {
        damage: {
            measure: float(np.mean([rank_correlation(row, -degrees) for row in table]))
            for measure, table in measures.items()
        }
        | {FRECHET: rank_correlation(-np.array(distances[damage]), -degrees)}
        for damage, measures in values.items()
    }
    pooled = {
        measure: np.concatenate([table[measure].reshape(-1) for table in values.values()]) for measure in MEASURES
    }
    with_exact = {name: rank_correlation(each, pooled[EXACT]) for name, each in pooled.items()}
    means = np.concatenate([table[EXACT].mean(0) for table in values.values()])
    with_exact[FRECHET] = rank_correlation(-np.concatenate([distances[damage] for damage in values]), means)
    return Findings(seen, with_exact, {name: float(table[EXACT][:, -1].mean()) for name, table in values.items()})


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, with mean ranks for equal values; 0 where one of both is constant."""
    a, b = (_ranks(np.asarray(each, np.float64)) for each in (first, second))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks around their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places.reshape(-1)]
    return ranks - ranks.mean()


def lines(found: Findings) -> list[str]:
    """A table of Markdown, and what each measure misses and is misled by."""
    names = list(found.exact)
    table = [
        f"| damage | exact score at full degree | {' | '.join(names)} |",
        f"|---|---{'|---' * len(names)}|",
        *(
            f"| {damage} | {found.right[damage]:.2f} | {' | '.join(f'{seen[name]:.2f}' for name in names)} |"
            for damage, seen in found.seen.items()
        ),
        f"| with the exact score | | {' | '.join(f'{found.exact[name]:.2f}' for name in names)} |",
        "",
    ]
    for name in names:
        missed = [damage for damage, seen in found.seen.items() if abs(seen[name]) < SEEN]
        misled = [damage for damage, seen in found.seen.items() if seen[name] <= -SEEN]
        table.append(f"- {name} misses {_listed(missed)}; it rises with {_listed(misled)}")
    return table


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
