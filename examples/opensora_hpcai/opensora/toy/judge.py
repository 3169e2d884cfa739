"""The judge of the toy world: what a clip shows, measured from its pixels alone.

Colour comes from the hue of the foreground, shape from its outline, direction from the path of its centroid. Nothing
here knows the generator's scenes or the model, so a score means what it says for any clip.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mindone.errors import UserError
from opensora.toy.world import ALL_COLOURS, DIRECTIONS, SHAPES

MIN_CONTRAST = 40.0
"""Smallest RGB distance (of 0..255 steps) between foreground and background that counts as a shape."""
MIN_AREA = 0.01
"""Smallest share of the frame that counts as a shape."""
MIN_SATURATION = 0.25
"""Below this the foreground has no colour."""
MIN_OVERLAP = 0.70
"""Smallest intersection over union of an outline with the shape it is called."""
MIN_MOVE = 0.10
"""Shortest way, as a share of the frame, that counts as a move; up to half of it counts as standing still."""
UPSCALE = 4


class Verdict(NamedTuple):
    """What a clip shows; None where it shows none of the known colours, shapes or directions."""

    colour: str | None
    shape: str | None
    direction: str | None


def judge(frames: np.ndarray) -> Verdict:
    """Judges a clip of frames (T, H, W, 3) uint8 RGB.

    Raises:
        UserError: not an array of at least 2 RGB frames.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise UserError(f"a clip of shape {frames.shape} cannot be judged; it takes (T, H, W, 3) with T of 2 or more")
    sights = [sight for sight in map(_look, frames) if sight is not None]
    if len(sights) < 0.8 * len(frames):
        return Verdict(None, None, None)
    colour = _colour(np.median([sight.colour for sight in sights], axis=0))
    shape = _shape([sight.outline for sight in sights])
    direction = _direction(np.array([sight.centroid for sight in sights]) / frames.shape[2:0:-1])
    return Verdict(colour, shape, direction)


class _Sight(NamedTuple):
    """What one frame shows: mean colour (3,), centroid (x, y), and outline (H, W) bool cropped to its bounding box."""

    colour: np.ndarray
    centroid: np.ndarray
    outline: np.ndarray


def _look(frame: np.ndarray) -> _Sight | None:
    """Finds the one thing that differs from the background; None if nothing does."""
    pixels = cv2.GaussianBlur(frame, (3, 3), 0).astype(np.float32)
    difference = pixels - _background(pixels)
    distance = np.sqrt((difference**2).sum(-1))
    strong = distance >= np.quantile(distance, 1 - MIN_AREA)
    peak = difference[strong].mean(0)
    contrast = float(np.sqrt((peak**2).sum()))
    if contrast < MIN_CONTRAST:
        return None
    alpha = np.clip(difference @ (peak / contrast**2), 0, 1)
    alpha = cv2.resize(alpha, None, fx=UPSCALE, fy=UPSCALE, interpolation=cv2.INTER_CUBIC)
    count, parts, stats, centroids = cv2.connectedComponentsWithStats((alpha > 0.5).astype(np.uint8))
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    left, top, width, height, area = stats[largest]
    if area < MIN_AREA * alpha.size or area < 0.75 * stats[1:, cv2.CC_STAT_AREA].sum():
        return None
    part = parts == largest
    core = cv2.resize((part & (alpha > 0.8)).astype(np.float32), frame.shape[1::-1], interpolation=cv2.INTER_AREA) > 0.9
    colour = pixels[core].mean(0) if core.any() else pixels[strong].mean(0)
    return _Sight(colour, centroids[largest] / UPSCALE, part[top : top + height, left : left + width])


