import numpy as np
import pytest

from opensora.toy.measures import jump, kept


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


def test_frames_that_stay_are_kept_and_the_mean_of_them_counts():
    video = noise(6, 8, 8)
    given = video[2:4].copy()
    assert kept(video, given, range(2, 4)) == 100
    given[1] = np.clip(given[1].astype(int) + 10, 0, 255)
    alone = kept(video, given[1:], range(3, 4))
    assert 20 < alone < 30
    assert kept(video, given, range(2, 4)) == pytest.approx((100 + alone) / 2)
    assert kept(video, given, range(1, 3)) < 10


def test_a_video_that_ends_before_the_given_frames_keeps_nothing():
    assert kept(noise(3, 8, 8), noise(2, 8, 8), range(2, 4)) == 0


@pytest.mark.parametrize(("joins", "ratio"), [([3], 4.0), ([1], 0.25), ([1, 3], 4.0)])
def test_the_change_at_the_worst_join_is_compared_with_the_largest_elsewhere(joins, ratio):
    levels = np.array([0, 10, 20, 60, 70])
    video = np.broadcast_to(levels[:, None, None, None], (5, 4, 4, 3)).astype(np.uint8)
    assert jump(video, joins) == pytest.approx(ratio)


def test_a_still_video_that_jumps_at_its_join_has_a_large_ratio():
    video = np.zeros((4, 4, 4, 3), np.uint8)
    video[2:] = 50
    assert jump(video, [2]) > 1e6
    assert jump(video[:2], [1]) == 0
