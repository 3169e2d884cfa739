"""Dissolves are found to the frame, and what moves or gets lighter is not taken for one."""

import cv2
import numpy as np
import pytest

from opensora.data_tools.dissolves import find_dissolves, thumbnail

LENGTH = 30


def picture(seed):
    """A picture (72, 96, 3) with the smoothness of photos."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    return cv2.resize(small, (96, 72), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def found(frames):
    noise = np.random.default_rng(0)
    noisy = [np.clip(frame + noise.normal(0, 3, frame.shape), 0, 255).astype(np.uint8) for frame in frames]
    return [each.middle for each in find_dissolves(np.stack([thumbnail(frame) for frame in noisy]), 24.0)]


@pytest.mark.parametrize("mixed", [4, 6, 10, 16, 24, 36])
def test_a_dissolve_is_found_at_its_middle(mixed):
    a, b, shares = picture(1), picture(2), np.linspace(0, 1, mixed + 2)[1:-1]
    frames = [a] * LENGTH + [(1 - share) * a + share * b for share in shares] + [b] * LENGTH
    assert found(frames) == [LENGTH + mixed // 2]


def test_two_dissolves_are_two():
    a, b, c = picture(1), picture(2), picture(3)
    mix = [[(1 - share) * x + share * y for share in np.linspace(0, 1, 10)[1:-1]] for x, y in ((a, b), (b, c))]
    assert found([a] * 20 + mix[0] + [b] * 20 + mix[1] + [c] * 20) == [24, 52]


def test_a_cut_and_a_change_of_light_and_a_camera_that_turns_are_none():
    a, b = picture(1), picture(2)
    assert found([a] * LENGTH + [b] * LENGTH) == []
    light = [a * 0.5] * LENGTH + [a * gain for gain in np.linspace(0.5, 1.0, 10)] + [a] * LENGTH
    assert found(light) == []
    wide = np.concatenate([picture(seed) for seed in range(4)], 1)
    for speed in (1, 4):
        moves = [wide[:, place : place + 96] for place in range(0, 280, speed)]
        assert found([moves[0]] * 20 + moves + [moves[-1]] * 20) == []
