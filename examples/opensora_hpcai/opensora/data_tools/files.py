"""Tables of any columns as CSV or Parquet files: rows are read one by one, and files appear whole or not at all.

A row is a dict from the names of the columns to texts; '' is an empty cell. What a CSV says stays as it is, character
for character, but for blanks around a cell. Of a Parquet file, numbers become the shortest text that gives them back;
on writing one, a column is one of numbers if all its cells are plain numbers and it was not a column of texts in the
file it came from.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mindone.checkpoint.atomic import atomic_write
from mindone.data import table as csv_table
from mindone.errors import UserError

Cell = str | int | float | None
Row = dict[str, str]

SUFFIXES = (".csv", ".parquet")
PROBLEM = "problem"
"""The column that says why a row cannot be used; empty if it can."""
ROWS_AT_ONCE = 1 << 15

_WHOLE = r"^-?(0|[1-9][0-9]{0,17})$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$|^-?(nan|inf)$"


@dataclass(frozen=True)
class Rows:
    """The rows of a table, read anew by every iteration, so that only one of them need be in memory.

    Attributes:
        columns: their names, in order.
        texts: columns that hold texts even where those look like numbers.
        name: of the table, for messages.
    """

    columns: list[str]
    make: Callable[[], Iterator[Row]]
    texts: frozenset[str] = frozenset()
    name: str = "the table"

    def __iter__(self) -> Iterator[Row]:
        return self.make()

    @staticmethod
    def of(columns: Sequence[str], rows: Sequence[Row], name: str = "the table") -> Rows:
        """Rows that are in memory already."""
        return Rows(list(columns), lambda: iter(rows), name=name)


def open_table(path: str | Path, columns: Sequence[str] = ()) -> Rows:
    """A table of a ``.csv`` or ``.parquet`` file.

    Args:
        columns: those that have to be there.
    Raises:
        UserError: as for `mindone.data.table.read_table`; of a wrong row, once that is reached.
    """
    rows = _open_parquet(path) if str(path).endswith(".parquet") else _open_csv(path)
    for column in columns:
        if column not in rows.columns:
            raise UserError(f'{path} has no column "{column}"; it has: {", ".join(rows.columns)}')
    return rows


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Row], texts: frozenset[str]) -> int:
    """Writes rows as they come, and returns how many there were; columns that a row lacks stay empty.

    Args:
        path: its ending says the format.
        texts: see `Rows`.
    Raises:
        UserError: another ending, the file cannot be written, or there is not a single row.
    """
    require_table_name(path)
    with atomic_write(path) as file:
        write = _write_parquet if str(path).endswith(".parquet") else _write_csv
        count = write(file, columns, rows, texts)
        if not count:
            raise UserError(f"no row is left for {path}; nothing was written")
    return count


def require_table_name(path: str | Path) -> None:
    """Raises a UserError for a file that is to be a table and ends otherwise; for Parquet also if that is missing."""
    if not str(path).endswith(SUFFIXES):
        raise UserError(f"{path} does not say how the table is written; let its name end with .csv or .parquet")
    if str(path).endswith(".parquet"):
        arrow_library()


def to_text(cell: Cell) -> str:
    """A cell as text that every table can hold: no NUL, no half characters, no blanks around it."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        if cell.isascii() and "\0" not in cell:
            return cell.strip()
        return cell.replace("\0", "").encode("utf-8", "backslashreplace").decode().strip()
    if hasattr(cell, "item"):
        cell = cell.item()
    return repr(cell)


# --- CSV -------------------------------------------------------------------------------------------------------------


def _open_csv(path: str | Path) -> Rows:
    header, _ = csv_table.open_rows(path)
    columns = [name or f"column {place}" for place, name in enumerate(header, start=1)]

    def read() -> Iterator[Row]:
        _, rows = csv_table.open_rows(path)
        return (dict(zip(columns, cells)) for _, cells in rows)

    return Rows(columns, read, name=str(path))


