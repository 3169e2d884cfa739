"""Dissolves: where one scene is mixed into the next, frame by frame.

In a dissolve from A to B every frame is ``A + c (B - A)`` with a share c that rises from 0 to 1. So frames are
projected on the difference of two that stand around a place: in a dissolve the share rises steadily, little is left
beside the line, and before and after it the picture is as steady as films are. What moves is not on the line; what only
gets lighter or darker is, but its last picture is its first one in another light.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

# Pictures in which dissolves are looked for, (SIDE, SIDE, 3): few pixels, for a film has many frames.
SIDE = 24
# Half lengths in frames of what is looked at around a place, at most SECONDS long.
HALVES, SECONDS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32), 3.0
# Least root mean square, 0 to 255, between the scenes.
LEAST = 10.0
# Of the distance between the scenes: most that may be beside the line, and most that changes before and after.
BESIDE, AROUND = 0.4, 0.45
# A step of the share that is larger is a cut.
CUT = 0.6
# Least share of the new picture's variance that the old one in another light does not have. A picture with less
# contrast than PLAIN times that of the other is one that a fade begins or ends with.
NEW, PLAIN = 0.4, 0.2
TOLERANCE = 0.08
# Pictures that are compared at once, few enough for a processor's cache.
AT_ONCE = 256
# Part of the largest distance nearby from which a dissolve is seen as a whole.
WHOLE = 0.97


class Dissolve(NamedTuple):
    """First frame that is looked at, the one after the last, and the first that shows more of the new scene."""

    first: int
    after: int
    middle: int


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 of a frame (H, W, 3) uint8."""
    while min(frame.shape[:2]) >= 4 * SIDE:
        # means of four pixels come many times as fast as those of parts of pixels
        frame = cv2.resize(frame, (frame.shape[1] // 2, frame.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def find_dissolves(pictures: np.ndarray, fps: float, cuts: Sequence[int] = ()) -> list[Dissolve]:
    """The dissolves of a film, in order; they do not overlap.

    Args:
        pictures: (T, SIDE, SIDE, 3) uint8, of all frames.
        cuts: first frames of scenes that are known, which nothing is compared across.
    """
    flat = pictures.reshape(len(pictures), -1)
    edges = np.array([0, *sorted(cuts), len(flat)])
    seen: list[tuple[float, Dissolve]] = []
    halves = [half for half in HALVES if half <= max(HALVES[3], SECONDS * fps / 2)]
    for half, promising in zip(halves, _promising(flat, halves)):
        places = _between_calm(flat, promising, half, edges)
        seen += filter(None, (_look(flat, place, half) for place in places.tolist()))
    found: list[Dissolve] = []
    while seen:
        most, widest = max(seen)
        rivals = [(size, each) for size, each in seen if each.first < widest.after and widest.first < each.after]
        # of those that reach from scene to scene the shortest one, and of these the one that stands best
        whole = [each for size, each in rivals if size > WHOLE * most]
        found.append(min(whole, key=lambda each: (each.after - each.first, abs(sum(each[:2]) / 2 - each.middle))))
        seen = [each for each in seen if each not in rivals]
    return sorted(found)


def _promising(flat: np.ndarray, halves: Sequence[int]) -> list[np.ndarray]:
    """For each half length, places (N,) between frames that differ much and of which it lies in the middle."""
    found: list[list[np.ndarray]] = [[np.zeros(0, int)] for _ in halves]
    for start in range(0, len(flat), AT_ONCE):
        low, high = max(0, start - halves[-1]), min(len(flat), start + AT_ONCE + halves[-1])
        some = flat[low:high].astype(np.float32)
        for half, places in zip(halves, found):
            first, stop = max(start, half) - low, min(start + AT_ONCE, len(flat) - half) - low
            if first < stop:
                before = some[first - half : stop - half]
                change, moved = some[first + half : stop + half] - before, some[first:stop] - before
                square = np.maximum(np.einsum("ij,ij->i", change, change), 1e-6)
                share = np.einsum("ij,ij->i", moved, change) / square
                good = (square > LEAST**2 * flat.shape[1]) & (abs(share - 0.5) < 0.3)
                places.append(low + first + np.flatnonzero(good))
    return [np.concatenate(places) for places in found]


def _between_calm(flat: np.ndarray, places: np.ndarray, half: int, edges: np.ndarray) -> np.ndarray:
    """Those of the places (N,) around which little changes, within the scenes that ``edges`` divide."""
    begin = edges[np.searchsorted(edges, places - half, "right") - 1]
    end = edges[np.minimum(len(edges) - 1, np.searchsorted(edges, places + half, "right"))] - 1
    most = AROUND**2 * _squares(flat, places - half, places + half)
    calm = _squares(flat, np.maximum(begin, places - 3 * half), places - half) <= most
    places, end, most = places[calm], end[calm], most[calm]
    return places[_squares(flat, places + half, np.minimum(end, places + 3 * half)) <= most]


def _squares(flat: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared distances (N,) between pictures."""
    found = [np.zeros(0)]
    for start in range(0, len(one), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        change = flat[other[some]].astype(np.float32) - flat[one[some]]
        found.append(np.einsum("ij,ij->i", change, change))
    return np.concatenate(found)


def _look(flat: np.ndarray, place: int, half: int) -> tuple[float, Dissolve] | None:
    """How far apart the scenes of a dissolve around ``place`` are, if that is what is there."""
    first, last = place - half, place + half
    before, after = flat[[first, last]].astype(np.float32)
    change = after - before
    size = float(np.linalg.norm(change))
    moved = flat[first : last + 1] - before
    shares = moved @ change / size**2
    steps = np.diff(shares)
    if steps.min() < -TOLERANCE or steps.max() > CUT:
        return None
    beside = np.linalg.norm(moved - shares[:, None] * change, axis=1) / size
    if beside.max() > BESIDE or _light_alone(before, after):
        return None
    return size, Dissolve(first, last + 1, first + int(np.argmax(shares >= 0.5)))


def _light_alone(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether one picture, (SIDE * SIDE * 3,), is the other one with its colours stretched and shifted, or plain."""
    contrasts = [each.reshape(-1, 3).std(0).max() for each in (before, after)]
    if min(contrasts) < PLAIN * max(contrasts):
        return True
    left, whole = 0.0, 1e-6
    for a, b in zip(before.reshape(-1, 3).T, after.reshape(-1, 3).T):
        a, b = a - a.mean(), b - b.mean()
        gain = max(0.0, np.dot(a, b) / max(np.dot(a, a), 1e-6))
        left += float(((b - gain * a) ** 2).sum())
        whole += float((b**2).sum())
    return left < NEW * whole
