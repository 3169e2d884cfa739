"""One command takes a folder with a film of twelve scenes and a broken file to a table that trains."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from cached_world import arguments, write_cached_world

from opensora.cli import enter
from opensora.toy.endpoint import right, serving
from opensora.toy.film import BARS, SCENES, SHOWN_AGAIN, TEXTS, make_film
from opensora.toy.tiny_t5 import write_tiny_t5

PIPELINE = Path(__file__).parents[2] / "configs/data/films_to_table.yaml"
KEPT = [number for number in range(SCENES) if number not in (*TEXTS, BARS, SHOWN_AGAIN)]
WIDTHS = '{"hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": 64}'


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The film and the folder that the published pipeline has made of it and of a broken one."""
    for package in ("scenedetect", "rapidocr", "onnxruntime"):
        pytest.importorskip(package)
    root = tmp_path_factory.mktemp("films")
    film = make_film(root / "films" / "film.mp4", seconds=30)
    (root / "films" / "broken.mp4").write_bytes(b"this is not a film")
    with pytest.MonkeyPatch.context() as patch, serving() as service:
        patch.setenv("no_proxy", "127.0.0.1")
        settings = [f"caption.endpoint={service.address}", "caption.model=small", "cut.min_seconds=1"]
        settings += [f"{verb}.workers=0" for verb in ("index", "scenes", "cut", "score")]
        where = ["--video_folder", str(root / "films"), "--folder", str(root / "prepared")]
        enter("data run", ["--pipeline", str(PIPELINE), *where, "--set", *settings])
    return film, root / "prepared"


def test_every_scene_is_found_to_the_frame(prepared):
    film, folder = prepared
    assert [
        (int(row["start_frame"]), int(row["end_frame"])) for row in rows_of(folder / "03_scenes.csv")
    ] == film.bounds


def test_the_broken_file_and_text_bars_and_the_copy_are_left_out_and_nothing_else(prepared):
    _, folder = prepared
    (broken,) = rows_of(folder / "02_rejected.csv")
    assert broken["video"] == "broken.mp4" and broken["problem"].startswith("index: ")
    rejected = {int(row["scene"]): row for row in rows_of(folder / "07_rejected.csv")}
    assert {number for number, row in rejected.items() if int(row["ocr"])} == set(TEXTS)
    assert {number for number, row in rejected.items() if float(row["bars"]) > 0.05} == {BARS}
    assert {number for number, row in rejected.items() if row["duplicate_of"]} == {SHOWN_AGAIN}
    assert [int(row["scene"]) for row in rows_of(folder / "table.csv")] == KEPT


def test_captions_say_what_the_scenes_show(prepared):
    film, folder = prepared
    wrong = [row["caption"] for row in rows_of(folder / "table.csv") if not right(row, film.shown[int(row["scene"])])]
    assert wrong == []


def test_the_table_trains(prepared, tmp_path):
    write_cached_world(tmp_path)
    write_tiny_t5(tmp_path / "t5")
    folder = prepared[1]
    more = {
        "csv_path": folder / "table.csv",
        "video_folder": folder / "04_cut",
        "vae_latent_folder": "",
        "text_embed_folder": "",
        "t5_model_name_or_path": tmp_path / "t5",
        "denoiser": WIDTHS,
        "model_max_length": 16,
        "frame_stride": 1,
        "mode": 1,
        "train_steps": 2,
        "output_path": tmp_path / "run",
        "add_datetime": False,
    }
    enter("train", arguments(tmp_path, *(token for name, value in more.items() for token in (f"--{name}", str(value)))))
    losses = [float(line.split("\t")[1]) for line in (tmp_path / "run" / "result.log").read_text().splitlines()[1:]]
    assert len(losses) == 2 and np.isfinite(losses).all()
