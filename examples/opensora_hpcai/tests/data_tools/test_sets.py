"""Tables from tables: filter, merge, sample, and what info says."""

import csv

import pytest

from mindone.errors import UserError
from opensora.cli import enter


def write(path, header, *rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def read(path):
    with open(path, newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


@pytest.fixture
def table(tmp_path):
    rows = [["a.mp4", "3", ""], ["b.mp4", "5", ""], ["c.mp4", "", "index: c.mp4 is empty"], ["d.mp4", "10", ""]]
    return write(tmp_path / "t.csv", ["video", "score", "problem"], *rows)


def test_filter_keeps_what_meets_the_condition_and_gives_the_rest_as_well(table, tmp_path, capsys):
    out, rest = str(tmp_path / "kept.csv"), str(tmp_path / "rest.csv")
    enter("data filter", ["--table", table, "--output", out, "--where", "score > 4", "--rejected", rest])
    assert [row[0] for row in read(out)] == ["video", "b.mp4", "d.mp4"]
    assert [row[0] for row in read(rest)] == ["video", "a.mp4", "c.mp4"]
    assert "2 rows kept, 2 rejected (1 of them lack a value for it)" in capsys.readouterr().out


def test_filter_may_replace_its_own_table(table, tmp_path):
    rest = str(tmp_path / "rest.csv")
    enter("data filter", ["--table", table, "--output", table, "--where", "score > 4", "--rejected", rest])
    assert [row[0] for row in read(table)] == ["video", "b.mp4", "d.mp4"]
    assert [row[0] for row in read(rest)] == ["video", "a.mp4", "c.mp4"]


def test_a_filter_that_leaves_nothing_writes_nothing(table, tmp_path, capsys):
    with pytest.raises(SystemExit):
        enter("data filter", ["--table", table, "--output", str(tmp_path / "out.csv"), "--where", "score > 40"])
    assert "none of the 4 rows" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("union", [("video", "x", "y"), ("a", "1", ""), ("b", "2", ""), ("c", "", "8")]),
        ("intersect", [("video", "x"), ("b", "2")]),
        ("subtract", [("video", "x"), ("a", "1")]),
        ("join", [("video", "x", "y"), ("a", "1", ""), ("b", "2", "7")]),
    ],
)
def test_merge_treats_tables_as_sets(tmp_path, how, expected):
    first = write(tmp_path / "1.csv", ["video", "x"], ["a", "1"], ["b", "2"], ["a", "3"])
    second = write(tmp_path / "2.csv", ["video", "y"], ["b", "7"], ["c", "8"])
    enter("data merge", ["--tables", first, second, "--how", how, "--output", str(tmp_path / "out.csv")])
    assert read(tmp_path / "out.csv") == expected


def test_merged_paths_can_start_from_the_folder_of_the_result(tmp_path):
    (tmp_path / "short").mkdir()
    (tmp_path / "long").mkdir()
    first = write(tmp_path / "short" / "1.csv", ["video"], ["a.mp4"])
    second = write(tmp_path / "long" / "2.csv", ["video"], ["a.mp4"])
    flags = ["--tables", first, second, "--relative", "True", "--output"]
    enter("data merge", [*flags, str(tmp_path / "out.csv")])
    assert read(tmp_path / "out.csv") == [("video",), ("short/a.mp4",), ("long/a.mp4",)]


def test_a_table_beside_the_result_s_folder_has_no_path_in_it(tmp_path, capsys):
    (tmp_path / "short").mkdir()
    table = write(tmp_path / "1.csv", ["video"], ["a.mp4"])
    with pytest.raises(SystemExit):
        enter("data merge", ["--tables", table, "--relative", "True", "--output", str(tmp_path / "short" / "out.csv")])
    assert "does not lie below" in capsys.readouterr().err


def sampled(table, tmp_path, *flags):
    enter("data sample", ["--table", table, "--output", str(tmp_path / "out.csv"), *flags])
    return [row[0][0] for row in read(tmp_path / "out.csv")[1:]]


def test_sample_chooses_sorts_and_shuffles_and_repeats_itself(table, tmp_path):
    some = sampled(table, tmp_path, "--count", "2", "--seed", "3")
    assert len(some) == 2 and some == sorted(some)
    assert some == sampled(table, tmp_path, "--fraction", "0.5", "--seed", "3")
    assert sampled(table, tmp_path, "--count", "3", "--choose", "first") == list("abc")
    assert sampled(table, tmp_path, "--sort", "score", "--descending", "True") == list("dbac")
    assert sampled(table, tmp_path, "--sort", "score", "--count", "2", "--choose", "first") == list("ab")
    assert sorted(sampled(table, tmp_path, "--shuffle", "True")) == list("abcd")


def test_shards_hold_every_row_once(table, tmp_path):
    enter("data sample", ["--table", table, "--output", str(tmp_path / "out.csv"), "--shards", "3"])
    parts = [read(tmp_path / f"out-0000{number}-of-00003.csv")[1:] for number in range(3)]
    assert [row[0][0] for part in parts for row in part] == list("abcd") and all(parts)


def test_info_tells_of_columns_and_problems(table, capsys):
    enter("data info", ["--table", table])
    out = capsys.readouterr().out
    assert "4 rows" in out and "75.0% filled  3 to 10, quartiles 4 5 7.5, mean 6" in out
    assert "1 rows have a problem:\n         1  index: c.mp4 is empty" in out


def test_a_column_that_is_not_there_is_named(table, tmp_path):
    from opensora.config import SampleConfig
    from opensora.data_tools.sets import sample

    with pytest.raises(UserError, match='no column "size"'):
        sample(SampleConfig(table=table, output=str(tmp_path / "o.csv"), sort="size"))
