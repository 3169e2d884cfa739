"""Tables of any columns, and work on their rows that loses nothing when it is killed."""

import csv
import importlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from mindone.errors import UserError
from opensora.data_tools.table import PROBLEM, Rows, Stop, open_table, process_rows, write_table

SLOW = Path(__file__).with_name("slow_verb.py")

CELLS = [
    {"name": "a,b", "text": 'says "no"', "id": "007", "score": "4.5", "count": "3"},
    {"name": "line\nbreak", "text": "carriage\rreturn", "id": "1e5", "score": "", "count": ""},
    {"name": "'single", "text": "", "id": "x", "score": "-0.25", "count": "-12"},
]
COLUMNS = list(CELLS[0])


@pytest.fixture
def slow(monkeypatch):
    """The module `slow_verb`, importable in worker processes too."""
    monkeypatch.syspath_prepend(str(SLOW.parent))
    return importlib.import_module("slow_verb")


@pytest.fixture
def table(tmp_path):
    def write(names):
        write_table(tmp_path / "in.csv", ["name", "other"], [{"name": name} for name in names], frozenset())
        return open_table(tmp_path / "in.csv")

    return write


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_every_cell_comes_back_as_it_was(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    assert write_table(path, COLUMNS, CELLS, frozenset()) == 3
    found = open_table(path)
    assert found.columns == COLUMNS and list(found) == CELLS and list(found) == CELLS


def test_a_parquet_column_is_one_of_numbers_if_all_its_cells_are(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "t.parquet", COLUMNS, CELLS, frozenset())
    kinds = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "t.parquet")}
    assert kinds == {"name": "string", "text": "string", "id": "string", "score": "double", "count": "int64"}
    write_table(tmp_path / "u.parquet", COLUMNS, CELLS, frozenset({"count"}))
    assert open_table(tmp_path / "u.parquet").texts == {"name", "text", "id", "count"}


def test_numbers_of_parquet_become_their_shortest_text(tmp_path):
    arrow = pytest.importorskip("pyarrow")

    arrow.parquet.write_table(arrow.table({"x": [0.1, None], "tags": [["a"], []]}), tmp_path / "t.parquet")
    assert list(open_table(tmp_path / "t.parquet")) == [{"x": "0.1", "tags": '["a"]'}, {"x": "", "tags": "[]"}]


def test_columns_without_a_name_are_kept(tmp_path):
    (tmp_path / "t.csv").write_text(",video,\n0,a.mp4,z\n")
    assert list(open_table(tmp_path / "t.csv")) == [{"column 1": "0", "video": "a.mp4", "column 3": "z"}]


@pytest.mark.parametrize("content", [b"", b"PAR1nonsense", b"PAR1"])
def test_a_damaged_parquet_file_is_refused_in_words(tmp_path, content):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.parquet is not a readable Parquet file"):
        open_table(tmp_path / "t.parquet")


def test_a_missing_column_or_ending_is_named(tmp_path, table):
    table(["a"])
    with pytest.raises(UserError, match='no column "video"; it has: name, other'):
        open_table(tmp_path / "in.csv", ["video"])
    with pytest.raises(UserError, match="let its name end with .csv or .parquet"):
        write_table(tmp_path / "out.txt", ["a"], [], frozenset())


def test_a_table_that_loses_all_rows_is_not_written(tmp_path, table):
    before = list(table(["a"]))
    with pytest.raises(UserError, match="no row is left"):
        write_table(tmp_path / "in.csv", ["name"], [], frozenset())
    assert list(open_table(tmp_path / "in.csv")) == before


# --- work on rows ----------------------------------------------------------------------------------------------------


def test_rows_keep_their_order_and_cells_and_errors_become_problems(tmp_path, table, slow):
    rows = table(["ccc", "fails", "a", "bb"])
    work = partial(slow.work, log=tmp_path / "log")
    tally = process_rows(rows, work, tmp_path / "out.csv", what="slow", adds=["length"])
    found = read(tmp_path / "out.csv")
    assert [row["name"] for row in found] == ["ccc", "fails", "a", "bb"]
    assert [row["length"] for row in found] == ["3", "", "1", "2"]
    assert [row[PROBLEM] for row in found] == ["", "slow: ValueError: no such thing", "", ""]
    assert str(tally) == "4 rows, 1 with a problem (4 worked on)"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "log", "out.csv"]


def test_a_worker_that_dies_costs_one_row(tmp_path, table, slow):
    names = ["a", "bb", "kills", "ccc", "dddd", "eeeee"]
    work = partial(slow.work, log=tmp_path / "log")
    process_rows(table(names), work, tmp_path / "out.csv", what="slow", adds=["length"], workers=1, at_once=2)
    found = read(tmp_path / "out.csv")
    assert [row["name"] for row in found] == names
    assert [row["length"] for row in found] == ["1", "2", "", "3", "4", "5"]
    assert found[2][PROBLEM].startswith("slow: the process that worked on it was killed")


def start(tmp_path, seconds, workers):
    arguments = [tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "log", seconds, workers]
    return subprocess.Popen([sys.executable, SLOW, *map(str, arguments)], stderr=subprocess.PIPE, text=True)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("workers", [0, 1])
def test_killed_and_started_again_it_gives_the_same_table_and_does_nothing_twice(tmp_path, table, workers):
    names = [f"row {number}" for number in range(12)]
    table(names)
    killed = start(tmp_path, 0.1, workers)
    while len(lines(tmp_path / "out.csv.journal")) < 4:
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "out.csv").exists()
    journal = lines(tmp_path / "out.csv.journal")
    done = len(journal) - 1
    (tmp_path / "log").unlink()
    assert start(tmp_path, 0, workers).wait() == 0
    assert [row["name"] for row in read(tmp_path / "out.csv")] == names
    assert all(row["length"] == str(len(row["name"])) for row in read(tmp_path / "out.csv"))
    assert done >= 3 and len(lines(tmp_path / "log")) == 12 - done


