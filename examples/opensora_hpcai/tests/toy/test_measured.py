"""Measures of videos held against clips of the toy world that are damaged by known degrees."""

import json

import numpy as np
import pytest

from opensora.cli import open_door
from opensora.toy.damage import DAMAGES, original
from opensora.toy.measured import EXACT, MEASURES, exact, rank_correlation


@pytest.fixture(scope="module")
def clip():
    return original(0, 2, 9, 48)


@pytest.mark.parametrize("name", DAMAGES)
def test_no_degree_of_a_damage_changes_nothing_and_a_full_one_does(clip, name):
    same, damaged = (DAMAGES[name](clip, degree, np.random.default_rng(0)) for degree in (0.0, 1.0))
    assert np.abs(same.astype(int) - clip.frames).max() <= 1
    assert damaged.shape == clip.frames.shape and damaged.dtype == np.uint8
    assert np.abs(damaged.astype(int) - clip.frames).max() > 1


def test_every_damage_follows_its_seed(clip):
    for damage in DAMAGES.values():
        first, second = (damage(clip, 0.5, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["colour", "shape", "direction"])
def test_a_damage_of_what_the_caption_says_costs_one_label_in_three(name):
    moving = next(clip for clip in (original(0, at, 17, 64) for at in range(9)) if "still" not in clip.caption)
    damaged = DAMAGES[name](moving, 1.0, np.random.default_rng(0))
    assert exact(moving.frames, moving) == 1
    assert exact(damaged, moving) == pytest.approx(2 / 3)


def test_rank_correlation_is_that_of_ranks():
    assert rank_correlation([1, 5, 100], [0.1, 0.2, 0.3]) == pytest.approx(1)
    assert rank_correlation([np.inf, 2, 1], [1, 2, 3]) == pytest.approx(-1)
    assert rank_correlation([7, 7, 7], [1, 2, 3]) == 0
    # by hand: ranks 1.5, 1.5, 3, 4 and 1, 2, 4, 3
    assert rank_correlation([0, 0, 1, 2], [1, 2, 4, 3]) == pytest.approx(3.5 / np.sqrt(4.5 * 5))


def test_measures_are_held_against_damages(tmp_path, capsys):
    flags = {"clips": 3, "degrees": 3, "num_frames": 7, "image_size": 48, "json": tmp_path / "found.json"}
    found = open_door("measure-toy", [word for name, value in flags.items() for word in (f"--{name}", str(value))], "")
    printed = capsys.readouterr().out
    assert all(f"| {name} | " in printed for name in DAMAGES)
    assert found.exact[EXACT] == pytest.approx(1)
    assert found.exact.keys() == {*MEASURES, "fvd"}
    # what compares with the whole clip sees noise, and a still film is one that flickers less
    assert found.seen["noise"]["psnr"] == pytest.approx(1) and found.seen["noise"]["flicker"] == pytest.approx(1)
    assert found.seen["frozen"]["flicker"] < -0.9
    assert json.loads((tmp_path / "found.json").read_text())["seen"] == found.seen
