"""Large videos through a network tile by tile, neighbouring results blended linearly where the tiles overlap.

Runs on the host on numpy arrays (B, C, T, H, W), so only one tile at a time is on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]
# How a function is applied to the tiles: one after the other, or shared out.
Each = Callable[[Run, Sequence[np.ndarray]], Iterable[np.ndarray]]
TIME, HEIGHT, WIDTH = 2, 3, 4


@dataclass(frozen=True)
class Tiles:
    """Tiles of ``size`` along an axis, one every ``stride``; of their results, blended over ``blend``, ``keep`` stay.

    With ``lead`` a tile is one longer, and the first entry of every later result is dropped: a causal network needs the
    first frame for itself.
    """

    size: int
    stride: int
    blend: int
    keep: int
    lead: bool = False

    @classmethod
    def overlapping(cls, size: int, result: int, overlap: float, lead: bool = False) -> Tiles:
        """Tiles of ``size`` whose results have ``result`` entries, of which the share ``overlap`` is in common."""
        blend = int(result * overlap)
        return cls(size, int(size * (1 - overlap)), blend, result - blend, lead)


def run_tiled(
    x: np.ndarray, run: Run, space: Tiles | None = None, time: Tiles | None = None, each: Each = map
) -> np.ndarray:
    """``run(x)``, in tiles along the axes that have tiles and are longer than one.

    Args:
        run: the network, on a part of ``x``.
        space: tiles of height and of width.
        time: tiles of the frames.
        each: applies ``run`` to all tiles, whose results come in the same order.
    """
    results = iter(each(run, list(_tiles(x, space, time))))
    if not _is_cut(x, TIME, time):
        return _in_space(x, results, space)
    parts, previous = [], None
    for start in range(0, x.shape[TIME], time.stride):
        result = _in_space(x, results, space)
        if start and time.lead:
            result = result[:, :, 1:]
        keep = time.keep + (time.lead and not start)
        if result.shape[TIME]:
            previous = _blended(previous, result, TIME, time.blend)
            parts.append(previous[:, :, :keep])
    return np.concatenate(parts, TIME)


def _is_cut(x: np.ndarray, axis: int, tiles: Tiles | None) -> bool:
    return tiles is not None and x.shape[axis] > tiles.size


def _tiles(x: np.ndarray, space: Tiles | None, time: Tiles | None) -> Iterator[np.ndarray]:
    """The tiles of ``x``: frames, then rows, then columns."""
    if _is_cut(x, TIME, time):
        for start in range(0, x.shape[TIME], time.stride):
            yield from _tiles(x[:, :, start : start + time.size + time.lead], space, None)
    elif _is_cut(x, HEIGHT, space) or _is_cut(x, WIDTH, space):
        for top in range(0, x.shape[HEIGHT], space.stride):
            for left in range(0, x.shape[WIDTH], space.stride):
                yield x[..., top : top + space.size, left : left + space.size]
    else:
        yield x


def _in_space(x: np.ndarray, results: Iterator[np.ndarray], tiles: Tiles | None) -> np.ndarray:
    """One result of the results of its tiles, in space; ``x`` says how many there are."""
    if not (_is_cut(x, HEIGHT, tiles) or _is_cut(x, WIDTH, tiles)):
        return next(results)
    rows, above = [], {}
    for _ in range(0, x.shape[HEIGHT], tiles.stride):
        row, left = [], None
        for start in range(0, x.shape[WIDTH], tiles.stride):
            # Each neighbour is already blended itself, which is what the published autoencoders do in the corners.
            result = _blended(above.get(start), next(results), HEIGHT, tiles.blend)
            above[start] = left = _blended(left, result, WIDTH, tiles.blend)
            row.append(left[..., : tiles.keep, : tiles.keep])
        rows.append(np.concatenate(row, WIDTH))
    return np.concatenate(rows, HEIGHT)


def _blended(before: np.ndarray | None, after: np.ndarray, axis: int, extent: int) -> np.ndarray:
    """``after`` with its first ``extent`` entries faded in from the last ones of ``before``."""
    if before is None:
        return after
    extent = min(before.shape[axis], after.shape[axis], extent)
    shape = [1] * after.ndim
    shape[axis] = extent
    share = (np.arange(extent, dtype=np.float32) / max(extent, 1)).reshape(shape)
    ends = np.take(before, range(before.shape[axis] - extent, before.shape[axis]), axis)
    starts, rest = np.split(after, [extent], axis)
    return np.concatenate([ends * (1 - share) + starts * share, rest], axis)
