"""What single frames of a toy world show, from their pixels alone: where something is, its outline, its colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from opensora.config.world import MIN_SATURATION, Colour, grey_of, hue_of

MIN_CONTRAST = 40.0
"""Smallest RGB distance (of 0..255 steps) between foreground and background that counts as a shape."""
MIN_AREA = 0.01
"""Smallest share of the frame that counts as a shape."""
MIN_SHARE = 0.75
"""Smallest share of all foreground, or of all that has its colour, that counts as the only shape."""
PART_OF_CONTRAST = 0.45
"""Where there may be several shapes, part of the strongest contrast from which on a pixel belongs to one."""
UPSCALE = 4


class Sight(NamedTuple):
    """What one frame shows: mean colour (3,), centroid (x, y), and outline (H, W) bool cropped to its bounding box."""

    colour: np.ndarray
    centroid: np.ndarray
    outline: np.ndarray


def sight_of(frame: np.ndarray) -> Sight | None:
    """The one thing in a frame (H, W, 3) uint8 that differs from the background; None if nothing does."""
    pixels, difference, distance = _from_background(frame)
    return _sight(pixels, difference, distance >= np.quantile(distance, 1 - MIN_AREA))


def sights_by_colour(frame: np.ndarray, colours: Mapping[str, Colour]) -> dict[str, Sight]:
    """By the name of their colour, all things in a frame (H, W, 3) uint8 that have one of some colours."""
    pixels, difference, distance = _from_background(frame)
    limit = max(MIN_CONTRAST, PART_OF_CONTRAST * float(np.quantile(distance, 1 - MIN_AREA)))
    names = nearest_names(pixels, colours)
    found = {}
    for number, name in enumerate(colours):
        part = _largest((names == number) & (distance >= limit), MIN_SHARE)
        if part is None:
            continue
        around = cv2.dilate(part.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        strong = part & (distance >= np.median(distance[part]))
        sight = _sight(pixels, np.where(around[..., None], difference, 0), strong)
        if sight is not None:
            found[name] = sight
    return found


def _from_background(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smoothed pixels (H, W, 3) float32, their difference from the background, and its length (H, W)."""
    pixels = cv2.GaussianBlur(frame, (3, 3), 0).astype(np.float32)
    difference = pixels - _background(pixels)
    return pixels, difference, np.sqrt((difference**2).sum(-1))


def _largest(mask: np.ndarray, share: float) -> np.ndarray | None:
    """The largest connected part (H, W) bool; None if it is small, or less than a share of the whole."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    area = stats[largest, cv2.CC_STAT_AREA]
    return parts == largest if area >= max(MIN_AREA * mask.size, share * mask.sum()) else None


def _sight(pixels: np.ndarray, difference: np.ndarray, strong: np.ndarray) -> Sight | None:
    """The thing whose difference from the background is that of some pixels that are all its own."""
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
    if area < MIN_AREA * alpha.size or area < MIN_SHARE * stats[1:, cv2.CC_STAT_AREA].sum():
        return None
    part = parts == largest
    size = pixels.shape[1::-1]
    core = cv2.resize((part & (alpha > 0.8)).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.9
    colour = pixels[core].mean(0) if core.any() else pixels[strong].mean(0)
    return Sight(colour, centroids[largest] / UPSCALE, part[top : top + height, left : left + width])


def edge_of(frames: np.ndarray) -> np.ndarray:
    """The outermost pixels (..., N, 3) of frames (..., H, W, 3)."""
    sides = (frames[..., 0, :, :], frames[..., -1, :, :], frames[..., :, 0, :], frames[..., :, -1, :])
    return np.concatenate(sides, axis=-2)


def _background(pixels: np.ndarray) -> np.ndarray:
    """The colour (3,) that most of the frame's edge has."""
    return np.median(edge_of(pixels), axis=0)


def nearest_names(rgb: np.ndarray, colours: Mapping[str, Colour]) -> np.ndarray:
    """The place of the nearest of some colours (H, W), of pixels (H, W, 3) in 0..255; -1 where none is near.

    Of saturated pixels that is the nearest hue, of others the grey of the nearest brightness.
    """
    hue, saturation, _ = np.moveaxis(cv2.cvtColor((rgb / 255).astype(np.float32), cv2.COLOR_RGB2HSV), -1, 0)
    far = np.full(hue.shape, np.inf)
    by_hue, by_brightness = [], []
    for colour in colours.values():
        grey = grey_of(colour)
        by_hue.append(abs((hue - hue_of(colour) + 180) % 360 - 180) if grey is None else far)
        by_brightness.append(far if grey is None else abs(rgb.mean(-1) - grey))
    distance = np.where(saturation < MIN_SATURATION, np.stack(by_brightness), np.stack(by_hue))
    return np.where(np.isfinite(distance.min(0)), distance.argmin(0), -1)
