"""A film of twelve toy scenes: cuts and fades, burnt-in text in two, black bars in one, and one shown twice."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mindone.data.write import write_video
from opensora.toy.world import clip

SCENES = 12
TEXTS, BARS, FIRST_SHOWN, SHOWN_AGAIN = (3, 8), 5, 1, 10
FADES = (4, 9)
"""Scenes that begin and end in black where they meet the one before."""
FPS = 8


class MadeFilm(NamedTuple):
    """Where it is, and the first frame of each scene and the one after its last."""

    path: Path
    bounds: list[tuple[int, int]]


def make_film(path: Path, seconds: float = 30.0, size: int = 128) -> MadeFilm:
    """Draws and writes the film; the scenes differ in length by a few frames."""
    parts = [_scene(number, round(seconds * FPS / SCENES) + number % 3 - 1, size) for number in range(SCENES)]
    for number in FADES:
        _fade(parts[number - 1][-6:], np.linspace(0.8, 0, 6))
        _fade(parts[number][:6], np.linspace(0, 0.8, 6))
    write_video(path, np.concatenate(parts), FPS)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return MadeFilm(path, list(zip([0, *ends[:-1]], ends)))


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
