"""``opensora data scenes``: where the scenes of films begin and end, to the frame.

Cuts are found by PySceneDetect's adaptive detector; a second pass finds fades through black or white, and dissolves.
Frames are counted as `mindone.data.video` counts them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mindone.data.ahead import read_ahead
from mindone.data.display import shrunk
from mindone.data.table import relative_path
from mindone.data.video import open_film
from mindone.errors import UserError
from opensora.data_tools.dissolves import find_dissolves, thumbnail
from opensora.data_tools.index import workers_of
from opensora.data_tools.listing import VIDEO
from opensora.data_tools.table import Cell, Row, Stop, Tally, open_table, process_rows

if TYPE_CHECKING:
    # worker processes need no schemas, which are a fifth of what they would import
    from opensora.config.curation import ScenesConfig

FIRST, AFTER = "start_frame", "end_frame"
ADDED = ("scene", FIRST, AFTER, "start", "end")
# The detector looks at small pictures; more pixels make it slower, not better.
LONGEST_SIDE = 256
# Frames that are decoded while earlier ones are looked at.
FRAMES_AHEAD = 16


def scenes(config: ScenesConfig) -> Tally:
    """Writes a row for each scene of each film of the table.

    Raises:
        UserError: the table cannot be read, or PySceneDetect is missing.
    """
    _detectors()
    own = {name: asdict(config)[name] for name in ("threshold", "min_content", "fades", "black", "min_frames")}
    tally = process_rows(
        open_table(config.table, [VIDEO]),
        partial(rows_of_scenes, root=str(config.video_folder), **own),
        config.output,
        what="scenes",
        adds=ADDED,
        settings={"root": str(config.video_folder), **own},
        workers=workers_of(config.workers),
        retry=config.retry,
    )
    print(f"{config.output}: {tally}")
    return tally


def rows_of_scenes(row: Row, root: str, **settings: float) -> list[dict[str, Cell]]:
    """The new cells of a row for each scene of its film."""
    path = Path(root, relative_path(row[VIDEO], root, "the table"))
    with open_film(path) as film:
        fps = film.fps
        with read_ahead(film.frames(longest=LONGEST_SIDE), FRAMES_AHEAD) as frames:
            bounds = find_scenes(frames, fps or 1.0, **settings)
    return [
        dict(zip(ADDED, (number, first, after, *(round(at / fps, 6) if fps else None for at in (first, after)))))
        for number, (first, after) in enumerate(bounds)
    ]


def find_scenes(
    frames: Iterable[np.ndarray],
    fps: float,
    threshold: float = 3.0,
    min_content: float = 10.0,
    fades: bool = True,
    black: float = 12.0,
    min_frames: int = 8,
) -> list[tuple[int, int]]:
    """First frame of each scene and the one after its last; together they are the whole film.

    A fade through black or white ends a scene in the middle of that, a dissolve at the first frame that shows more of
    the next scene.

    Args:
        frames: (H, W, 3) uint8 RGB.
        threshold, min_content, fades, black, min_frames: as in `ScenesConfig`.
    """
    detector_class, timecode = _detectors()
    detector = detector_class(adaptive_threshold=threshold, min_scene_len=1, min_content_val=min_content)
    found, pictures, total, at = [], [], 0, timecode(0, float(fps))
    for total, frame in enumerate(frames, start=1):
        small = shrunk(frame, LONGEST_SIDE)
        if fades:
            pictures.append(thumbnail(small))
        at = timecode(total - 1, float(fps))
        found += detector.process_frame(at, cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    found += detector.post_process(at)
    cuts = sorted({int(cut.frame_num) for cut in found})
    if pictures:
        cuts = with_gradual(cuts, np.stack(pictures), fps, black)
    return _joined(cuts, total, min_frames)


def with_gradual(cuts: list[int], pictures: np.ndarray, fps: float, black: float) -> list[int]:
    """First frames of scenes, with those that fade or dissolve in; these replace cuts that were seen within them.

    Args:
        pictures: see `find_dissolves`.
        black: as in `ScenesConfig`.
    """
    middles = fade_middles(pictures.mean((1, 2, 3)), black)
    cuts = [cut for cut in cuts if not any(first <= cut <= after for first, after, _ in middles)]
    cuts = sorted([*cuts, *(middle for _, _, middle in middles)])
    # what gets lighter on its way out of a fade is no dissolve
    mixed = [
        each
        for each in find_dissolves(pictures, fps, cuts)
        if not any(2 * each.first - each.after <= middle <= 2 * each.after - each.first for *_, middle in middles)
    ]
    cuts = [cut for cut in cuts if not any(each.first < cut < each.after for each in mixed)]
    return sorted([*cuts, *(each.middle for each in mixed)])


def fade_middles(brightness: np.ndarray, black: float) -> list[tuple[int, int, int]]:
    """Runs of black or white frames (first, one after the last, where a scene ends) that are not at the film's ends.

    Args:
        brightness: mean of each frame, (T,), 0 to 255.
        black: what is below it is black, and what is as close to 255 is white.
    """
    plain = (brightness < black) | (brightness > 255 - black)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], plain.astype(int), [0]])))
    runs = edges.reshape(-1, 2).tolist()
    return [(first, after, (first + after) // 2) for first, after in runs if first > 0 and after < len(brightness)]


def _joined(cuts: list[int], total: int, min_frames: int) -> list[tuple[int, int]]:
    starts = [0]
    for cut in cuts:
        if cut - starts[-1] >= min_frames and total - cut >= min_frames:
            starts.append(cut)
    return list(zip(starts, [*starts[1:], total]))


def _detectors():
    try:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector
    except ImportError as error:
        raise Stop("scenes needs PySceneDetect; install it with: pip install 'mindone[curation]'") from error
    return AdaptiveDetector, FrameTimecode


def bounds_of(row: Row) -> tuple[int, int] | None:
    """First frame and the one after the last of a row that `scenes` wrote; None without them.

    Raises:
        UserError: they are not whole numbers in order.
    """
    if not row.get(FIRST) and not row.get(AFTER):
        return None
    try:
        first, after = int(row[FIRST]), int(row[AFTER])
    except (KeyError, ValueError):
        first = after = 0
    if not 0 <= first < after:
        raise UserError(f"{FIRST}={row.get(FIRST)}, {AFTER}={row.get(AFTER)} are not the bounds of a scene")
    return first, after
