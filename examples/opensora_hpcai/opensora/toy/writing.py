"""Text drawn over moving backgrounds, and the backgrounds alone: what the search for text in pictures is held against.

Fonts are those that come with packages: OpenCV's strokes, Pillow's own, and those of matplotlib if it is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 288, 512
PAN = 24
"""Pixels that a background moves between the two frames of a clip, and a text that moves."""
SIZES = (0.05, 0.08, 0.12, 0.2)
"""Heights of a text's capitals, as shares of the picture's."""
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "yellow": (255, 220, 30), "red": (210, 20, 30)}
TEXTS = ("BREAKING", "Channel 7", "www.toy.org", "Subscribe", "Episode 12", "LIVE 20:45")
PLACES = ("edge", "middle", "moving")
"""Where a text stands: at the lower edge, in the middle, or in the middle and moving."""

Glyphs = Callable[[str, int], np.ndarray]
"""The coverage, (h, w) float32 in 0..1, of a text whose capitals are so many pixels high."""


class Written(NamedTuple):
    """Two frames (2, HEIGHT, WIDTH, 3) uint8 RGB, and where the text of each is: left, top, right, bottom in pixels."""

    frames: np.ndarray
    boxes: list[tuple[int, int, int, int]]


# --- fonts -----------------------------------------------------------------------------------------------------------


def _strokes(face: int, text: str, size: int) -> np.ndarray:
    thick = max(1, round(size / 9))
    scale = cv2.getFontScaleFromHeight(face, size, thick)
    (width, height), below = cv2.getTextSize(text, face, scale, thick)
    mask = np.zeros((height + below + 2 * thick, width + 2 * thick), np.uint8)
    cv2.putText(mask, text, (thick, height + thick), face, scale, 255, thick, cv2.LINE_AA)
    return mask.astype(np.float32) / 255


def _outlines(path: Path | None, text: str, size: int) -> np.ndarray:
    # capitals are about 0.72 of a font's size
    points = round(size / 0.72)
    font = ImageFont.truetype(str(path), points) if path else ImageFont.load_default(points)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(picture).text((2 - left, 2 - top), text, 255, font)
    return np.asarray(picture, np.float32) / 255


def fonts() -> dict[str, Glyphs]:
    """Every font by its name; those of matplotlib are left out where it is not installed."""
    strokes = {"simplex": 0, "duplex": 2, "complex": 3, "triplex": 4, "script": 6, "italic": 16 + 4}
    found: dict[str, Glyphs] = {f"Hershey {name}": partial(_strokes, face) for name, face in strokes.items()}
    found["Pillow's own"] = partial(_outlines, None)
    package = importlib.util.find_spec("matplotlib")
    if package and package.origin:
        folder = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf"
        names = (
            "DejaVuSans",
            "DejaVuSans-Bold",
            "DejaVuSerif",
            "DejaVuSansMono-Oblique",
            "STIXGeneralItalic",
            "cmtt10",
        )
        found |= {name: partial(_outlines, path) for name in names if (path := folder / f"{name}.ttf").is_file()}
    return found


# --- backgrounds -----------------------------------------------------------------------------------------------------


def _colour(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(30, 226, 3).astype(np.float32)


def _blank(rng: np.random.Generator) -> np.ndarray:
    return np.tile(_colour(rng), (HEIGHT, WIDTH + PAN, 1))


def plain(rng: np.random.Generator) -> np.ndarray:
    """One colour that runs into another."""
    share = np.linspace(0, 1, WIDTH + PAN, dtype=np.float32)[None, :, None]
    return np.repeat(_colour(rng) * (1 - share) + _colour(rng) * share, HEIGHT, axis=0)


def noise(rng: np.random.Generator) -> np.ndarray:
    """Clouds of colour, large or small."""
    side = int(rng.integers(4, 24))
    small = rng.uniform(20, 235, (HEIGHT // side, (WIDTH + PAN) // side, 3)).astype(np.float32)
    return cv2.resize(small, (WIDTH + PAN, HEIGHT), interpolation=cv2.INTER_CUBIC)


def stripes(rng: np.random.Generator) -> np.ndarray:
    """Slanted stripes."""
    y, x = np.mgrid[:HEIGHT, : WIDTH + PAN]
    on = ((x + y * rng.uniform(-1, 1)) // int(rng.integers(4, 30))).astype(int) % 2
    return np.where(on[..., None] == 1, _colour(rng), _colour(rng))


def bricks(rng: np.random.Generator) -> np.ndarray:
    """A wall, with lines of mortar."""
    picture, high, wide = _blank(rng), int(rng.integers(10, 30)), int(rng.integers(24, 70))
    for row, top in enumerate(range(0, HEIGHT, high)):
        for left in range(-(row % 2) * wide // 2, WIDTH + PAN, wide):
            shade = (rng.uniform(0.6, 1.0) * np.array([170, 80, 60])).tolist()
            cv2.rectangle(picture, (left, top), (left + wide - 3, top + high - 3), shade, -1)
    return picture


def windows(rng: np.random.Generator) -> np.ndarray:
    """Houses with rows of windows, some of them lit."""
    picture, left = _blank(rng), 0
    while left < WIDTH + PAN:
        wide, top, step = int(rng.integers(50, 140)), int(rng.integers(20, 160)), int(rng.integers(12, 26))
        cv2.rectangle(picture, (left, top), (left + wide, HEIGHT), (_colour(rng) / 3).tolist(), -1)
        for y in range(top + 6, HEIGHT, step):
            for x in range(left + 6, left + wide - step // 2, step):
                light = (240, 220, 140) if rng.random() < 0.4 else (60, 70, 80)
                cv2.rectangle(picture, (x, y), (x + step // 2, y + step // 2), light, -1)
        left += wide
    return picture


def leaves(rng: np.random.Generator) -> np.ndarray:
    """Many ellipses of one hue."""
    picture, hue = _blank(rng), _colour(rng)
    for x, y, angle, light in zip(*(rng.uniform(0, 1, (4, 500)))):
        centre, axes = (int(x * (WIDTH + PAN)), int(y * HEIGHT)), (int(rng.integers(4, 26)), int(rng.integers(2, 9)))
        cv2.ellipse(picture, centre, axes, angle * 180, 0, 360, (hue * (0.4 + 0.7 * light)).tolist(), -1, cv2.LINE_AA)
    return picture


def branches(rng: np.random.Generator) -> np.ndarray:
    """Thin lines, straight and bent, before a sky."""
    picture = plain(rng)
    for _ in range(60):
        steps = rng.normal(0, 30, (int(rng.integers(2, 7)), 2)).cumsum(0)
        points = (rng.uniform(0, 1, 2) * (WIDTH + PAN, HEIGHT) + steps).astype(np.int32)
        cv2.polylines(picture, [points], False, (_colour(rng) / 3).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return picture


def shapes(rng: np.random.Generator) -> np.ndarray:
    """Circles, squares and crosses, of which some look like signs."""
    picture = _blank(rng)
    for _ in range(12):
        x, y, size = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)), int(rng.integers(8, 40))
        colour, kind, thick = _colour(rng).tolist(), int(rng.integers(3)), int(rng.choice([-1, 3]))
        if kind == 0:
            cv2.circle(picture, (x, y), size, colour, thick, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(picture, (x - size, y - size), (x + size, y + size), colour, thick)
        else:
            cv2.drawMarker(picture, (x, y), colour, cv2.MARKER_TILTED_CROSS, 2 * size, 4)
    return picture


BACKGROUNDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    each.__name__: each for each in (plain, noise, stripes, bricks, windows, leaves, branches, shapes)
}
"""Pictures (HEIGHT, WIDTH + PAN, 3) float32 in 0..255, by name."""


def background(name: str, rng: np.random.Generator) -> np.ndarray:
    """Two frames (2, HEIGHT, WIDTH, 3) uint8 of a picture that the camera pans over, with a film's grain."""
    picture = BACKGROUNDS[name](rng)
    frames = np.stack([picture[:, :WIDTH], picture[:, PAN:]]) + rng.normal(0, 3, (2, HEIGHT, WIDTH, 3))
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def written(frames: np.ndarray, glyphs: np.ndarray, colour: str, has_edge: bool, place: str) -> Written:
    """Draws a text over two frames (2, HEIGHT, WIDTH, 3) uint8.

    Args:
        glyphs: see `Glyphs`; what is wider than the frame is cut off.
        colour: of `COLOURS`.
        has_edge: a dark line around light letters, and a light one around dark ones.
        place: of `PLACES`.
    """
    line = max(1, round(glyphs.shape[0] / 16)) if has_edge else 0
    glyphs = np.pad(glyphs, line)[:, : WIDTH - 2 * PAN]
    around = cv2.dilate(glyphs, np.ones((2 * line + 1, 2 * line + 1), np.uint8)) if has_edge else glyphs * 0
    ink = np.array(COLOURS[colour], np.float32)
    edge = np.zeros(3, np.float32) if ink.max() > 127 else np.full(3, 255, np.float32)
    (high, wide), found, boxes = glyphs.shape, frames.copy(), []
    for number, frame in enumerate(found):
        left = (WIDTH - wide) // 2 + (PAN * (2 * number - 1) // 2 if place == "moving" else 0)
        top = HEIGHT - high - HEIGHT // 20 if place == "edge" else (HEIGHT - high) // 2
        top -= (high // 2 if place == "moving" else 0) * number
        part = frame[top : top + high, left : left + wide].astype(np.float32)
        part = part * (1 - around[..., None]) + edge * around[..., None]
        part = part * (1 - glyphs[..., None]) + ink * glyphs[..., None]
        frame[top : top + high, left : left + wide] = np.rint(part)
        boxes.append((left, top, left + wide, top + high))
    return Written(found, boxes)
