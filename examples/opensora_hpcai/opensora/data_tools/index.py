"""``opensora data index``: a table of videos and pictures, with what their files say of themselves."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mindone.data.table import relative_path
from mindone.data.video import count_frames, probe, probe_header
from opensora.data_tools.listing import CAPTION, VIDEO, listed
from opensora.data_tools.table import PROBLEM, Cell, Row, Rows, Tally, process_rows

if TYPE_CHECKING:
    # worker processes need no schemas, which are a fifth of what they would import
    from opensora.config.data import IndexConfig

logger = logging.getLogger(__name__)

MEASURED = ("num_frames", "height", "width", "fps", "duration")
# Files that are handed to a process at once: opening one takes a few milliseconds.
AT_ONCE = 16


def index(config: IndexConfig) -> Tally:
    """Writes the table; files that cannot be read are in it, with the reason as their ``problem``.

    Raises:
        UserError: there are no videos, or a list cannot be read.
    """
    root = root_of(config)
    rows = [
        row
        for source in config.inputs
        for found in listed(source, config.layout, root)
        for row in found.rows(config.captions)
    ]
    more = dict.fromkeys(name for row in rows for name in row)
    columns = list(dict.fromkeys([VIDEO, CAPTION, *MEASURED, *more]))
    files = Rows(columns, lambda: ({name: row.get(name, "") for name in columns} for row in rows))
    logger.info("%d rows; paths start from %s", len(rows), root)
    tally = process_rows(
        files,
        partial(measure, root=str(root), how=config.probe),
        config.output,
        what="index",
        adds=MEASURED,
        settings={"root": str(root), "probe": config.probe},
        workers=workers_of(config.workers),
        at_once=AT_ONCE,
    )
    print(f"{config.output}: {tally}")
    return tally


def workers_of(workers: int | None) -> int:
    """How many processes: as many as there are processors for this one, if it is not said."""
    return len(os.sched_getaffinity(0)) if workers is None else workers


def root_of(config: IndexConfig) -> Path:
    """The folder that the table's paths start from."""
    if config.video_folder:
        return Path(config.video_folder)
    folders = [os.path.abspath(path if os.path.isdir(path) else os.path.dirname(path) or ".") for path in config.inputs]
    return Path(os.path.commonpath(folders))


def measure(row: Row, root: str, how: str) -> dict[str, Cell]:
    """Length, size, frame rate and seconds of a row's file.

    Raises:
        BadSample: it cannot be read.
    """
    relative = relative_path(row[VIDEO], root, "the list")
    path = os.path.join(root, relative)
    info = probe_header(path) if how == "header" else probe(path)
    if how == "all":
        frames = count_frames(path)
        info = replace(info, num_frames=frames, duration=frames / info.fps if info.fps else 0.0)
    fps, duration = (round(value, 6) if value else None for value in (info.fps, info.duration))
    cells = (info.num_frames, info.height, info.width, fps, duration)
    return {VIDEO: relative, **dict(zip(MEASURED, cells)), PROBLEM: ""}
