import csv

import numpy as np
import pytest

from mindone.data.video import read_video
from opensora.toy.world import clip


def test_make_toy_dataset_writes_ordinary_videos_and_their_table(tmp_path, tool):
    tool("make_toy_dataset")("--output", tmp_path / "toy", "--num_clips", "3", "--split", "unseen")
    with open(tmp_path / "toy" / "video_caption.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["caption"] for row in rows] == [clip(0, index, "unseen").caption for index in range(3)]
    frames = read_video(tmp_path / "toy" / rows[2]["video"])
    drawn = clip(0, 2, "unseen").frames
    assert frames.shape == drawn.shape == (17, 64, 64, 3)
    assert np.abs(frames.astype(float) - drawn).mean() < 4


def test_make_toy_dataset_leaves_a_full_folder_alone(tmp_path, capsys, tool):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(SystemExit) as left:
        tool("make_toy_dataset")("--output", tmp_path, "--num_clips", "1")
    assert left.value.code == 2 and "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    tool("make_toy_dataset")("--output", tmp_path, "--num_clips", "1", "--overwrite", "True")
    assert (tmp_path / "video_caption.csv").is_file()


@pytest.mark.parametrize("name", ["make_toy_dataset", "make_tiny_t5", "make_tiny_clip"])
def test_a_folder_has_to_be_named(name, capsys, tool):
    with pytest.raises(SystemExit) as left:
        tool(name)()
    assert left.value.code == 2 and "--output DIR" in capsys.readouterr().err
