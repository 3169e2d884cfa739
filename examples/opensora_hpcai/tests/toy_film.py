"""A film of twelve toy scenes: cuts, fades and dissolves, burnt-in text in two, black bars in one, one shown twice."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mindone.data.write import write_video
from opensora.toy.world import Scene, clip

SCENES = 12
TEXTS, BARS, FIRST_SHOWN, SHOWN_AGAIN = (3, 8), 5, 1, 10
FADES = (4, 9)
"""Scenes that begin and end in black where they meet the one before."""
DISSOLVES = {2: 4, 7: 8}
"""Scenes that the one before is mixed into, and in how many frames."""
FPS = 8


class MadeFilm(NamedTuple):
    """Where it is, the first frame of each scene and the one after its last, and what the scenes show."""

    path: Path
    bounds: list[tuple[int, int]]
    shown: list[Scene]


def make_film(path: Path, seconds: float = 30.0, size: int = 128) -> MadeFilm:
    """Draws and writes the film; the scenes differ in length by a few frames."""
    lengths = [round(seconds * FPS / SCENES) + number % 3 - 1 for number in range(SCENES)]
    parts = [_scene(number, length, size) for number, length in enumerate(lengths)]
    for number in FADES:
        _fade(parts[number - 1][-6:], np.linspace(0.8, 0, 6))
        _fade(parts[number][:6], np.linspace(0, 0.8, 6))
    for number, mixed in DISSOLVES.items():
        _dissolve(parts[number - 1], parts[number], mixed)
    write_video(path, np.concatenate(parts), FPS)
    ends = np.cumsum(lengths).tolist()
    shown = [clip(11, FIRST_SHOWN if number == SHOWN_AGAIN else number).scene for number in range(SCENES)]
    return MadeFilm(path, list(zip([0, *ends[:-1]], ends)), shown)


def _scene(number: int, length: int, size: int) -> np.ndarray:
    if number == SHOWN_AGAIN:
        return _scene(FIRST_SHOWN, length, size)
    frames = clip(11, number, num_frames=length, image_size=size).frames.astype(np.float32)
    # each scene has its own light, as films have
    frames = np.clip(frames + np.array([(40, 0, 0), (0, 60, 0), (0, 0, 80), (60, 60, 20)][number % 4]), 0, 255)
    frames = frames.astype(np.uint8)
    if number in TEXTS:
        for frame in frames:
            cv2.putText(frame, "BREAKING", (6, size - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.75, (255, 255, 255), 2)
    if number == BARS:
        frames[:, : size // 8] = frames[:, -size // 8 :] = 0
    return frames


def _fade(frames: np.ndarray, light: np.ndarray) -> None:
    frames[:] = (frames * light[:, None, None, None]).astype(np.uint8)


def _dissolve(before: np.ndarray, after: np.ndarray, mixed: int) -> None:
    """Half of ``mixed`` frames lie in each scene; both stand still meanwhile where they have no more of their own."""
    shares = np.linspace(0, 1, mixed + 2)[1:-1, None, None, None]
    half = mixed // 2
    old = np.concatenate([before[-half:], np.repeat(before[-1:], half, 0)])
    new = np.concatenate([np.repeat(after[:1], half, 0), after[:half]])
    both = ((1 - shares) * old + shares * new).astype(np.uint8)
    before[-half:], after[:half] = both[:half], both[half:]
