"""A film of toy scenes becomes clips with scores: scenes to the frame; text, bars and the duplicate are flagged."""

from __future__ import annotations

import numpy as np
import pytest

from mindone.data.video import count_frames, read_video
from mindone.errors import UserError
from opensora.cli import open_door
from opensora.data_tools.table import open_table, write_table
from opensora.toy.film import BARS, FIRST_SHOWN, SCENES, SHOWN_AGAIN, TEXTS, make_film

QUICK = ("blur", "bars", "motion", "flow", "phash", "aesthetic")
# Its triangle looks like a sign.
LIKE_SIGNS = 1


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    pytest.importorskip("scenedetect")
    folder = tmp_path_factory.mktemp("film")
    film = make_film(folder / "films" / "film.mp4", seconds=12 * 1.25)
    (folder / "films" / "broken.mp4").write_bytes(b"this is not a film")
    names = {name: str(folder / f"{name}.csv") for name in ("films", "scenes", "clips", "scored", "marked")}
    rows = [{"video": "film.mp4"}, {"video": "broken.mp4"}]
    write_table(names["films"], ["video"], rows, frozenset())
    films, clips = str(folder / "films"), str(folder / "clips")

    def door(name: str, table: str, output: str, *more: str) -> None:
        open_door(name, ["--table", names[table], "--output", names[output], *more], "opensora")

    door("data scenes", "films", "scenes", "--video_folder", films, "--min_frames", "4", "--workers", "0")
    door("data cut", "scenes", "clips", "--video_folder", films, "--output_folder", clips, "--workers", "0")
    door("data score", "clips", "scored", "--video_folder", clips, "--workers", "0", "--scores", *QUICK)
    door("data duplicates", "scored", "marked")
    found = list(open_table(names["marked"]))
    return film, folder, list(open_table(names["scenes"])), found


def test_all_scenes_are_found_to_the_frame(worked):
    film, _, scenes, _ = worked
    found = [(int(row["start_frame"]), int(row["end_frame"])) for row in scenes if not row["problem"]]
    assert found == film.bounds and len(found) == SCENES


def test_a_broken_film_stays_in_every_table_with_its_reason(worked):
    _, _, scenes, rows = worked
    for table in (scenes, rows):
        (broken,) = [row for row in table if row["video"] == "broken.mp4"]
        assert broken["problem"].startswith("scenes: ")


def test_clips_have_the_frames_of_their_scene_and_keep_their_source(worked):
    film, folder, _, rows = worked
    for row, (first, after) in zip(rows, film.bounds):
        clip = folder / "clips" / row["video"]
        assert count_frames(clip) == int(row["num_frames"]) == after - first
        assert row["source"] == "film.mp4" and float(row["source_start"]) == first / 8
        wanted = read_video(film.path, 1, first)[0].astype(int)
        assert np.abs(read_video(clip, 1)[0] - wanted).mean() < 3


def test_burnt_in_text_is_flagged_and_shapes_are_not(worked, tmp_path):
    pytest.importorskip("rapidocr")
    numbers = [LIKE_SIGNS, *TEXTS]
    clips = [worked[3][number] for number in numbers]
    table, output = str(tmp_path / "in.csv"), str(tmp_path / "out.csv")
    write_table(table, ["video"], [{"video": row["video"]} for row in clips], frozenset())
    given = ["--table", table, "--output", output, "--video_folder", str(worked[1] / "clips"), "--workers", "0"]
    open_door("data score", [*given, "--scores", "ocr"], "opensora")
    found = list(open_table(output))
    assert [(int(row["ocr"]), int(row["watermark"])) for row in found] == [(0, 0), (1, 1), (1, 1)]


def test_bars_are_flagged_where_they_are(worked):
    rows = worked[3][:SCENES]
    assert [number for number, row in enumerate(rows) if float(row["bars"]) > 0.05] == [BARS]
    assert (rows[BARS]["bar_top"], rows[BARS]["bar_bottom"], rows[BARS]["bar_left"]) == ("16", "16", "0")


def test_the_scene_shown_twice_is_flagged_and_no_other(worked):
    rows = worked[3][:SCENES]
    assert {n: row["duplicate_of"] for n, row in enumerate(rows) if row["duplicate_of"]} == {
        SHOWN_AGAIN: rows[FIRST_SHOWN]["video"]
    }


def test_scores_without_weights_are_left_out_and_the_others_are_there(worked):
    assert "aesthetic" not in worked[3][0] and float(worked[3][0]["flow"]) > 0


def test_when_no_score_can_be_measured_it_is_said(worked, tmp_path):
    table, output = str(worked[1] / "clips.csv"), str(tmp_path / "o.csv")
    with pytest.raises(UserError, match="no score"):
        open_door("data score", ["--table", table, "--output", output, "--scores", "match"], "opensora")
