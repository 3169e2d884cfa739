"""What every verb stands on: tables of any columns, and work on their rows that survives being killed.

A table is a CSV or Parquet file; a row is a ``dict[str, str]`` by column, '' for an empty cell (`files`):

    rows = open_table("films.csv", columns=["video"])     # rows.columns; iterate as often as needed
    write_table("out.parquet", columns, rows, rows.texts)

The column ``problem`` says why a row cannot be used. `process_rows` calls a function for every row without a problem
and writes the rows with what it gave, in the order of the table:

    def measure(row: Row, folder: str) -> dict[str, Cell]:        # in a module: worker processes import it
        return {"brightness": ...}                                # new or changed cells; a list of them: several rows

    tally = process_rows(rows, partial(measure, folder=folder), output, what="score", adds=["brightness"],
                         settings={"folder": folder}, workers=2)

- A `UserError` (or any other exception) of the function becomes the row's problem: ``score: REASON``. A worker process
  that is killed or crashes costs the one row that does it, which gets a problem. `Stop` ends the whole verb. After
  `Transient` the row is tried again if the verb is started again before its table is written.
- Finished rows are kept at once in ``OUTPUT.journal``. Killed and started again with the same `settings`, a verb does
  only what is left and writes the same table; then the journal vanishes. Rows are told by their content, so rows may be
  added to the table meanwhile, and equal rows are worked on once.
- Rows that have a problem are passed on as they are; ``retry`` tries those again whose problem is this verb's own.
- ``workers`` processes (0: this process) or, with ``threads``, threads. ``at_once`` rows are handed over together;
  ``in_batches``: the function takes a list of rows and gives a list with a result for each (networks).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from mindone.errors import UserError
from mindone.progress import progress_bar
from opensora.data_tools.files import (
    PROBLEM,
    Cell,
    Row,
    Rows,
    is_number,
    open_table,
    require_table_name,
    to_text,
    write_table,
)
from opensora.data_tools.journal import TRANSIENT, Journal
from opensora.data_tools.pool import Crashed, Inline, Processes, Threads

__all__ = [
    "PROBLEM",
    "Cell",
    "Row",
    "Rows",
    "Stop",
    "Tally",
    "Transient",
    "is_number",
    "open_table",
    "process_rows",
    "require_table_name",
    "to_text",
    "write_table",
]

logger = logging.getLogger(__name__)

Result = Mapping[str, Cell] | Sequence[Mapping[str, Cell]]
Function = Callable[[Row], Result] | Callable[[list[Row]], Sequence[Result]]

REPORTED_SINGLY = 3


class Transient(UserError):
    """A failure that another try may not have: a problem of the row, but done again when the verb is started again."""


class Stop(UserError):
    """An error that no other row would be spared, such as a refused key: the verb ends, and what is done is kept."""


@dataclass(frozen=True)
class Tally:
    """What a verb did: rows of its output, how many of them have a problem, rows worked on now and before."""

    rows: int
    problems: int
    now: int
    before: int

    def __str__(self) -> str:
        earlier = f", {self.before} done before" if self.before else ""
        return f"{self.rows} rows, {self.problems} with a problem ({self.now} worked on{earlier})"


def process_rows(
    rows: Rows,
    function: Function,
    output: str | Path,
    *,
    what: str,
    adds: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    workers: int = 0,
    threads: bool = False,
    at_once: int = 1,
    in_batches: bool = False,
    skip: Callable[[Row], bool] | None = None,
    retry: bool = False,
) -> Tally:
    """Works on the rows of a table, as the module says, and writes the table ``output``.

    Args:
        what: the verb's name.
        adds: columns that the function may give and the table need not have.
        settings: whatever else the results depend on; with other ones a journal is of no use and begins anew.
        workers: processes or threads; 0: this process does it.
        at_once: rows that are handed over together.
        in_batches: the function takes a list of up to ``at_once`` rows.
        skip: rows that are passed on as they are, such as those that have a caption already.
        retry: also rows whose problem is from this verb.
    Raises:
        UserError: the table cannot be read or the output not written, or another process is at work on it.
        Stop: the function said so.
    """
    require_table_name(output)
    columns = list(dict.fromkeys([*rows.columns, *adds, PROBLEM]))
    label = hashlib.sha256(json.dumps([what, sorted(adds), settings], sort_keys=True, default=str).encode()).hexdigest()
    with Journal(f"{output}.journal", label) as journal:
        plan = _Plan(rows, what, skip, retry)
        total, left = plan.count(journal)
        before = total - left
        kind = Inline if workers == 0 else Threads if threads else Processes
        work = partial(_apply, function, in_batches, what)
        with kind(work, workers) as pool, progress_bar(what, total=left) as bar:
            for keys, results in pool.run(_groups(plan.left(journal), at_once)):
                _record(journal, keys, results, what)
                bar.update(len(keys))
        tally = _finish(plan, journal, output, columns, Tally(0, 0, left, before))
        journal.discard()
    return tally


# --- which rows ------------------------------------------------------------------------------------------------------


class _Plan:
    """Which rows of a table are worked on; says so of a row once, and keeps its key."""

    def __init__(self, rows: Rows, what: str, skip: Callable[[Row], bool] | None, retry: bool):
        self.rows, self.what, self._skip, self._retry = rows, what, skip, retry
        shared: dict[str, str] = {}
        self._keys = [shared.setdefault(key, key) if (key := self._key(row)) else None for row in rows]
        self._different = list(shared)

    def _key(self, row: Row) -> str | None:
        problem = row.get(PROBLEM)
        if problem and not (self._retry and problem.startswith(f"{self.what}: ")) or self._skip and self._skip(row):
            return None
        return key_of(row)

    def __iter__(self) -> Iterator[tuple[str | None, Row]]:
        """Each row, with the key of its content, or None if it is passed on as it is."""
        for key, row in zip(self._keys, self.rows, strict=True):
            yield key, row | {PROBLEM: ""} if key is not None and row.get(PROBLEM) else row

    def count(self, journal: Journal) -> tuple[int, int]:
        """How many different rows are to be worked on, and how many of them are not in the journal yet."""
        return len(self._different), sum(key not in journal for key in self._different)

    def left(self, journal: Journal) -> Iterator[tuple[str, Row]]:
        """The rows that the journal does not have, each content once."""
        left = {key for key in self._different if key not in journal}
        for key, row in self:
            if key in left:
                left.remove(key)
                yield key, row


def key_of(row: Row) -> str:
    """What tells a row from all others: a digest of its content, which has no NUL (see `to_text`)."""
    content = "\0".join((*row, *row.values()))
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=15).hexdigest()


def _groups(items: Iterator[tuple[str, Row]], size: int) -> Iterator[tuple[list[str], list[Row]]]:
    while some := list(islice(items, size)):
        keys, rows = zip(*some)
        yield list(keys), list(rows)


# --- the work --------------------------------------------------------------------------------------------------------


def _apply(function: Function, in_batches: bool, what: str, rows: list[Row]) -> list[list[Row]]:
    """The cells that the function gives to each row; runs in a worker."""
    if not in_batches:
        return [_attempt(function, row, what) for row in rows]
    try:
        results = function(rows)
        if len(results) != len(rows):
            raise ValueError(f"{len(results)} results for {len(rows)} rows")
        return [_cells(result, what) for result in results]
    except Stop:
        raise
    except Exception as error:
        if len(rows) == 1:
            mark = {TRANSIENT: "1"} if isinstance(error, Transient) else {}
            return [[{PROBLEM: _problem(what, error)} | mark]]
        # one row may have spoiled it for the others
        return [_apply(function, True, what, [row])[0] for row in rows]


def _attempt(function: Function, row: Row, what: str) -> list[Row]:
    try:
        return _cells(function(row), what)
    except Stop:
        raise
    except Transient as error:
        return [{PROBLEM: _problem(what, error), TRANSIENT: "1"}]
    except Exception as error:
        return [{PROBLEM: _problem(what, error)}]


def _cells(result: Result, what: str) -> list[Row]:
    several = [result] if isinstance(result, Mapping) else result
    found = [{name: to_text(cell) for name, cell in cells.items()} for cells in several]
    # a row may become several, but none is lost
    return found or [{PROBLEM: f"{what}: nothing came of it"}]


def _problem(what: str, error: Exception) -> str:
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return to_text(f"{what}: {kind}{' '.join(str(error).split())}")


def _record(journal: Journal, keys: list[str], results: list[list[Row]] | Crashed, what: str) -> None:
    if isinstance(results, Crashed):
        results = [[{PROBLEM: f"{what}: {results.reason}"}] for _ in keys]
    journal.add(zip(keys, results))


def _finish(plan: _Plan, journal: Journal, output: str | Path, columns: list[str], tally: Tally) -> Tally:
    """Writes the table from the journal, in the order of the rows, and counts."""
    reported = problems = 0

    def finished() -> Iterator[Row]:
        nonlocal reported, problems
        for key, row in plan:
            for cells in [{}] if key is None else journal[key]:
                cells.pop(TRANSIENT, None)
                unknown = cells.keys() - columns
                if unknown:
                    raise TypeError(f"{plan.what} gave columns that it did not announce: {', '.join(sorted(unknown))}")
                whole = row | cells
                if whole.get(PROBLEM):
                    problems += 1
                    if key is not None and reported < REPORTED_SINGLY:
                        reported += 1
                        logger.warning("%s", whole[PROBLEM])
                yield whole

    count = write_table(output, columns, finished(), plan.rows.texts)
    if problems > reported:
        logger.warning("%d rows of %s have a problem; its column says which", problems, output)
    return Tally(count, problems, tally.now, tally.before)
