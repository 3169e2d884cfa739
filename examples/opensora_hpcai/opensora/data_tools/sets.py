"""``opensora data filter``, ``merge`` and ``sample``: tables from tables, without opening a video."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from mindone import runtime
from mindone.errors import UserError
from opensora.config.data import FilterConfig, MergeConfig, SampleConfig
from opensora.data_tools.expressions import condition, number
from opensora.data_tools.files import Row, Rows, open_table, require_table_name, write_table

Key = tuple[str, ...]


def filter_table(config: FilterConfig) -> Counter[str]:
    """Writes the rows that meet the condition, and says how many; returns the counts.

    Raises:
        UserError: the condition cannot be read, or no row meets it.
    """
    rows = open_table(config.table)
    meets = condition(config.where, rows.columns)
    for path in filter(None, (config.output, config.rejected)):
        require_table_name(path)
    names = {True: "kept", False: "rejected", None: "undecided"}
    counts = Counter(names[meets(row)] for row in rows)
    if not counts["kept"]:
        raise UserError(
            f"none of the {counts.total()} rows of {config.table} meets '{config.where}' ({counts['undecided']} lack a "
            "value for it); nothing was written"
        )
    # the other table first: the first one may take the place of the table that is read
    if config.rejected and counts.total() == counts["kept"]:
        Path(config.rejected).unlink(missing_ok=True)
    elif config.rejected:
        write_table(config.rejected, rows.columns, (row for row in rows if not meets(row)), rows.texts)
    write_table(config.output, rows.columns, (row for row in rows if meets(row)), rows.texts)
    lacking = f" ({counts['undecided']} of them lack a value for it)" if counts["undecided"] else ""
    print(f"{config.output}: {counts['kept']} rows kept, {counts.total() - counts['kept']} rejected{lacking}")
    return counts


def merge(config: MergeConfig) -> int:
    """Writes the tables' rows as one table, and returns how many there are.

    Raises:
        UserError: a table lacks a column of ``on``, or no row is left; with ``relative``, a table lacks the column
            video or does not lie below the folder of ``output``.
    """
    on = config.on or ["video"]
    tables = [open_table(path, [*on, "video"] if config.relative else on) for path in config.tables]
    if config.relative:
        tables = [_below(table, path, config.output) for table, path in zip(tables, config.tables)]
    texts = frozenset().union(*(table.texts for table in tables))
    ways = {"union": _union, "intersect": _intersect, "subtract": _subtract, "join": _join}
    takes_all = config.how in ("union", "join")
    columns = dict.fromkeys(name for table in (tables if takes_all else tables[:1]) for name in table.columns)
    count = write_table(config.output, list(columns), _distinct(ways[config.how](tables, on), on), texts)
    print(f"{config.output}: {count} rows")
    return count


def _below(table: Rows, path: str, output: str) -> Rows:
    """The table with paths that start from the folder of ``output``."""
    folder, root = Path(path).resolve().parent, Path(output).resolve().parent
    if not folder.is_relative_to(root):
        raise UserError(f"{path} does not lie below {root}, the folder of output; write the result further up")
    prefix = folder.relative_to(root)
    return replace(table, make=lambda: ({**row, "video": (prefix / row["video"]).as_posix()} for row in table))


def _key(row: Row, on: Sequence[str]) -> Key:
    return tuple(row[name] for name in on)


def _distinct(rows: Iterator[Row], on: Sequence[str]) -> Iterator[Row]:
    """The first of rows that are equal in ``on``."""
    seen: set[Key] = set()
    for row in rows:
        key = _key(row, on)
        if key not in seen:
            seen.add(key)
            yield row


def _union(tables: Sequence[Rows], on: Sequence[str]) -> Iterator[Row]:
    for table in tables:
        yield from table


def _keys(table: Rows, on: Sequence[str]) -> set[Key]:
    return {_key(row, on) for row in table}


def _intersect(tables: Sequence[Rows], on: Sequence[str]) -> Iterator[Row]:
    others = [_keys(table, on) for table in tables[1:]]
    return (row for row in tables[0] if all(_key(row, on) in keys for keys in others))


def _subtract(tables: Sequence[Rows], on: Sequence[str]) -> Iterator[Row]:
    others: set[Key] = set().union(*(_keys(table, on) for table in tables[1:]))
    return (row for row in tables[0] if _key(row, on) not in others)


def _join(tables: Sequence[Rows], on: Sequence[str]) -> Iterator[Row]:
    known, more = set(tables[0].columns), []
    for table in tables[1:]:
        new = [name for name in table.columns if name not in known]
        known.update(new)
        found: dict[Key, Row] = {}
        for row in table:
            found.setdefault(_key(row, on), {name: row[name] for name in new})
        more.append(found)
    for row in tables[0]:
        for found in more:
            row = row | found.get(_key(row, on), {})
        yield row


# --- sample ----------------------------------------------------------------------------------------------------------


def sample(config: SampleConfig) -> list[Path]:
    """Writes the chosen rows, and returns the files.

    Raises:
        UserError: there is no such column, or there are fewer rows than files.
    """
    rows = open_table(config.table, [config.sort] if config.sort else [])
    total = sum(1 for _ in rows)
    count = min(total, config.count or (max(1, round(config.fraction * total)) if config.fraction else total))
    if count < config.shards:
        raise UserError(f"shards={config.shards} files cannot be made of {count} rows; use fewer")
    rng = runtime.stream(config.seed, "sample")
    chosen = _chosen(rows, total, count, config, rng)
    if config.sort:
        chosen = iter(_sorted(list(chosen), config.sort, config.descending)[:count])
    if config.shuffle:
        all_of_them = list(chosen)
        chosen = (all_of_them[place] for place in rng.permutation(count))
    files = _shards(config.output, config.shards)
    ends = np.linspace(0, count, config.shards + 1).round().astype(int)
    for file, length in zip(files, np.diff(ends)):
        write_table(file, rows.columns, islice(chosen, int(length)), rows.texts)
    print(f"{', '.join(map(str, files[:3]))}{', ...' if len(files) > 3 else ''}: {count} of {total} rows")
    return files


def _chosen(rows: Rows, total: int, count: int, config: SampleConfig, rng: np.random.Generator) -> Iterator[Row]:
    if count == total or (config.choose == "first" and config.sort):
        return iter(rows)
    if config.choose == "first":
        return islice(rows, count)
    places = set(rng.choice(total, count, replace=False).tolist())
    return (row for place, row in enumerate(rows) if place in places)


def _sorted(rows: list[Row], column: str, descending: bool) -> list[Row]:
    """By number where all cells are such, else by text; rows whose cell is empty come last, as they were."""
    filled, empty = [row for row in rows if row[column]], [row for row in rows if not row[column]]
    numbers = [number(row[column]) for row in filled]
    keys = [row[column] for row in filled] if None in numbers else numbers
    order = sorted(range(len(filled)), key=keys.__getitem__, reverse=descending)
    return [filled[place] for place in order] + empty


def _shards(output: str | Path, shards: int) -> list[Path]:
    require_table_name(output)
    if shards == 1:
        return [Path(output)]
    stem, ending = os.path.splitext(output)
    return [Path(f"{stem}-{number:05d}-of-{shards:05d}{ending}") for number in range(shards)]
