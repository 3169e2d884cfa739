"""Films that are two pixels wide or high: measured as others are."""

import numpy as np
import pytest

from opensora.data_tools.measures import flow_strength
from opensora.data_tools.scenes import find_scenes


@pytest.mark.parametrize("size", [(2, 1200), (1100, 2)])
def test_a_strip_has_scenes_and_a_flow(size):
    pytest.importorskip("scenedetect")
    frames = np.random.default_rng(0).integers(0, 256, (9, *size, 3)).astype(np.uint8)
    assert find_scenes(frames, 8.0) == [(0, 9)]
    assert np.isfinite(flow_strength(frames[:2, ..., 0]))