def _write_csv(file: io.BufferedIOBase, columns: Sequence[str], rows: Iterable[Row], texts: frozenset[str]) -> int:
    # Python before 3.13 leaves a \r without quotes unless it ends lines.
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")

    def write(cells: Sequence[str]) -> None:
        text.seek(0)
        text.truncate()
        writer.writerow(cells)
        file.write(text.getvalue()[:-2].encode() + b"\n")

    write(columns)
    count = 0
    for row in rows:
        write([row.get(name, "") for name in columns])
        count += 1
    return count


# --- Parquet ---------------------------------------------------------------------------------------------------------


def arrow_library(what: str = "Parquet tables", instead: str = ", or use .csv") -> ModuleType:
    """pyarrow, with its parts for Parquet and streams.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f'{what} need pyarrow; pip install "mindone[data]"{instead}') from error
    return pyarrow


def _open_parquet(path: str | Path) -> Rows:
    arrow = arrow_library()
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file; give a table that ends with .csv or .parquet")
    with _arrow_errors(path):
        schema = arrow.parquet.ParquetFile(path).schema_arrow
    if len(set(schema.names)) < len(schema.names):
        raise UserError(f"{path} has a column more than once ({', '.join(schema.names)}); rename one of them")
    for field in schema:
        if arrow.types.is_binary(field.type) or arrow.types.is_large_binary(field.type):
            raise UserError(f'{path}: the column "{field.name}" holds bytes, which are no cells of a table; remove it')
    texts = [field.name for field in schema if not _is_number(arrow, field.type)]

    def read() -> Iterator[Row]:
        with _arrow_errors(path), arrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                columns = [list(map(_arrow_text, column.to_pylist())) for column in batch.columns]
                for cells in zip(*columns):
                    yield dict(zip(schema.names, cells))

    return Rows(list(schema.names), read, frozenset(texts), str(path))


def _is_number(arrow: ModuleType, kind: object) -> bool:
    return arrow.types.is_integer(kind) or arrow.types.is_floating(kind)


def _arrow_text(value: object) -> str:
    """A value of a Parquet file as text; lists and records as JSON."""
    if isinstance(value, list | dict):
        return json.dumps(value, default=str)
    return to_text(value if value is None or isinstance(value, str | int | float) else str(value))


@contextlib.contextmanager
def _arrow_errors(path: str | Path) -> Iterator[None]:
    arrow = arrow_library()
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from error


def _write_parquet(file: io.BufferedIOBase, columns: Sequence[str], rows: Iterable[Row], texts: frozenset[str]) -> int:
    arrow = arrow_library()
    parts: list[list[object]] = [[] for _ in columns]
    some: list[Row] = []

    def pack() -> None:
        for name, part in zip(columns, parts):
            part.append(arrow.array([row.get(name, "") for row in some], arrow.string()))
        some.clear()

    count = 0
    for row in rows:
        count += 1
        some.append(row)
        if len(some) == ROWS_AT_ONCE:
            pack()
    pack()
    arrays = [
        _typed(arrow, arrow.chunked_array(part, arrow.string()), name in texts) for name, part in zip(columns, parts)
    ]
    arrow.parquet.write_table(arrow.table(arrays, list(columns)), file, row_group_size=ROWS_AT_ONCE)
    return count


def _typed(arrow: ModuleType, column: object, is_text: bool) -> object:
    """A column of texts as whole numbers or numbers, empty cells missing, if all its cells are such."""
    import pyarrow.compute as compute

    if is_text:
        return column
    filled = compute.if_else(compute.equal(column, ""), None, column)
    if filled.null_count == len(filled):
        return column
    for pattern, kind in ((_WHOLE, arrow.int64()), (_NUMBER, arrow.float64())):
        if compute.all(compute.match_substring_regex(filled, pattern)).as_py():
            return filled.cast(kind)
    return column


def is_number(text: str) -> bool:
    """Whether a cell is a plain number, not infinite, without leading zeros."""
    return bool(re.match(_NUMBER, text)) and text[-1:].isdigit()
