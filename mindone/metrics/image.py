"""How close two pictures are: PSNR and SSIM, on the host.

Pictures are (..., C, H, W) in [0, 1]; all but the last three axes count pictures.
"""

from __future__ import annotations

import numpy as np

from mindone.errors import UserError

IDENTICAL_MSE, IDENTICAL_PSNR = 1e-10, 100.0
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def psnr(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Peak signal to noise ratio in dB of each picture, float64; 100 for identical ones."""
    error = np.square(np.asarray(first, np.float64) - np.asarray(second, np.float64)).mean((-3, -2, -1))
    known = np.maximum(error, IDENTICAL_MSE)
    return np.where(error < IDENTICAL_MSE, IDENTICAL_PSNR, 20 * np.log10(1 / np.sqrt(known)))


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity of each picture, float64 (Wang et al., "Image Quality Assessment").

    A Gaussian window of 11 x 11 with sigma 1.5, where it fits whole; means over positions, then over channels.

    Raises:
        UserError: a side is smaller than the window.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(first.shape[-2:]) < WINDOW:
        raise UserError(
            f"SSIM needs pictures of at least {WINDOW} pixels a side, not {first.shape[-2]}x{first.shape[-1]}"
        )
    mean1, mean2 = _blurred(first), _blurred(second)
    variance1 = _blurred(first * first) - mean1 * mean1
    variance2 = _blurred(second * second) - mean2 * mean2
    covariance = _blurred(first * second) - mean1 * mean2
    contrast = (2 * covariance + C2) / (variance1 + variance2 + C2)
    luminance = (2 * mean1 * mean2 + C1) / (mean1 * mean1 + mean2 * mean2 + C1)
    return (contrast * luminance).mean((-2, -1)).mean(-1)


def _blurred(x: np.ndarray) -> np.ndarray:
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-np.square(offsets) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (-2, -1):
        x = np.lib.stride_tricks.sliding_window_view(x, WINDOW, axis) @ weights
    return x