def _background(pixels: np.ndarray) -> np.ndarray:
    """The colour (3,) that most of the frame's edge has."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.median(edge, axis=0)


def _colour(rgb: np.ndarray) -> str | None:
    """The name whose hue is nearest."""
    hue, saturation, _ = cv2.cvtColor((rgb / 255).astype(np.float32)[None, None], cv2.COLOR_RGB2HSV)[0, 0]
    if saturation < MIN_SATURATION:
        return None
    return min(ALL_COLOURS, key=lambda name: abs((hue - ALL_COLOURS[name] + 180) % 360 - 180))


def _shape(outlines: Sequence[np.ndarray]) -> str | None:
    """The shape whose ideal form fills the bounding boxes most alike, averaged over the frames."""
    overlaps = {shape: np.mean([_overlap(outline, shape) for outline in outlines]) for shape in SHAPES}
    best = max(overlaps, key=overlaps.get)
    return best if overlaps[best] >= MIN_OVERLAP else None


def _overlap(outline: np.ndarray, shape: str) -> float:
    """Intersection over union of an outline with a shape of the same bounding box."""
    height, width = outline.shape
    if max(height, width) > 1.5 * min(height, width):
        return 0.0
    ideal = _ideal(shape, height, width)
    return float((outline & ideal).sum() / (outline | ideal).sum())


def _ideal(shape: str, height: int, width: int) -> np.ndarray:
    """A shape that touches all four sides of a (height, width) box."""
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None] + 0.5) / width
    if shape == "circle":
        return (2 * x - 1) ** 2 + (2 * y - 1) ** 2 <= 1
    if shape == "square":
        return np.ones((height, width), bool)
    return abs(2 * x - 1) <= y


def _direction(path: np.ndarray) -> str | None:
    """The direction of centroids (T, 2) given as shares of the frame; None if slanted, unsteady or in between."""
    steps = np.linspace(-0.5, 0.5, len(path))
    way = steps @ path / (steps @ steps)
    rest = path - path.mean(0) - steps[:, None] * way
    length = np.hypot(*way)
    if abs(rest).max() > max(0.35 * length, MIN_MOVE / 2):
        return None
    if length < MIN_MOVE / 2:
        return "still"
    name = max(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name], way))
    along = np.dot(DIRECTIONS[name], way)
    return name if along >= MIN_MOVE and along >= 0.9 * length else None


# --- captions --------------------------------------------------------------------------------------------------------

_WORDS = {
    "colour": {name: name for name in ALL_COLOURS},
    "shape": {name: name for name in SHAPES},
    "direction": {
        "left": r"left(wards)?",
        "right": r"right(wards)?",
        "up": r"up(wards)?",
        "down": r"down(wards)?",
        "still": r"stand(s|ing)? still|does not move|motionless|still",
    },
}


def expected(caption: str) -> Verdict:
    """What a caption asks for; None for a label it does not name, or names in two ways."""
    return Verdict(*(_find(caption, words) for words in _WORDS.values()))


def _find(caption: str, words: dict[str, str]) -> str | None:
    found = [name for name, pattern in words.items() if re.search(rf"\b({pattern})\b", caption.lower())]
    return found[0] if len(found) == 1 else None


def wrong_labels(caption: str, seen: Verdict) -> list[str]:
    """The labels that a caption names and the clip does not show."""
    pairs = zip(Verdict._fields, expected(caption), seen)
    return [name for name, wanted, shown in pairs if wanted is not None and wanted != shown]


# --- scores ----------------------------------------------------------------------------------------------------------


class Score(NamedTuple):
    """Shares of clips that are right, per label and for all labels at once, and what was taken for what."""

    count: int
    colour: float
    shape: float
    direction: float
    all: float
    confusions: dict[str, int]

    def row(self) -> str:
        shares = "  ".join(f"{share:9.3f}" for share in (self.colour, self.shape, self.direction, self.all))
        return f"{self.count:5d}  {shares}"


HEADER = f"{'clips':>5}  {'colour':>9}  {'shape':>9}  {'direction':>9}  {'all three':>9}"


def score(pairs: Iterable[tuple[str, Verdict]]) -> Score:
    """Scores (caption, verdict) pairs; a label that a caption does not name counts as right.

    Raises:
        UserError: no pairs, or no caption that names a colour, a shape or a direction.
    """
    right, confusions, named = [], collections.Counter(), False
    for caption, verdict in pairs:
        wanted = expected(caption)
        named = named or any(wanted)
        right.append([want is None or want == seen for want, seen in zip(wanted, verdict)])
        confusions.update(
            f"{want} -> {seen or 'unclear'}" for want, seen in zip(wanted, verdict) if want is not None and want != seen
        )
    if not named:
        raise UserError("no caption names a colour, a shape or a direction of the toy world, so there is no score")
    table = np.array(right)
    return Score(len(table), *table.mean(0).tolist(), float(table.all(1).mean()), dict(confusions.most_common()))
