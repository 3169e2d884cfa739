import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from opensora.outputs import free_stem, plain, write_clip, write_json


@dataclass
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    path: Path = Path("a/b")


def clip(frames):
    return np.random.default_rng(0).integers(0, 255, (frames, 16, 18, 3), np.uint8)


@pytest.mark.parametrize(
    ("frames", "save_format", "name"), [(3, "mp4", "x.mp4"), (3, "gif", "x.gif"), (1, "mp4", "x.png"), (3, "png", "x")]
)
def test_clips_are_written_in_the_asked_format_and_single_frames_as_pictures(tmp_path, frames, save_format, name):
    path = write_clip(tmp_path, "x", clip(frames), save_format, fps=8)
    assert path == tmp_path / name
    assert path.exists()
    if path.is_dir():
        assert len(list(path.glob("*.png"))) == frames


def test_a_stem_that_is_taken_by_any_file_gets_a_number(tmp_path):
    assert free_stem(tmp_path, "x") == "x"
    (tmp_path / "x.json").touch()
    assert free_stem(tmp_path, "x") == "x-2"
    (tmp_path / "x-2").mkdir()
    assert free_stem(tmp_path, "x") == "x-3"


def test_records_are_plain_json(tmp_path):
    record = {"inner": Inner(), "number": np.float32(0.5), "none": None, 3: True}
    write_json(tmp_path / "r.json", record)
    expected = {"inner": {"sizes": [1, 2], "path": "a/b"}, "number": 0.5, "none": None, "3": True}
    assert json.loads((tmp_path / "r.json").read_text()) == plain(record) == expected
