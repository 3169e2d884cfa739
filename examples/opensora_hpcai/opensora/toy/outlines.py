"""Outlines of the toy world's shapes: how they are drawn, how far they reach, and how the judge tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Points = Sequence[tuple[float, float]]

POLYGON_AREA = 2.37
"""Area of a polygon in squared radii, which is that of the triangle."""
LONGEST = 1.4
"""Largest side of the box around a polygon, as a multiple of the other one."""
FARTHEST = 1.5
"""Farthest point of a polygon from its centroid, in radii."""


class Outline(NamedTuple):
    """A shape, as large as a circle of a given radius looks.

    Attributes:
        reach: how far it extends from its centroid, in radii: left, right, up, down.
        distance: signed distance from the outline, negative inside, of points around the centroid, at a radius.
        inside: whether points are inside of the shape that touches all four sides of the box from 0 to 1.
    """

    reach: tuple[float, float, float, float]
    distance: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    inside: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(y, np.sqrt(0.75) * abs(x) - 0.5 * y) - 0.675 * radius


CURVES = {
    "circle": Outline(
        (1.0, 1.0, 1.0, 1.0),
        lambda x, y, radius: np.hypot(x, y) - radius,
        lambda x, y: (2 * x - 1) ** 2 + (2 * y - 1) ** 2 <= 1,
    ),
    "square": Outline(
        (0.89, 0.89, 0.89, 0.89),
        lambda x, y, radius: np.maximum(abs(x), abs(y)) - 0.89 * radius,
        lambda x, y: np.ones(np.broadcast_shapes(x.shape, y.shape), bool),
    ),
    "triangle": Outline((1.17, 1.17, 1.35, 0.675), _triangle, lambda x, y: abs(2 * x - 1) <= y),
}
"""Shapes that have a formula."""


def _star(tips: int = 5, inner: float = 0.5) -> Points:
    angles = np.pi * (np.arange(2 * tips) / tips - 0.5)
    radii = np.where(np.arange(2 * tips) % 2, inner, 1.0)
    return list(zip((radii * np.cos(angles)).tolist(), (radii * np.sin(angles)).tolist()))


def _cross(arm: float = 0.34) -> Points:
    corner = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    turned = [corner, *([] for _ in range(3))]
    for turn in range(1, 4):
        turned[turn] = [(-y, x) for x, y in turned[turn - 1]]
    return [point for part in turned for point in part]


POLYGONS: dict[str, Points] = {
    "star": _star(),
    "cross": _cross(),
    "diamond": [(0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)],
}
"""Shapes that have corners (x, y), y growing downwards."""
OUTLINES = (*CURVES, *POLYGONS)
"""Names of all outlines."""


def outline_of(shape: str | Points) -> Outline:
    """The outline of a name of `OUTLINES`, or of corners."""
    if isinstance(shape, str) and shape in CURVES:
        return CURVES[shape]
    corners = normalised(POLYGONS[shape] if isinstance(shape, str) else shape)
    low, high = corners.min(0), corners.max(0)
    boxed = (corners - low) / (high - low)
    return Outline(
        (-low[0], high[0], -low[1], high[1]),
        lambda x, y, radius: _distance(x, y, corners * radius),
        lambda x, y: _inside(x, y, boxed),
    )


def normalised(corners: Points) -> np.ndarray:
    """Corners (N, 2) around their centroid, scaled to the area of a polygon of radius 1."""
    points = np.asarray(corners, np.float64)
    following = np.roll(points, -1, 0)
    cross = points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]
    area = cross.sum() / 2
    centroid = ((points + following) * cross[:, None]).sum(0) / (6 * area)
    return (points - centroid) * np.sqrt(POLYGON_AREA / abs(area))


def flaw_of(corners: Points) -> str | None:
    """Why corners are no shape that can be drawn and judged; None if they are."""
    points = np.asarray(corners, np.float64)
    if not 3 <= len(points) <= 64:
        return f"has {len(points)} corners instead of 3 to 64"
    following = np.roll(points, -1, 0)
    area = abs((points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum()) / 2
    sides = np.ptp(points, axis=0)
    if area < 0.1 * max(sides) ** 2 or min(sides) <= 0:
        return "is too thin"
    if max(sides) > LONGEST * min(sides):
        return f"is more than {LONGEST:g} times as long as wide"
    if np.hypot(*normalised(corners).T).max() > FARTHEST:
        return f"has a corner farther than {FARTHEST:g} radii from its centre; make it more compact"
    return None


def _distance(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance of points from a polygon, negative inside."""
    nearest = np.inf
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0)):
        length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-12)
        along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)))
    return np.where(_inside(x, y, corners), -nearest, nearest)


def _inside(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Whether points are inside of a polygon: a ray from them crosses its sides an odd number of times."""
    odd = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0)):
        if ay != by:
            odd ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return odd
