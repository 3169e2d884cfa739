"""Length, size and rate of samples: from the table, or from the files, which are looked at once."""

import csv
import logging

import numpy as np
import pytest

from mindone.data import metadata
from mindone.data.metadata import Metadata, cache_file, probed
from mindone.data.table import read_video_table
from mindone.data.write import write_png, write_video


@pytest.fixture
def table(tmp_path):
    """A video, a picture, one that the table describes, one that is damaged and one that is missing."""
    write_video(tmp_path / "a.mp4", np.zeros((6, 16, 24, 3), np.uint8), fps=8)
    write_png(tmp_path / "b.png", np.zeros((1, 10, 12, 3), np.uint8))
    (tmp_path / "d.mp4").write_bytes(b"damaged")
    with open(tmp_path / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption", "num_frames", "height", "width", "fps"])
        writer.writerows([[name, "x", "", "", "", ""] for name in ("a.mp4", "b.png")])
        writer.writerow(["c.mp4", "x", 7, 30, 40, 12.5])
        writer.writerows([[name, "x", "", "", "", ""] for name in ("d.mp4", "e.mp4")])
    return tmp_path / "table.csv"


def numbers(found):
    return [list(column) for column in vars(found).values()]


EXPECTED = [[6, 1, 7, 0, 0], [16, 10, 30, 0, 0], [24, 12, 40, 0, 0], [8.0, 0.0, 12.5, 0.0, 0.0]]


def test_what_the_table_does_not_say_comes_from_the_files(table, caplog):
    caplog.set_level(logging.INFO)
    assert numbers(probed(read_video_table(table), table)) == EXPECTED
    assert "looking at length and size of 3 files" in caplog.text
    assert "d.mp4" in caplog.text
    assert "1 of 5 files are missing" in caplog.text


def test_files_are_looked_at_once(table, monkeypatch):
    rows = read_video_table(table)
    probed(rows, table)
    looked = []
    monkeypatch.setattr(metadata, "_probe", lambda row: looked.append(row.relative) or "bad")
    assert numbers(probed(rows, table)) == EXPECTED
    assert looked == ["d.mp4"]
    write_video(table.parent / "a.mp4", np.zeros((60, 16, 24, 3), np.uint8), fps=8)
    probed(rows, table)
    assert looked == ["d.mp4", "a.mp4", "d.mp4"]


def test_a_table_that_says_everything_opens_no_file(tmp_path):
    (tmp_path / "table.csv").write_text("video,caption,num_frames,height,width\na.mp4,x,5,8,9\nb.png,y,1,8,9\n")
    rows = read_video_table(tmp_path / "table.csv")
    assert numbers(probed(rows, tmp_path / "table.csv"))[:3] == [[5, 1], [8, 8], [9, 9]]
    assert not cache_file(tmp_path / "table.csv").exists()
    assert list(Metadata.of_rows(rows).lacking(with_fps=True)) == [0]


def test_a_damaged_cache_is_made_anew(table, caplog):
    cache_file(table).write_text("video\nnonsense,1\n")
    assert numbers(probed(read_video_table(table), table)) == EXPECTED
    assert "is made anew" in caplog.text
