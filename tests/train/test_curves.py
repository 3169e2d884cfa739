import numpy as np
import pytest
from PIL import Image

from mindone.errors import UserError
from mindone.train.curves import draw_curves, read_curves, smoothed


def write_run(folder, sizes=("17x64x64",), header="step\tloss\tlr\tgrad_norm\ttrain_time(s)\tsize\n"):
    folder.mkdir()
    rows = [f"{i + 1}\t{1 / (i + 1)}\t0.001\t{2 + i % 3}\t{0.1 + i}\t{sizes[i % len(sizes)]}\n" for i in range(20)]
    (folder / "result.log").write_text(header + "".join(rows) + "21\t0.0")
    return folder


def test_whole_lines_of_a_log_and_its_validations_are_read(tmp_path):
    folder = write_run(tmp_path / "run", ("17x64x64", "1x64x64"))
    (folder / "validation.log").write_text("step\tsize\tsamples\tloss\n10\t17x64x64\t4\t0.5\n20\t17x64x64\t4\t0.25\n")
    curves = read_curves(folder)
    assert curves.step.tolist() == list(range(1, 21)) and curves.loss[1] == 0.5 and curves.size[1] == "1x64x64"
    steps, losses = curves.validation["17x64x64"]
    assert (steps.tolist(), losses.tolist()) == ([10, 20], [0.5, 0.25])


def test_logs_of_before_sizes_were_told_are_read(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.log").write_text("step\tloss\tlr\tgrad_norm\ttrain_time(s)\n1\t0.5\t0.1\t1.0\t0.2\n")
    assert read_curves(folder).size == []


def test_what_is_no_run_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="has no result.log; give the folder of a training run"):
        read_curves(tmp_path)
    (tmp_path / "result.log").write_text("step\tloss\n")
    with pytest.raises(UserError, match="has no updates yet"):
        read_curves(tmp_path)
    (tmp_path / "result.log").write_text("step\tloss\n1\tx\n")
    with pytest.raises(UserError, match="is not the log of a training run"):
        read_curves(tmp_path)


def test_a_curve_is_smoothed_by_the_mean_of_the_finite_values_before():
    found = smoothed(np.array([1.0, np.nan, 3.0, 5.0]), 2)
    np.testing.assert_allclose(found, [1, 1, 3, 4])


def test_the_picture_shows_several_runs_and_every_size(tmp_path):
    runs = [read_curves(write_run(tmp_path / name, ("17x64x64", "1x64x64"))) for name in ("one", "two")]
    path = draw_curves(runs, tmp_path / "curves.png")
    with Image.open(path) as image:
        assert image.format == "PNG" and image.size == (1200, 800)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r'pip install "mindone\[plot\]"'):
        draw_curves([read_curves(write_run(tmp_path / "run"))], tmp_path / "curves.png")
