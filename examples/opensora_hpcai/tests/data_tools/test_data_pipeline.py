"""``opensora data run``: verbs one after the other, and nothing that is done is done again."""

import csv

import numpy as np
import pytest

from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.config import RunDataConfig
from opensora.data_tools import index
from opensora.data_tools.run import read_steps, run


@pytest.fixture
def config(tmp_path):
    (tmp_path / "films").mkdir()
    for number in (1, 2):
        write_video(tmp_path / "films" / f"{number}.mp4", np.zeros((2 * number, 32, 32, 3), np.uint8), 8)
    (tmp_path / "films" / "3.mp4").write_bytes(b"no film")
    (tmp_path / "p.yaml").write_text("steps:\n- index: {workers: 0}\n- filter: {where: num_frames > 3}\n")
    return RunDataConfig(str(tmp_path / "p.yaml"), str(tmp_path / "films"), str(tmp_path / "out"))


def names(path):
    with open(path, newline="") as file:
        return [row["video"] for row in csv.DictReader(file)]


def test_steps_that_are_done_are_not_done_again_until_their_input_changes(config, tmp_path, monkeypatch):
    assert names(run(config)) == ["2.mp4"]
    looked = []
    measure = index.measure
    monkeypatch.setattr(index, "measure", lambda row, **rest: (looked.append(row["video"]), measure(row, **rest))[1])
    config.set = ["filter.where=num_frames > 1"]
    assert names(run(config)) == ["1.mp4", "2.mp4"] and looked == []
    (tmp_path / "films" / "3.mp4").unlink()
    run(config)
    assert looked == ["1.mp4", "2.mp4"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_state_costs_time_and_nothing_else(config, tmp_path, content):
    whole = run(config).read_bytes()
    (tmp_path / "out" / "pipeline.json").write_bytes(content)
    assert run(config).read_bytes() == whole


@pytest.mark.parametrize("content", ["", "[", "steps: []", "steps: [fly]", "steps: [{run: {}}]", "steps: [{index: 3}]"])
def test_what_is_no_pipeline_is_refused(config, tmp_path, content):
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(UserError, match=r"p\.yaml"):
        read_steps(config)


def test_a_setting_of_no_step_is_refused(config):
    config.set = ["caption.model=x"]
    with pytest.raises(UserError, match="set=caption.model=x is not STEP.NAME=VALUE"):
        read_steps(config)
