"""``opensora data cut``: the scenes of a table as files, exact to the frame."""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mindone.checkpoint.atomic import atomic_write
from mindone.data.table import relative_path
from mindone.data.video import VideoInfo, count_frames, iter_frames, probe
from mindone.data.write import write_frames
from mindone.errors import UserError
from opensora.data_tools.index import MEASURED, workers_of
from opensora.data_tools.listing import VIDEO
from opensora.data_tools.scenes import bounds_of
from opensora.data_tools.table import Cell, Row, Tally, open_table, process_rows

if TYPE_CHECKING:
    # worker processes need no schemas, which are a fifth of what they would import
    from opensora.config.curation import CutConfig

ADDED = ("source", *MEASURED, "source_start", "source_end")
SETTINGS = ("min_seconds", "max_seconds", "fps", "shorter_side", "crf")
# Players show these, so a film that is already right is copied as it is.
COPIED = (".mp4",)


def cut(config: CutConfig) -> Tally:
    """Writes a clip for each row and the table of the clips.

    Raises:
        UserError: the table cannot be read.
    """
    own = {name: getattr(config, name) for name in SETTINGS}
    places = {"root": str(config.video_folder), "folder": str(config.output_folder)}
    tally = process_rows(
        open_table(config.table, [VIDEO]),
        partial(cut_row, **places, **own),
        config.output,
        what="cut",
        adds=ADDED,
        settings={**places, **own},
        workers=workers_of(config.workers),
        retry=config.retry,
    )
    print(f"{config.output}: {tally}")
    return tally


def cut_row(
    row: Row,
    root: str,
    folder: str,
    min_seconds: float = 0.0,
    max_seconds: float | None = None,
    fps: float | None = None,
    shorter_side: int | None = None,
    crf: int = 18,
) -> dict[str, Cell]:
    """Writes the clip of a row and gives its new cells.

    Raises:
        UserError: the scene is too short, or the film cannot be read to its end.
    """
    relative = relative_path(row[VIDEO], root, "the table")
    source = Path(root, relative)
    info = probe(source)
    if not info.fps:
        raise UserError(f"{relative} is a picture, which has no scenes to cut")
    first, after = bounds_of(row) or (0, info.num_frames)
    if (after - first) / info.fps < min_seconds - 1e-6:
        raise UserError(f"{(after - first) / info.fps:.2f} s are shorter than min_seconds={min_seconds:g}")
    if max_seconds is not None:
        after = min(after, first + max(1, math.floor(max_seconds * info.fps + 1e-6)))
    name = clip_name(relative, row.get("scene") or "0")
    target = Path(folder, name)
    rate, size = min(fps or info.fps, info.fps), clip_size(info, shorter_side)
    target.parent.mkdir(parents=True, exist_ok=True)
    is_right = (first, after) == (0, info.num_frames) and rate == info.fps and size == (info.height, info.width)
    # a header may promise more frames than decode
    if is_right and source.suffix.lower() in COPIED and count_frames(source) == after:
        count = after
        _copy(source, target)
    else:
        count = _encode(source, target, taken(first, after, info.fps, rate), size, rate, crf)
    seconds = [round(at / info.fps, 6) for at in (first, after)]
    measured = (count, *size, round(rate, 6), round(count / rate, 6))
    return {VIDEO: name, "source": relative, **dict(zip(MEASURED, measured)), **dict(zip(ADDED[-2:], seconds))}


def clip_name(relative: str, scene: str) -> str:
    """``FOLDER/FILM_scene-N.mp4``; the ending of the film is part of it, for names may differ in that alone."""
    path = PurePath(relative)
    ending = "" if path.suffix == ".mp4" else path.suffix.replace(".", "_")
    return str(path.with_name(f"{path.stem}{ending}_scene-{PurePath(scene).name}.mp4"))


def clip_size(info: VideoInfo, shorter_side: int | None) -> tuple[int, int]:
    """Height and width of a clip: even, and never larger than the film."""
    scale = min(1.0, (shorter_side or math.inf) / min(info.height, info.width))
    if scale == 1.0:
        return info.height + info.height % 2, info.width + info.width % 2
    height, width = (max(2, round(side * scale / 2) * 2) for side in (info.height, info.width))
    return height, width


def taken(first: int, after: int, fps: float, rate: float) -> list[int]:
    """The frames of ``first`` to ``after`` that a clip of ``rate`` frames per second shows."""
    count = max(1, math.floor((after - first) * rate / fps + 1e-6))
    return [min(after - 1, first + math.floor(index * fps / rate + 0.5)) for index in range(count)]


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as film, atomic_write(target) as file:
        shutil.copyfileobj(film, file)


def _encode(source: Path, target: Path, indices: list[int], size: tuple[int, int], rate: float, crf: int) -> int:
    return write_frames(target, (_resized(frame, size) for frame in iter_frames(source, indices)), rate, crf)


def _resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if (height, width) == (frame.shape[0] + frame.shape[0] % 2, frame.shape[1] + frame.shape[1] % 2):
        return np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), mode="edge")
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
