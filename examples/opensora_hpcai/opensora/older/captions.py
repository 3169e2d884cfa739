"""Captions of the first release, ``[{"file": "a.mp4", "captions": ["...", "..."]}]``, as a training table."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mindone.checkpoint.atomic import atomic_write
from mindone.data.errors import BadSample
from mindone.data.table import read_video_table
from mindone.data.video import probe_header
from mindone.errors import UserError

if TYPE_CHECKING:
    from opensora.config.first import PreprocessConfig

logger = logging.getLogger(__name__)

TABLE = "video_caption.csv"
Pair = tuple[str, str]


def preprocess(config: PreprocessConfig) -> Path:
    """Writes the table, with a row for each caption of the videos that are there and not too long; returns its path.

    Raises:
        UserError: no captions, or no video of them can be used.
    """
    kept: dict[str, bool] = {}
    pairs = list(read_pairs([config.captions_file], config.video_dir))
    for video, _ in pairs:
        if video not in kept:
            kept[video] = _is_usable(Path(config.video_dir) / video, config.max_frames)
    usable = [pair for pair in pairs if kept[pair[0]]]
    if not usable:
        raise UserError(f"none of the {len(kept)} videos of {config.captions_file} can be used; is video_dir right?")
    table = write_pairs(usable, Path(config.output_dir) / TABLE)
    print(f"{table}: {len(usable)} captions of {sum(kept.values())} videos, {len(kept) - sum(kept.values())} left out")
    return table


def _is_usable(file: Path, max_frames: int) -> bool:
    try:
        frames = probe_header(file).num_frames
    except BadSample as error:
        logger.warning("left out: %s", error)
        return False
    if frames > max_frames:
        logger.warning("left out: %s has %d frames, more than max_frames=%d", file, frames, max_frames)
    return frames <= max_frames


def training_table(sources: Sequence[str], video_dir: str, folder: str | Path) -> Path:
    """One table of all sources: that of the only source if it is one already, else ``video_caption.csv`` in ``folder``.

    Raises:
        UserError: a source is missing or no captions.
    """
    tables = [table_of(source) for source in sources]
    if len(tables) == 1 and tables[0].suffix == ".csv":
        return tables[0]
    return write_pairs(list(read_pairs(tables, video_dir)), Path(folder) / TABLE)


def table_of(source: str | Path) -> Path:
    """The file of a source: a folder stands for the table in it.

    Raises:
        UserError: there is none, or the folder has arrow files, in which captions are no text any more.
    """
    source = Path(source)
    if not source.is_dir():
        return source
    if (source / TABLE).is_file():
        return source / TABLE
    if any(source.rglob("*.arrow")):
        raise UserError(
            f"{source} is an arrow data set, which holds embeddings instead of captions; give the captions file that "
            "it was made of (.json or .jsonl)"
        )
    raise UserError(f"{source} has no {TABLE}; give a captions file, or a folder that preprocess_data.py made")


def read_pairs(sources: Sequence[str | Path], video_dir: str | Path) -> Iterator[Pair]:
    """Videos, relative to ``video_dir``, with a caption each.

    Raises:
        UserError: a source is missing, no captions file, or has an entry without a video or a caption.
    """
    from opensora.data_tools.listing import listed

    for source in sources:
        if Path(source).suffix == ".csv":
            yield from ((row.relative, row.caption) for row in read_video_table(source, video_dir))
            continue
        for found in listed(source, "list", video_dir):
            if found.problem:
                raise UserError(f"{source}: {found.problem.removeprefix('index: ')}")
            captions = [caption for caption in found.captions if caption.strip()]
            if not captions:
                raise UserError(f"{source}: {found.path} has no captions")
            yield from ((found.path, " ".join(caption.split())) for caption in captions)


def write_pairs(pairs: Sequence[Pair], table: Path) -> Path:
    """Writes a table with the columns video and caption."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("video", "caption"), *pairs])
    with atomic_write(table) as file:
        file.write(text.getvalue().encode())
    return table
