"""``opensora data report``: one page that holds all it shows."""

import re

import numpy as np
import pytest

from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.cli import open_door
from opensora.data_tools.files import write_table
from opensora.data_tools.report import histogram, some_of

COLUMNS = ["video", "caption", "num_frames", "height", "width", "fps", "blur", "problem"]
BUCKETS = '{"144p": {51: [1.0, 2]}}'


@pytest.fixture
def folder(tmp_path):
    """Four clips of a table, one of which is gone, and a rejected one."""
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", np.full((3, 32, 32, 3), 60 * number, np.uint8), 8)
    shape = {"num_frames": "60", "height": "144", "width": "256", "fps": "24"}
    rows = [{"video": f"{n}.mp4", "caption": f"clip <{n}>", "blur": str(n), **shape} for n in (0, 1, 2, 9)]
    write_table(tmp_path / "kept.csv", COLUMNS, rows, frozenset())
    rejected = [{"video": "3.mp4", "blur": "77", "problem": "score: too dull"}]
    write_table(tmp_path / "rejected.csv", COLUMNS, rejected, frozenset())
    (tmp_path / "recipe.yaml").write_text(f"shape:\n  bucket_config: {BUCKETS}\nmodel:\n  model_version: v1.2\n")
    return tmp_path


def page(folder, *more):
    given = ["--table", str(folder / "kept.csv"), "--rejected", str(folder / "rejected.csv"), *more]
    given += ["--video_folder", str(folder), "--output", str(folder / "report.html")]
    return open_door("data report", given, "opensora").read_text()


def test_the_page_shows_numbers_clips_and_the_fit_of_a_recipe_and_loads_nothing(folder):
    text = page(folder, "--recipe", str(folder / "recipe.yaml"))
    assert "4 rows are kept, 1 are rejected" in text and "1 rows: score: too dull" in text
    assert re.search(r"<svg .*?</svg><figcaption>blur: median 1.5, 0 to 77<", text)
    assert text.count("data:image/jpeg;base64,") == 4 and text.count("cannot be read") == 1
    assert "clip &lt;2&gt;" in text and "clip <2>" not in text
    assert re.search(r"144p +51 +1 +4 +2 +2 +0", text)
    assert not re.search(r"""(src|href)=["'](?!data:)|<script|url\(""", text)


def test_a_recipe_without_buckets_is_refused_and_no_page_is_left(folder):
    (folder / "recipe.yaml").write_text("shape:\n  image_size: [64, 64]\n")
    with pytest.raises(UserError, match="no buckets"):
        page(folder, "--recipe", str(folder / "recipe.yaml"))
    assert not (folder / "report.html").exists()


def test_histograms_are_shares_over_one_range():
    (kept, rejected), low, high = histogram([np.array([0.0, 1.0]), np.array([4.0])])
    assert (low, high) == (0, 4) and kept.sum() == 1 and rejected[-1] == 1


def test_clips_are_drawn_evenly_and_keep_their_order():
    rows = [{"video": str(number)} for number in range(100)]
    drawn = [[int(row["video"]) for row in some_of(rows, 10, seed)] for seed in range(50)]
    assert all(each == sorted(set(each)) and len(each) == 10 for each in drawn)
    assert 40 < np.mean(drawn) < 60 and some_of(rows[:3], 10, 0) == rows[:3]
