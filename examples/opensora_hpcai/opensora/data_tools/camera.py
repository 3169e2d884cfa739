"""``opensora data camera``: how the camera moves, from points that are tracked over the video."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mindone.data.table import relative_path
from mindone.data.video import iter_frames, probe
from mindone.errors import UserError
from opensora.data_tools.index import workers_of
from opensora.data_tools.listing import VIDEO
from opensora.data_tools.table import Cell, Row, Tally, open_table, process_rows

if TYPE_CHECKING:
    # worker processes need no schemas, which are a fifth of what they would import
    from opensora.config.curation import CameraConfig

ADDED = ("camera",)
# The picture's shorter side while points are tracked, and how many frames of a video are looked at.
SIDE, FRAMES = 256, 24
# Its longer side at most, for strips of a picture.
LONGEST = 4096
MOST_POINTS, FEWEST_POINTS = 400, 12
# Of the shorter side, or of the picture's scale, over the whole video.
MOVED = 0.04


def camera(config: CameraConfig) -> Tally:
    """Writes the table with the column ``camera``.

    Raises:
        UserError: the table cannot be read.
    """
    tally = process_rows(
        open_table(config.table, [VIDEO]),
        partial(camera_of_row, root=str(config.video_folder)),
        config.output,
        what="camera",
        adds=ADDED,
        settings={"root": str(config.video_folder)},
        workers=workers_of(config.workers),
        retry=config.retry,
    )
    print(f"{config.output}: {tally}")
    return tally


def camera_of_row(row: Row, root: str) -> dict[str, Cell]:
    """The camera's label of a row's video.

    Raises:
        UserError: the video cannot be read, or is a picture.
    """
    path = Path(root, relative_path(row[VIDEO], root, "the table"))
    total = probe(path).num_frames
    if total < 2:
        raise UserError(f"{row[VIDEO]} is a picture, in which no camera moves")
    places = np.unique(np.linspace(0, total - 1, min(total, FRAMES)).round().astype(int)).tolist()
    grey = [_small(frame) for frame in iter_frames(path, places, allow_short=True)]
    return {"camera": label_of(camera_motion(grey))}


def _small(frame: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = min(SIDE / min(grey.shape), LONGEST / max(grey.shape))
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def camera_motion(grey: list[np.ndarray]) -> tuple[float, float, float] | None:
    """How far the picture's content went to the right and down, and grew, over all frames.

    Shifts are shares of the shorter side; growth is the logarithm of the scale. None if there is nothing to track.

    Args:
        grey: pictures (H, W) uint8.
    """
    total, tracked = np.zeros(3), 0
    for before, after in zip(grey, grey[1:]):
        step = _step(before, after)
        if step is not None:
            total, tracked = total + step, tracked + 1
    return tuple(total.tolist()) if tracked * 2 >= len(grey) - 1 > 0 else None


def _step(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    points = cv2.goodFeaturesToTrack(before, MOST_POINTS, 0.01, 6)
    if points is None or len(points) < FEWEST_POINTS:
        return None
    moved, seen, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None)
    seen = seen.reshape(-1) == 1
    if seen.sum() < FEWEST_POINTS:
        return None
    centre = np.array(before.shape[::-1], np.float32) / 2
    pairs = [each.reshape(-1, 2)[seen] - centre for each in (points, moved)]
    matrix, _ = cv2.estimateAffinePartial2D(*pairs, method=cv2.RANSAC, ransacReprojThreshold=1.5)
    if matrix is None:
        return None
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    return np.array([*(matrix[:, 2] / min(before.shape)), np.log(max(scale, 1e-6))])


def label_of(motion: tuple[float, float, float] | None) -> str:
    """The words of prompts; the camera moves against the content. "undetermined" if nothing could be tracked."""
    if motion is None:
        return "undetermined"
    right, down, growth = motion
    found = []
    if abs(right) > MOVED:
        found.append("pan left" if right > 0 else "pan right")
    if abs(down) > MOVED:
        found.append("tilt up" if down > 0 else "tilt down")
    if abs(growth) > MOVED:
        found.append("zoom in" if growth > 0 else "zoom out")
    # a diagonal pan is mixed only if both parts matter
    if not found:
        return "static"
    strongest = max(abs(right), abs(down), abs(growth))
    weighty = [each for each, size in zip(found, [s for s in map(abs, motion) if s > MOVED]) if size > strongest / 3]
    return weighty[0] if len(weighty) == 1 else "mixed"
