"""CSV tables of videos and captions, with checks that name the file and the row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mindone.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class VideoRow:
    """One row: the video's path below its folder, the file itself, its caption, and its rate if the table has one."""

    relative: str
    file: Path
    caption: str = ""
    fps: float | None = None


def read_table(csv_path: str | Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV with a header row, all cells as stripped strings.

    Args:
        columns: the columns that have to be there.
    Raises:
        UserError: the file is missing, not a CSV, without rows, or lacks a column.
    """
    import pandas as pd

    if not Path(csv_path).is_file():
        raise UserError(f"csv_path={csv_path} is not a file; give a CSV with a header row")
    try:
        table = pd.read_csv(csv_path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, OSError) as error:
        raise UserError(f"{csv_path} is not a readable CSV: {str(error).strip()}") from error
    table.columns = [str(column).strip() for column in table.columns]
    for column in columns:
        if column not in table.columns:
            raise UserError(f'{csv_path} has no column "{column}"; it has: {", ".join(table.columns)}')
    if table.empty:
        raise UserError(f"{csv_path} has no rows below its header")
    return table.apply(lambda cells: cells.str.strip())


def read_video_table(
    csv_path: str | Path,
    video_folder: str | Path | None = None,
    video_column: str | None = "video",
    caption_column: str | None = "caption",
) -> list[VideoRow]:
    """The rows of a table of videos; paths are relative to ``video_folder``, or to the CSV's own folder.

    Args:
        video_column: None takes the first column whatever its name, as the tables for autoencoders have it.
        caption_column: None reads no captions.
    Raises:
        UserError: as for `read_table`; an empty path, or one that leaves the folder; a rate that is not a number.
    """
    needed = [column for column in (video_column, caption_column) if column]
    table = read_table(csv_path, needed)
    videos = table[video_column or table.columns[0]]
    captions = table[caption_column] if caption_column else [""] * len(table)
    rates = table["fps"] if "fps" in table.columns else [""] * len(table)
    root = Path(video_folder) if video_folder else Path(csv_path).parent
    rows = []
    for number, (video, caption, rate) in enumerate(zip(videos, captions, rates), start=1):
        where = f"{csv_path}, row {number}"
        relative = relative_path(video, root, where)
        rows.append(VideoRow(relative, root / relative, caption, _rate(rate, where)))
    return rows


def relative_path(path: str, root: str | Path, where: str) -> str:
    """A table's path below ``root``, normalised, with ``.mp4`` where it has no extension.

    Raises:
        UserError: it is empty, or lies outside of ``root``.
    """
    if not path:
        raise UserError(f"{where} has no video path")
    base = os.path.abspath(root)
    full = os.path.normpath(os.path.join(base, path))
    if "\0" in path or full == base or os.path.commonpath([base, full]) != base:
        raise UserError(f"{where}: the path {path!r} leaves the folder {root}; paths have to stay below it")
    # "clip_0.5" has no extension either
    has_extension = any(char.isalpha() for char in os.path.splitext(full)[1])
    return os.path.relpath(full if has_extension else full + ".mp4", base)


def _rate(cell: str, where: str) -> float | None:
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError as error:
        raise UserError(f"{where}: fps={cell} is not a number") from error


def shard(rows: Sequence, rank: int, world_size: int) -> list:
    """The rows that this rank works on: every ``world_size``-th."""
    return list(rows[rank::world_size])
