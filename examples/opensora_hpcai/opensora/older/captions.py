"""Captions of the first release, ``[{"file": "a.mp4", "captions": ["...", "..."]}]``, as a training table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from mindone.checkpoint.atomic import atomic_write
from mindone.data.table import read_header, read_table
from mindone.errors import UserError
from opensora.data_tools.listing import listed
from opensora.data_tools.table import PROBLEM

TABLE = "video_caption.csv"
# Tables that folders have: that of a toy world or training, and that of ``opensora data preprocess``.
TABLES = (TABLE, "videos.csv")
Pair = tuple[str, str]


def training_table(sources: Sequence[str], video_dir: str, folder: str | Path) -> Path:
    """One table of all sources: that of the only source if it is one already, else ``video_caption.csv`` in ``folder``.

    Raises:
        UserError: a source is missing or no captions.
    """
    tables = [table_of(source) for source in sources]
    if len(tables) == 1 and tables[0].suffix == ".csv" and PROBLEM not in read_header(tables[0]):
        return tables[0]
    return write_pairs(list(read_pairs(tables, video_dir)), Path(folder) / TABLE)


def table_of(source: str | Path) -> Path:
    """The file of a source: a folder stands for the table in it.

    Raises:
        UserError: there is none; the arrow files of a data set hold embeddings, no captions.
    """
    source = Path(source)
    if not source.is_dir():
        return source
    found = next((source / name for name in TABLES if (source / name).is_file()), None)
    if found is None:
        raise UserError(f"{source} has no {' or '.join(TABLES)}; give a captions file (.json or .jsonl) or a table")
    return found


def read_pairs(sources: Sequence[str | Path], video_dir: str | Path) -> Iterator[Pair]:
    """Videos, relative to ``video_dir``, with a caption each.

    Raises:
        UserError: a source is missing, no captions file, or has an entry without a video or a caption.
    """
    for source in sources:
        if Path(source).suffix == ".csv":
            table = read_table(source, ("video", "caption"))
            problems = table.column(PROBLEM) if PROBLEM in table.columns else [""] * len(table)
            rows = zip(table.column("video"), table.column("caption"), problems)
            yield from ((video, caption) for video, caption, problem in rows if not problem)
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
