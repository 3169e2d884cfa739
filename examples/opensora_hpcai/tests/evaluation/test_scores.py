"""Scores of videos that need no network, VBench's totals and the page of a comparison."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.cli import open_door
from opensora.evaluation.compare import paired_difference
from opensora.evaluation.temporal import colour_consistency, flickering, motion_strength
from opensora.evaluation.vbench import QUALITY, SEMANTIC, totals
from opensora.toy.world import clip


def test_flicker_is_one_minus_the_mean_difference_of_neighbours():
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[1] = 51
    assert flickering(frames) == pytest.approx(1 - 51 / 255)
    assert flickering(frames[[0, 0]]) == 1


def test_motion_is_that_of_a_moving_picture():
    rng = np.random.default_rng(0)
    picture = np.repeat(np.repeat(rng.integers(0, 255, (40, 60, 3), np.uint8), 8, 0), 8, 1)
    frames = np.stack([picture[:, 3 * step : 3 * step + 400] for step in range(4)])
    assert motion_strength(frames) == pytest.approx(3, rel=0.15)


def test_colours_that_change_are_less_consistent():
    frames = clip(0, 0).frames
    assert colour_consistency(frames) > 0.95 > colour_consistency(np.concatenate([frames, 255 - frames]))


def test_a_picture_has_no_motion():
    with pytest.raises(UserError, match="single frame"):
        flickering(np.zeros((1, 8, 8, 3), np.uint8))


def test_the_best_videos_have_a_vbench_total_of_one_and_the_worst_of_zero():
    both = {**QUALITY, **SEMANTIC}
    assert totals({name: high for name, (_, high) in both.items()})["total"] == pytest.approx(1)
    assert totals({name: low for name, (low, _) in both.items()})["total"] == pytest.approx(0)


def test_dynamic_degree_counts_half_and_quality_four_times():
    raw = {name: low for name, (low, _) in {**QUALITY, **SEMANTIC}.items()}
    scores = totals(raw | {"dynamic degree": 1.0})
    assert scores["quality"] == pytest.approx(0.5 / 6.5)
    assert scores["total"] == pytest.approx(0.8 * 0.5 / 6.5)


def test_without_all_dimensions_there_is_no_total(tmp_path, capsys):
    file = tmp_path / "x_eval_results.json"
    file.write_text(json.dumps({"subject_consistency": [0.95, []]}))
    scores = open_door("evaluate vbench", ["--results", str(file)], "opensora")
    assert "total" not in scores and "lacks" in capsys.readouterr().out


def test_videos_get_the_names_that_vbench_expects(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(4):
        write_video(tmp_path / "in" / f"{number}.mp4", clip(0, number, num_frames=2).frames, 8)
    (tmp_path / "list.txt").write_text("a cat\na dog\n")
    given = ["--prompts", str(tmp_path / "list.txt"), "--videos", str(tmp_path / "in")]
    open_door("evaluate vbench", [*given, "--samples", "2", "--output", str(tmp_path / "out")], "opensora")
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == ["a cat-0.mp4", "a cat-1.mp4", "a dog-0.mp4", "a dog-1.mp4"]
    assert written["a dog-0.mp4"] == (tmp_path / "in" / "2.mp4").read_bytes()
    with pytest.raises(UserError, match="need 6"):
        open_door("evaluate vbench", [*given, "--samples", "3", "--output", str(tmp_path / "no")], "opensora")
    assert not (tmp_path / "no").exists()


def test_a_steady_difference_is_decided_and_noise_is_not():
    rng = np.random.default_rng(3)
    first = rng.normal(0, 10, 30)
    steady = paired_difference(first, first + 1 + rng.normal(0, 0.1, 30))
    assert steady.decided and steady.low < steady.above < steady.high
    assert not paired_difference(first, first + rng.normal(0, 1, 30) * np.tile([1, -1], 15)).decided
    assert not paired_difference(first[:1], first[:1] + 5).decided


def test_the_page_of_a_comparison_holds_its_videos_and_is_the_same_again(tmp_path):
    for folder, shift in (("a", 0), ("b<i>", 5)):
        (tmp_path / folder).mkdir()
        for number in range(2):
            write_video(tmp_path / folder / f"{number}.mp4", clip(0, number + shift, num_frames=3).frames, 8)
    write_video(tmp_path / "a" / "alone.mp4", clip(0, 9, num_frames=3).frames, 8)
    page = tmp_path / "page.html"
    given = ["--folders", str(tmp_path / "a"), str(tmp_path / "b<i>"), "--output", str(page)]
    first = open_door("evaluate compare", given, "opensora")
    text = page.read_text()
    assert text.count("<video") == 4 and "b&lt;i&gt;" in text and "1 without partners" in text
    assert open_door("evaluate compare", given, "opensora") == first and page.read_text() == text


def test_features_of_two_sets_have_a_distance(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, shift in (("real", 0), ("generated", 2)):
        np.save(tmp_path / name, rng.normal(shift, 1, (500, 3)))
    given = ["--real", str(tmp_path / "real.npy"), "--generated", str(tmp_path / "generated.npy")]
    assert open_door("evaluate fvd", given, "opensora") == pytest.approx(12, rel=0.1)
    np.save(tmp_path / "real", np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not a .npy"):
        open_door("evaluate fvd", given, "opensora")
