"""What frames say of given pictures and of joins: how well the first are kept, how smooth the second are.

Nothing here knows what made a video. Frames are (T, H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindone.metrics.image import psnr


def kept(video: np.ndarray, given: np.ndarray, place: range) -> float:
    """Peak signal to noise ratio in dB of the frames of ``video`` in ``place`` against as many given ones, their mean.

    0 if the video ends before.
    """
    shown = video[place.start : place.stop]
    if shown.shape != given.shape:
        return 0.0
    return float(psnr(_channels_first(shown), _channels_first(given)).mean())


def jump(video: np.ndarray, joins: Sequence[int]) -> float:
    """How much larger the picture changes at a join than anywhere else: the largest ratio.

    The change between two frames is their mean absolute difference.

    Args:
        joins: frames that come from another clip than the frame before them, each in 1..T-1.
    """
    changes = np.abs(np.diff(video.astype(np.float32), axis=0)).mean((1, 2, 3))
    elsewhere = np.delete(changes, [join - 1 for join in joins])
    largest = max(float(elsewhere.max(initial=0.0)), 1e-6)
    return max(float(changes[join - 1]) for join in joins) / largest


def _channels_first(frames: np.ndarray) -> np.ndarray:
    """(T, 3, H, W) in 0..1."""
    return frames.transpose(0, 3, 1, 2) / np.float32(255)
