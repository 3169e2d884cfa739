"""The camera's movement is told from tracked points."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from opensora.data_tools.camera import camera_motion, label_of

MOVES = {
    "static": (0, 0, 1.0),
    "pan right": (-4, 0, 1.0),
    "pan left": (4, 0, 1.0),
    "tilt up": (0, 4, 1.0),
    "tilt down": (0, -4, 1.0),
    "zoom in": (0, 0, 1.03),
    "zoom out": (0, 0, 0.97),
    "mixed": (4, 4, 1.0),
}


@pytest.mark.parametrize("label", MOVES)
def test_each_movement_is_told(label):
    right, down, growth = MOVES[label]
    noise = np.random.default_rng(0).integers(0, 255, (90, 110), np.uint8)
    scenery = cv2.resize(noise, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    grey = []
    for step in range(6):
        scale = growth ** (step - 2.5)
        shift = np.array([128 + right * step, 128 + down * step]) - scale * np.array([330, 270])
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        grey.append(cv2.warpAffine(scenery, matrix, (256, 256)))
    assert label_of(camera_motion(grey)) == label


def test_a_plain_picture_gives_no_answer():
    assert label_of(camera_motion([np.full((64, 64), 90, np.uint8)] * 3)) == "undetermined"