def stopped_before(rows, output, function=None, **settings):
    """Works on all rows but the last, whose work stops the verb."""
    last = list(rows)[-1]["name"]

    def stops(row):
        if row["name"] == last:
            raise Stop("the key is refused")
        return {"length": len(row["name"])}

    with pytest.raises(UserError, match="the key is refused"):
        process_rows(rows, stops, output, what="slow", adds=["length"], **settings)


def test_a_cut_off_last_line_of_the_journal_is_done_again(tmp_path, table, slow):
    rows = table(["a", "bb", "ccc", "stop"])
    stopped_before(rows, tmp_path / "out.csv")
    journal = tmp_path / "out.csv.journal"
    journal.write_bytes(journal.read_bytes()[:-5])
    process_rows(rows, partial(slow.work, log=tmp_path / "log"), tmp_path / "out.csv", what="slow", adds=["length"])
    assert lines(tmp_path / "log") == ["ccc", "stop"]
    assert [row["length"] for row in read(tmp_path / "out.csv")] == ["1", "2", "3", "4"]


def test_rows_may_be_added_and_moved_between_two_tries(tmp_path, table, slow):
    stopped_before(table(["a", "bb", "stop"]), tmp_path / "out.csv")
    rows = table(["new", "bb", "a"])
    tally = process_rows(
        rows, partial(slow.work, log=tmp_path / "log"), tmp_path / "out.csv", what="slow", adds=["length"]
    )
    assert lines(tmp_path / "log") == ["new"] and (tally.now, tally.before) == (1, 2)
    assert [(row["name"], row["length"]) for row in read(tmp_path / "out.csv")] == [
        ("new", "3"),
        ("bb", "2"),
        ("a", "1"),
    ]


def test_other_settings_begin_anew(tmp_path, table, slow):
    rows = table(["a", "stop"])
    stopped_before(rows, tmp_path / "out.csv", settings={"threshold": 1})
    work = partial(slow.work, log=tmp_path / "log")
    process_rows(rows, work, tmp_path / "out.csv", what="slow", adds=["length"], settings={"threshold": 2})
    assert lines(tmp_path / "log") == ["a", "stop"]


def test_rows_with_a_problem_are_passed_on_and_retried_by_the_verb_they_are_from(tmp_path):
    problems = ["index: broken", "slow: no answer", ""]
    rows = Rows.of(["name", PROBLEM], [{"name": str(i), PROBLEM: text} for i, text in enumerate(problems)])

    def work(row):
        return {"length": 1}

    process_rows(rows, work, tmp_path / "a.csv", what="slow", adds=["length"])
    assert [row["length"] for row in read(tmp_path / "a.csv")] == ["", "", "1"]
    process_rows(rows, work, tmp_path / "b.csv", what="slow", adds=["length"], retry=True)
    assert [(row["length"], row[PROBLEM]) for row in read(tmp_path / "b.csv")] == [
        ("", "index: broken"),
        ("1", ""),
        ("1", ""),
    ]


def test_a_row_may_become_several_but_none_is_lost(tmp_path, table):
    def parts(row):
        return [{"other": number} for number in range(int(row["name"]))]

    process_rows(table(["2", "0", "1"]), parts, tmp_path / "out.csv", what="cut")
    assert [(row["name"], row["other"]) for row in read(tmp_path / "out.csv")] == [
        ("2", "0"),
        ("2", "1"),
        ("0", ""),
        ("1", "0"),
    ]
    assert read(tmp_path / "out.csv")[2][PROBLEM] == "cut: nothing came of it"


def test_equal_rows_are_worked_on_once_and_all_are_there(tmp_path, table, slow):
    work = partial(slow.work, log=tmp_path / "log")
    process_rows(table(["a", "bb", "a"]), work, tmp_path / "out.csv", what="slow", adds=["length"], workers=0)
    assert lines(tmp_path / "log") == ["a", "bb"]
    assert [row["length"] for row in read(tmp_path / "out.csv")] == ["1", "2", "1"]


def test_a_batch_that_fails_is_tried_row_by_row(tmp_path, table):
    def lengths(rows):
        if any(row["name"] == "fails" for row in rows):
            raise ValueError("broken")
        return [{"other": len(rows)} for _ in rows]

    rows = table(["a", "b", "c", "fails"])
    process_rows(rows, lengths, tmp_path / "out.csv", what="score", at_once=2, in_batches=True)
    assert [row["other"] for row in read(tmp_path / "out.csv")] == ["2", "2", "1", ""]


def test_two_processes_do_not_work_on_one_output(tmp_path, table):
    rows = table(["a"])

    def again(row):
        process_rows(rows, again, tmp_path / "out.csv", what="slow")

    process_rows(rows, again, tmp_path / "out.csv", what="slow")
    assert "another process is at work on" in read(tmp_path / "out.csv")[0][PROBLEM]


def test_threads_work_at_the_same_time(tmp_path, table):
    import threading

    meeting = threading.Barrier(2, timeout=20)

    def meet(row):
        meeting.wait()
        return {"other": "met"}

    process_rows(table(["a", "b"]), meet, tmp_path / "out.csv", what="caption", workers=2, threads=True)
    assert [row["other"] for row in read(tmp_path / "out.csv")] == ["met", "met"]
