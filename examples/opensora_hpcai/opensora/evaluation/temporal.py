"""Scores of videos over time that need no network: flicker, motion and consistency.

Frames are (T, H, W, 3) uint8 RGB. ``flicker`` is VBench's temporal flickering (Huang et al., arXiv:2311.17982);
``motion`` and ``consistency`` stand in for dimensions that VBench measures by networks, and are not equal to those.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mindone.checkpoint.atomic import atomic_write
from mindone.data.video import read_video
from mindone.errors import UserError
from mindone.progress import progress_bar
from opensora.config.evaluate import VideosConfig
from opensora.data_tools.measures import flow_strength, luma

SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".gif")
# Colours in each channel of the histograms that consistency compares.
BINS = 8


def flickering(frames: np.ndarray) -> float:
    """``(255 - MAE) / 255`` of successive frames; 1 is a still video.

    Raises:
        UserError: a single frame.
    """
    _require_video(frames)
    pairs = zip(frames, frames[1:])
    return float(np.mean([(255 - np.abs(a.astype(np.int16) - b).mean(dtype=np.float64)) / 255 for a, b in pairs]))


def motion_strength(frames: np.ndarray) -> float:
    """Mean length of the optical flow between successive frames, in pixels of a shorter side of 320.

    Raises:
        UserError: a single frame.
    """
    _require_video(frames)
    return flow_strength(luma(frames))


def colour_consistency(frames: np.ndarray) -> float:
    """How alike the colours of each frame are to those of the first and of the one before, 0 to 1.

    Means of both likenesses as VBench's consistencies have them, on histograms instead of a network's features.

    Raises:
        UserError: a single frame.
    """
    _require_video(frames)
    histograms = [_histogram(frame) for frame in frames]
    alike = [(float(h @ histograms[0]) + float(h @ before)) / 2 for before, h in zip(histograms, histograms[1:])]
    return float(np.mean(alike))


def _histogram(frame: np.ndarray) -> np.ndarray:
    codes = (frame.astype(np.int64) * BINS // 256) @ np.array([BINS * BINS, BINS, 1])
    counts = np.bincount(codes.reshape(-1), minlength=BINS**3).astype(np.float64)
    return counts / np.linalg.norm(counts)


def _require_video(frames: np.ndarray) -> None:
    if len(frames) < 2:
        raise UserError("a single frame has no motion; give videos of 2 frames or more")


def flicker(config: VideosConfig) -> dict[str, float]:
    """Prints and returns `flickering` of each video."""
    return score_folder(config, "flicker", flickering)


def motion(config: VideosConfig) -> dict[str, float]:
    """Prints and returns `motion_strength` of each video."""
    return score_folder(config, "motion", motion_strength)


def consistency(config: VideosConfig) -> dict[str, float]:
    """Prints and returns `colour_consistency` of each video."""
    return score_folder(config, "consistency", colour_consistency)


def videos_of(folder: str | Path) -> dict[str, Path]:
    """The videos of a folder by their names, in the order of those.

    Raises:
        UserError: there are none.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not a folder")
    found = {path.name: path for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in SUFFIXES}
    if not found:
        raise UserError(f"{folder} holds no videos ({', '.join(SUFFIXES)})")
    return found


def score_folder(config: VideosConfig, name: str, measure: Callable[[np.ndarray], float]) -> dict[str, float]:
    """A score for each video of a folder; those that cannot be read are listed with the reason.

    Raises:
        UserError: not a single one can be scored.
    """
    scores, problems = {}, {}
    for video, path in progress_bar(name, videos_of(config.videos).items()):
        try:
            scores[video] = measure(read_video(path))
        except UserError as error:
            problems[video] = str(error)
    report(name, scores, problems, config.output)
    return scores


def report(name: str, scores: dict[str, float], problems: dict[str, str], output: str | Path | None) -> None:
    """Prints the mean, and writes all scores if there is a file for them.

    Raises:
        UserError: there are no scores.
    """
    for video, problem in problems.items():
        print(f"{video}: left out: {problem}")
    if not scores:
        raise UserError(f"none of {len(problems)} videos has a score")
    mean = float(np.mean(list(scores.values())))
    print(f"{name}: {mean:.4f}, mean of {len(scores)} videos")
    if output is not None:
        with atomic_write(output) as file:
            values = {"score": name, "mean": mean, "videos": scores, "problems": problems}
            file.write(json.dumps(values, indent=2).encode())
