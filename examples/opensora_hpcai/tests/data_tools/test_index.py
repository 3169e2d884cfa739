"""``opensora data index``: what is in folders and lists, and why some of it cannot be used."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindone.data.write import write_video
from opensora.cli import enter
from opensora.data_tools.listing import words_of


def frames(count=3, height=32, width=64):
    return np.full((count, height, width, 3), 90, np.uint8)


def film(path, count=3, **size):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames(count, **size), 8)
    return path


def index(tmp_path, *inputs, **settings):
    flags = [flag for name, value in settings.items() for flag in (f"--{name}", str(value))]
    out = tmp_path / "table.csv"
    enter("data index", ["--inputs", *map(str, inputs), "--output", str(out), "--workers", "0", *flags])
    with open(out, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "films"


@pytest.mark.parametrize("probe", ["header", "frame", "all"])
def test_a_folder_becomes_a_table(tmp_path, folder, probe):
    film(folder / "b" / "second.mp4", 5)
    film(folder / "first.mkv", 4)
    (folder / "first.txt").write_text("a gray\nroom")
    Image.new("RGB", (40, 30)).save(folder / "picture.png")
    (folder / "notes.md").write_text("no video")
    first, picture, second = index(tmp_path, folder, probe=probe)
    assert first == {
        "video": "first.mkv",
        "caption": "a gray room",
        "num_frames": "4",
        "height": "32",
        "width": "64",
        "fps": "8.0",
        "duration": "0.5",
        "problem": "",
    }
    assert (picture["video"], picture["num_frames"], picture["height"], picture["width"]) == (
        "picture.png",
        "1",
        "30",
        "40",
    )
    assert (second["video"], second["num_frames"], second["duration"]) == ("b/second.mp4", "5", "0.625")


def faulty(folder):
    """Thirty files that cannot be used, of ten kinds."""
    folder.mkdir()
    whole = film(folder / "whole.mp4", 20).read_bytes()
    contents = {
        "empty": b"",
        "text": b"this is no film",
        "zeros": bytes(5000),
        "half": whole[: len(whole) // 2],
        "start": whole[:40],
        "page": b"<html><body>404 not found</body></html>",
        "zip": b"PK\x03\x04" + bytes(100),
        "list": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n",
        "script": b"#!/bin/sh\nexit 1\n",
    }
    for name, content in contents.items():
        for ending in ("mp4", "avi", "jpg"):
            (folder / f"{name}.{ending}").write_bytes(content)
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (folder / "gone.mp4").symlink_to(folder / "not there.mp4")
    (folder / "line\nbreak.mp4").write_bytes(whole)
    (folder / "whole.mp4").unlink()
    film(folder / "zz good.mp4")


@pytest.mark.parametrize("workers", [0, 2])
def test_thirty_faulty_files_end_in_rows_with_reasons(tmp_path, folder, workers):
    faulty(folder)
    *bad, good = index(tmp_path, folder, workers=workers)
    assert len(bad) == 30 and all(row["problem"].startswith("index: ") for row in bad)
    assert (good["video"], good["num_frames"], good["problem"]) == ("zz good.mp4", "3", "")
    reasons = {row["video"]: row["problem"] for row in bad}
    assert reasons["gone.mp4"].endswith("gone.mp4 is missing")
    assert "HEIC" in reasons["photo.heic"] or "heic" in reasons["photo.heic"]
    assert "line break" in reasons["line\nbreak.mp4"]


def test_a_picture_turned_by_its_camera_has_the_size_it_is_shown_at(tmp_path, folder):
    folder.mkdir()
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 30)).save(folder / "a.jpg", exif=exif)
    (row,) = index(tmp_path, folder)
    assert (row["height"], row["width"]) == ("40", "30")


def test_ucf101_has_captions_from_its_folders(tmp_path):
    film(tmp_path / "UCF-101" / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi")
    (row,) = index(tmp_path, tmp_path / "UCF-101")
    assert (row["video"], row["caption"]) == ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "apply eye makeup")
    assert [words_of(name) for name in ("YoYo", "TaiChi", "wall_pushups", "TVShow", "1")] == [
        "yo yo",
        "tai chi",
        "wall pushups",
        "tv show",
        "1",
    ]


def entries(tmp_path, folder):
    film(folder / "a.mp4")
    return [
        {"path": "a.mp4", "cap": ["one", "two, longer"], "id": "007", "tags": ["x"]},
        {"path": "../../etc/passwd", "cap": "no"},
        {"cap": "nothing"},
        "a.mp4",
        7,
    ]


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_list_may_have_several_captions_and_loses_no_entry(tmp_path, folder, ending):
    listed = entries(tmp_path, folder)
    text = json.dumps(listed) if ending == "json" else "\n".join(map(json.dumps, listed))
    (folder / f"list.{ending}").write_text(text)
    rows = index(tmp_path, folder / f"list.{ending}")
    assert [(row["caption"], row["num_frames"]) for row in rows] == [
        ("one", "3"),
        ("two, longer", "3"),
        ("no", ""),
        ("", ""),
        ("", "3"),
        ("", ""),
    ]
    assert (rows[0]["id"], rows[0]["tags"]) == ("007", '["x"]')
    assert "leaves the folder" in rows[2]["problem"]
    assert "entry 3 of list" in rows[3]["problem"] and "names no video" in rows[3]["problem"]
    assert "entry 5 of list" in rows[5]["problem"]


def test_a_broken_line_of_a_list_costs_that_line(tmp_path, folder):
    film(folder / "a.mp4")
    (folder / "l.jsonl").write_text('{"video": "a.mp4"}\n{"video": \n{"video": "a.mp4", "caption": "b"}\n')
    rows = index(tmp_path, folder / "l.jsonl")
    assert [bool(row["problem"]) for row in rows] == [False, True, False]


@pytest.mark.parametrize(("choice", "expected"), [("first", ["one"]), ("longest", ["two, longer"])])
def test_one_caption_can_be_chosen(tmp_path, folder, choice, expected):
    (folder.mkdir(), (folder / "l.json").write_text(json.dumps(entries(tmp_path, folder)[:1])))
    assert [row["caption"] for row in index(tmp_path, folder / "l.json", captions=choice)] == expected


def test_annotations_of_msrvtt_are_read(tmp_path, folder):
    film(folder / "TrainValVideo" / "video0.mp4")
    notes = {
        "videos": [{"video_id": "video0", "category": 9, "split": "train", "url": "x"}],
        "sentences": [{"video_id": "video0", "caption": text, "sen_id": 1} for text in ("a car", "a red car")],
    }
    (tmp_path / "train_val_videodatainfo.json").write_text(json.dumps(notes))
    rows = index(tmp_path, tmp_path / "train_val_videodatainfo.json", video_folder=folder / "TrainValVideo")
    assert [(row["video"], row["caption"], row["category"], row["split"]) for row in rows] == [
        ("video0.mp4", "a car", "9", "train"),
        ("video0.mp4", "a red car", "9", "train"),
    ]


@pytest.mark.parametrize("content", ["", "{", "3", '"text"'])
def test_what_is_no_list_is_refused(tmp_path, content, capsys):
    (tmp_path / "l.json").write_text(content)
    with pytest.raises(SystemExit):
        index(tmp_path, tmp_path / "l.json")
    assert "l.json is not JSON" in capsys.readouterr().err
    assert not Path(tmp_path / "table.csv").exists()
