"""The film of toy scenes and its truth, against which what ``opensora data run`` made of it is held."""

import csv

import pytest

from mindone.data.video import count_frames
from mindone.errors import UserError
from opensora.cli import open_door
from opensora.toy.endpoint import serving
from opensora.toy.film import BROKEN, FILM, FLAWS, SCENES, TRUTH

SECONDS = 24


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "films"
    open_door("toy-film", ["--output", str(folder), "--seconds", str(SECONDS)], "opensora")
    return folder


def truth_of(films):
    with open(films / TRUTH, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def tables(films):
    """The rows that a right pipeline writes, by table."""
    truth = truth_of(films)
    scores = {"ocr": 0, "bars": 0.0, "duplicate_of": ""}
    bad = {"text": {"ocr": 1}, "bars": {"bars": 0.25}, "duplicate": {"duplicate_of": "film_scene-1.mp4"}}
    return {
        "03_scenes": [{name: row[name] for name in ("start_frame", "end_frame")} for row in truth],
        "02_rejected": [{"video": BROKEN, "problem": "index: it is broken"}],
        "07_rejected": [{"scene": row["scene"], **scores, **bad[row["flaw"]]} for row in truth if row["flaw"]],
        "table": [{"scene": row["scene"], "caption": f"A {row['shows']}"} for row in truth if not row["flaw"]],
    }


def check(films, tables, folder):
    for name, rows in tables.items():
        write(folder / f"{name}.csv", rows)
    return open_door("toy-film", ["--output", str(films), "--prepared", str(folder)], "opensora")


def test_the_film_has_twelve_scenes_of_which_four_have_a_flaw(films):
    truth = truth_of(films)
    assert {int(row["scene"]): row["flaw"] for row in truth if row["flaw"]} == FLAWS
    assert len(truth) == SCENES and len({row["end_frame"] for row in truth}) == SCENES
    assert count_frames(films / FILM) == int(truth[-1]["end_frame"]) == SECONDS * 8
    assert (films / BROKEN).is_file()


def test_right_tables_pass(films, tables, tmp_path):
    assert check(films, tables, tmp_path) == []


def change(rows, place, **cells):
    rows[place] |= cells


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tables: change(tables["03_scenes"], 4, start_frame="1"), "scenes are"),
        (lambda tables: tables["03_scenes"].pop(), "scenes are"),
        (lambda tables: change(tables["02_rejected"], 0, video=FILM), "has to have broken.mp4 alone"),
        (lambda tables: change(tables["07_rejected"], 0, ocr=0), "rejected are"),
        (lambda tables: change(tables["07_rejected"], 1, ocr=1), "rejected are"),
        (lambda tables: tables["07_rejected"].pop(), "rejected are"),
        (lambda tables: tables["table"].pop(0), "the table has the scenes"),
        (lambda tables: change(tables["table"], 0, caption="a grey mouse"), "its caption is a grey mouse"),
    ],
)
def test_what_is_wrong_in_tables_is_named(films, tables, tmp_path, spoil, message):
    spoil(tables)
    with pytest.raises(UserError, match=message):
        check(films, tables, tmp_path)


@pytest.mark.parametrize("flag", ["--output", "--prepared"])
def test_a_folder_without_tables_is_refused(films, tmp_path, flag):
    folders = {"--output": str(films), "--prepared": str(films)} | {flag: str(tmp_path)}
    with pytest.raises(UserError, match="is missing"):
        open_door("toy-film", [word for pair in folders.items() for word in pair], "opensora")


def test_a_film_too_short_for_its_fades_is_refused(tmp_path):
    with pytest.raises(UserError, match="180 frames or more"):
        open_door("toy-film", ["--output", str(tmp_path), "--seconds", "20"], "opensora")


def test_a_port_that_is_taken_is_said_in_a_sentence():
    with serving() as server, pytest.raises(UserError, match="give another one with --port"):
        open_door("toy-captions", ["--port", str(server.server_port)], "opensora")
