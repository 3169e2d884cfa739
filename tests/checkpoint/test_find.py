import logging

import numpy as np
import pytest

from mindone.checkpoint import RunCheckpoints, find_model, read_tensors, save_safetensors
from mindone.checkpoint.find import _told


@pytest.fixture(autouse=True)
def told_again():
    """Every test hears what a path is taken for."""
    _told.cache_clear()


def model(value):
    def write(path):
        path.mkdir()
        (path / "config.json").write_text("{}")
        save_safetensors(path / "model.safetensors", {"w": np.full(2, value, np.float32)})

    return write


def run(folder, ema=True, result=None):
    """A run with the steps 200 and then 100 (begun anew), and a result."""
    checkpoints = RunCheckpoints(folder / "ckpt", keep_last=0)
    for step in (200, 100):
        writers = {"model": model(step)} | ({"ema": model(step + 1)} if ema else {})
        checkpoints.save(step, writers)
    if result is not None:
        model(result)(folder / "model")
    return folder


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("", 100),
        ("ckpt", 100),
        ("ckpt/step-00000200", 200),
        ("ckpt/step-00000200/model", 200),
        ("ckpt/step-00000200/model/model.safetensors", 200),
    ],
)
def test_runs_steps_folders_and_files_stand_for_a_model(tmp_path, place, value):
    path = run(tmp_path / "run", ema=False) / place
    assert read_tensors(path)["w"].tolist() == [value, value]
    assert find_model(find_model(path)) == find_model(path)


@pytest.mark.parametrize(("place", "value"), [("", 101), ("ckpt", 101), ("ckpt/step-00000200", 201)])
def test_averaged_weights_are_preferred_and_it_is_said(tmp_path, caplog, place, value):
    path = run(tmp_path / "run") / place
    with caplog.at_level(logging.INFO):
        assert read_tensors(path)["w"][0] == value
    assert f"{path}: taking {find_model(path)} (averaged weights; the trained ones are in" in caplog.text
    assert find_model(path).name == "ema"


def test_the_result_of_a_run_goes_before_its_checkpoints(tmp_path, caplog):
    path = run(tmp_path / "run", result=7)
    with caplog.at_level(logging.INFO):
        assert find_model(path) == path / "model"
        find_model(path)
    assert caplog.text.count("the result of the run") == 1
    assert find_model(path / "ckpt") == path / "ckpt" / "step-00000100" / "ema"


def test_an_incomplete_step_is_not_taken(tmp_path):
    path = run(tmp_path / "run")
    (path / "ckpt" / "step-00000100" / "ema" / "model.safetensors").write_bytes(b"")
    assert find_model(path).parent.name == "step-00000200"


def test_anything_else_stands_for_itself(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "file.txt"):
        assert find_model(path) == path
