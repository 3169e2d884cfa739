"""Tiles and their blending against whole runs of networks that know nothing of their surroundings."""

import numpy as np
import pytest

from mindone.nn.tiling import Tiles, run_tiled


def pooled(x, time=1):
    """Means of 2x2 pixels and ``time`` frames: a network whose tiles need no surroundings."""
    b, c, t, h, w = x.shape
    return x.reshape(b, c, t // time, time, h // 2, 2, w // 2, 2).mean((3, 5, 7))


def video(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("height,width", [(16, 16), (28, 20), (8, 30)])
def test_tiles_of_a_local_network_are_the_whole(height, width):
    x = video(1, 2, 3, height, width)
    seen = []

    def run(part):
        seen.append(part.shape[3:])
        return pooled(part)

    tiles = Tiles.overlapping(16, 8, 0.25)
    np.testing.assert_allclose(run_tiled(x, run, tiles), pooled(x), atol=1e-6)
    assert max(map(max, seen)) <= 16 and (len(seen) > 1) == (max(height, width) > 16)


def test_time_is_cut_as_well_and_a_causal_network_keeps_its_first_frame():
    x = video(1, 1, 18, 2, 2)
    plain = run_tiled(x, lambda part: pooled(part, 2), None, Tiles.overlapping(8, 4, 0.25))
    np.testing.assert_allclose(plain, pooled(x, 2), atol=1e-6)

    def causal(part):
        return np.concatenate([pooled(part[:, :, :1]), pooled(part[:, :, 1:], 2)], 2)

    x = video(1, 1, 21, 2, 2)
    tiled = run_tiled(x, causal, None, Tiles.overlapping(8, 4, 0.25, lead=True))
    np.testing.assert_allclose(tiled, causal(x), atol=1e-6)


def test_neighbours_fade_into_each_other():
    values = iter([0.0, 1.0])
    tiles = Tiles.overlapping(4, 4, 0.5)
    out = run_tiled(video(1, 1, 1, 4, 6), lambda part: np.full(part.shape, next(values, 1.0), np.float32), tiles)
    np.testing.assert_allclose(out[0, 0, 0, 0], [0, 0, 0, 0.5, 1, 1])
