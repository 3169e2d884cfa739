"""CSV tables of videos and captions, with checks that name the file and the line."""

from __future__ import annotations

import contextlib
import csv
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mindone.data.textfile import lines_of
from mindone.errors import UserError

logger = logging.getLogger(__name__)

# How spreadsheets separate cells where a comma stands in numbers; only where the header has no comma.
SEPARATORS = (",", ";", "\t")
LONGEST_CELL = 1 << 17
ROWS_AT_ONCE = 1000

# What programs write where a text is missing.
NO_TEXT = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>", "#n/a"))
_LONGEST_NO_TEXT = max(map(len, NO_TEXT))

HOW_TO_QUOTE = (
    'put a cell with commas, line breaks or quotes in double quotes, and double the quotes in it: "a ""red"" circle, '
    'moves left"'
)

_NUMBER = re.compile(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = 1 << 31
# A path that is normal already: no part begins with a dot, none is empty, and there is an extension.
_PLAIN_PATH = re.compile(r"(?:[\w-][\w. -]*/)*[\w-][\w. -]*\.[A-Za-z]\w*")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Characters that no path in a table may have: they end lines, or a terminal obeys them."""


MOTION = "score_vmafmotion"
"""The column of how much moves in a video, by its published name."""


class VideoRow(NamedTuple):
    """One row: the video's path below its folder, and what the table says of it; None where it says nothing.

    ``line`` is the number of the row's first line in its file.
    """

    relative: str
    root: Path
    caption: str = ""
    fps: float | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    line: int = 0
    motion: float | None = None

    @property
    def file(self) -> Path:
        return self.root / self.relative

    @property
    def has_caption(self) -> bool:
        return says_something(self.caption)


@dataclass(frozen=True)
class Table:
    """A whole table: the names of its columns, its rows as stripped strings, and the line each begins at."""

    path: str
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


def read_header(csv_path: str | Path) -> list[str]:
    """The names of the columns of a CSV."""
    return open_rows(csv_path)[0]


def read_table(csv_path: str | Path, columns: Sequence[str] = ()) -> Table:
    """A CSV with a header row; cells are separated by commas, or by ``;`` or tabs if the header is.

    Args:
        columns: the columns that have to be there.
    Raises:
        UserError: the file is missing, not text, or without rows; it lacks a column or names one twice; a row has more
            or fewer cells than the header, or quotes that are not closed.
    """
    header, rows = open_rows(csv_path, columns)
    lines, cells = zip(*rows)
    return Table(str(csv_path), header, list(cells), list(lines))


def read_video_table(
    csv_path: str | Path,
    video_folder: str | Path | None = None,
    video_column: str | None = "video",
    caption_column: str | None = "caption",
    drop_without_caption: bool = False,
) -> list[VideoRow]:
    """The rows of a table of videos; paths are relative to ``video_folder``, or to the CSV's own folder.

    The columns ``fps``, ``num_frames``, ``height``, ``width`` and ``score_vmafmotion`` are read if they are there. Rows
    without a caption are counted and reported.

    Args:
        video_column: None takes the first column whatever its name, as the tables for autoencoders have it.
        caption_column: None reads no captions.
        drop_without_caption: leave out rows whose caption is empty or a word for nothing, such as NaN.
    Raises:
        UserError: as for `read_table`; an empty path, or one that leaves the folder; a rate, length or size that is
            not a positive number, or a motion below 0; no row left.
    """
    header, cells = open_rows(csv_path, [column for column in (video_column, caption_column) if column])
    root = Path(video_folder) if video_folder else Path(csv_path).parent
    video = header.index(video_column) if video_column else 0
    caption = header.index(caption_column) if caption_column else None
    numbers = ("fps", "num_frames", "height", "width", MOTION)
    readers = [_Numbers(csv_path, header, name) if name in header else None for name in numbers]
    rows: list[VideoRow] = []
    is_plain = _PLAIN_PATH.fullmatch
    while some := list(itertools.islice(cells, ROWS_AT_ONCE)):
        lines, records = zip(*some)
        columns = list(zip(*records))
        paths = [
            path if is_plain(path) else relative_path(path, root, f"{csv_path}, line {line}")
            for path, line in zip(columns[video], lines)
        ]
        captions = itertools.repeat("") if caption is None else columns[caption]
        values = [reader.all(columns, lines) if reader else itertools.repeat(None) for reader in readers]
        rows += map(VideoRow, paths, itertools.repeat(root), captions, *values[:-1], lines, values[-1])
    return rows if caption is None else _with_captions(rows, csv_path, drop_without_caption)


def relative_path(path: str, root: str | Path, where: str) -> str:
    """A table's path below ``root``, normalised, with ``.mp4`` where it has no extension.

    Raises:
        UserError: it is empty, has line breaks or other control characters, or lies outside of ``root``.
    """
    if _PLAIN_PATH.fullmatch(path):
        return path
    if not path:
        raise UserError(f"{where} has no video path")
    if CONTROL.search(path):
        raise UserError(f"{where}: the path {path[:80]!r} has a line break or control character; {HOW_TO_QUOTE}")
    base = os.path.abspath(root)
    full = os.path.normpath(os.path.join(base, path))
    if full == base or os.path.commonpath([base, full]) != base:
        raise UserError(f"{where}: the path {path!r} leaves the folder {root}; paths have to stay below it")
    # "clip_0.5" has no extension either
    has_extension = any(char.isalpha() for char in os.path.splitext(full)[1])
    return os.path.relpath(full if has_extension else full + ".mp4", base)


def shard(rows: Sequence, rank: int, world_size: int) -> list:
    """The rows that this rank works on: every ``world_size``-th."""
    return list(rows[rank::world_size])


def says_something(text: str) -> bool:
    """Whether a stripped cell is a text, and not empty or a word such as NaN that programs write for nothing."""
    return len(text) > _LONGEST_NO_TEXT or text.lower() not in NO_TEXT


# --- cells -----------------------------------------------------------------------------------------------------------


class _Numbers:
    """Reads the cells of one column as positive numbers, None where it is empty.

    They are whole ones, but ``fps`` and the motion, which may be 0.

    Equal cells share one number, which saves time and memory.
    """

    def __init__(self, csv_path: str | Path, header: list[str], name: str):
        self.csv_path, self.name, self.type = csv_path, name, float if name in ("fps", MOTION) else int
        self.may_be_zero = name == MOTION
        self.place = header.index(name)
        self.known: dict[str, float | int | None] = {"": None}

    def all(self, columns: Sequence[Sequence[str]], lines: Sequence[int]) -> list[float | int | None]:
        """The column's numbers in rows that begin at these lines."""
        cells = columns[self.place]
        for cell, line in zip(cells, lines):
            if cell not in self.known:
                self.known[cell] = self._number(cell, line)
        return [self.known[cell] for cell in cells]

    def _number(self, cell: str, line: int) -> float | int:
        value = float(cell) if _NUMBER.fullmatch(cell) else -1.0
        is_large_enough = value >= 0 if self.may_be_zero else value > 0
        if not (is_large_enough and value < _LARGEST) or self.type(value) != value:
            kind = "positive number" if self.type is float else "positive whole number"
            kind = "number, at least 0" if self.may_be_zero else kind
            raise UserError(
                f"{self.csv_path}, line {line}: {self.name}={cell[:40]} is not a {kind}; leave the cell empty if it is "
                "not known"
            )
        return self.type(value)


def _with_captions(rows: list[VideoRow], csv_path: str | Path, drop: bool) -> list[VideoRow]:
    without = [row.line for row in rows if not row.has_caption]
    if not without:
        return rows
    logger.warning(
        "%s: %d of %d rows have no caption (it is empty or a word such as NaN; the first is line %d); they are %s",
        csv_path,
        len(without),
        len(rows),
        without[0],
        "left out" if drop else "kept",
    )
    kept = [row for row in rows if row.has_caption] if drop else rows
    if not kept:
        raise UserError(f"{csv_path} has no row with a caption")
    return kept


# --- rows ------------------------------------------------------------------------------------------------------------


def open_rows(csv_path: str | Path, columns: Sequence[str] = ()) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header, which is checked, and the rows as they are read, each with its line number and stripped cells.

    Raises:
        UserError: as for `read_table`; for a row that is wrong, once that is reached.
    """
    if not Path(csv_path).is_file():
        raise UserError(f"csv_path={csv_path} is not a file; give a CSV with a header row")
    records = _records(csv_path)
    _, header = next(records, (0, []))
    if not any(header):
        raise UserError(f"{csv_path} is empty; give a CSV with a header row")
    named = _shown(header)
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise UserError(f'{csv_path} has the column "{_shown(twice[:1])}" more than once ({named}); rename one of them')
    for column in columns:
        if column not in header:
            raise UserError(f'{csv_path} has no column "{column}"; it has: {named}')
    rows = _of_equal_length(csv_path, header, records)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{csv_path} has no rows below its header")
    return header, itertools.chain([first], rows)


def _shown(names: Sequence[str]) -> str:
    """Names of columns for a message: the beginning, without characters that a terminal would obey."""
    text = "".join(char if char.isprintable() else "?" for char in ", ".join(names))
    return text if len(text) <= 200 else text[:200] + "..."


def _of_equal_length(
    csv_path: str | Path, header: list[str], records: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    width = len(header)
    for line, row in records:
        if len(row) != width:
            if len(row) <= 1 and not any(row):
                continue
            counts = f"{len(row)} cell{'s' if len(row) > 1 else ''}, but the header has {width} ({_shown(header)})"
            raise UserError(f"{csv_path}, line {line} has {counts}; {HOW_TO_QUOTE}")
        yield line, row


def _records(csv_path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and stripped cells of each row, the header being the first; empty lines are left out."""
    lines = lines_of(csv_path)
    blank, first = 0, ""
    for first in lines:
        if first.strip():
            break
        blank += 1
    reader = csv.reader(
        itertools.chain([first], lines), delimiter=_separator(first), skipinitialspace=True, strict=True
    )
    line = blank + 1
    try:
        while True:
            records = []
            with _limited_cells():
                for row in itertools.islice(reader, ROWS_AT_ONCE):
                    records.append((line, list(map(str.strip, row))))
                    line = blank + reader.line_num + 1
            if not records:
                return
            yield from records
    except csv.Error as error:
        last = blank + reader.line_num
        where = f"line {line}" if line == last else f"lines {line} to {last}"
        raise UserError(f"{csv_path}, {where}: {_in_words(error)}; {HOW_TO_QUOTE}") from error


@contextlib.contextmanager
def _limited_cells() -> Iterator[None]:
    """The csv module has one limit for the whole process, which other packages raise."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _separator(header: str) -> str:
    """The first of `SEPARATORS` that divides the header; so a comma wherever there is one."""
    for separator in SEPARATORS:
        # a header that cannot be read is for the reader of rows to refuse
        with contextlib.suppress(csv.Error):
            if len(next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])) > 1:
                return separator
    return SEPARATORS[0]


def _in_words(error: csv.Error) -> str:
    reason = str(error)
    if "unexpected end" in reason:
        return "a cell begins with a quote that is never closed"
    if "field limit" in reason:
        return f"a cell is longer than {LONGEST_CELL} characters, so its quote is most likely not closed"
    if "expected after" in reason:
        return "there is text behind the closing quote of a cell"
    return reason
