"""Measures of a video's pictures without networks: sharpness, bars, movement, and what tells near duplicates.

Frames are (T, H, W, 3) uint8 RGB unless said.
"""

from __future__ import annotations

import cv2
import numpy as np

# libvmaf's filter of its feature "motion", in 1/65536.
MOTION_FILTER = np.array([3571, 16004, 26386, 16004, 3571]) / 65536
FLOW_SIDE = 320
# OpenCV takes no larger pictures than twice that.
FLOW_LONGEST = 16_000
BLACK_LUMA = 24
HASH_SIDE, HASH_PICTURE = 8, 32
# Of hashes of 64 bits each; a video's hash has that of three frames.
HASH_FRAMES = 3


def luma(frames: np.ndarray) -> np.ndarray:
    """Brightness by BT.601, (T, H, W) uint8."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def sharpness(grey: np.ndarray) -> float:
    """Mean variance of the Laplacian of (T, H, W) uint8; below about 100 a photo looks blurred."""
    return float(np.mean([cv2.Laplacian(picture, cv2.CV_64F).var() for picture in grey]))


class VmafMotion:
    """Mean absolute difference of blurred successive pictures, as libvmaf's "motion" takes it.

    The first frame counts as one without motion there, and here it is left out.
    """

    def __init__(self):
        self._before: np.ndarray | None = None
        self._differences: list[float] = []

    def add(self, grey: np.ndarray) -> None:
        """Takes the next picture, (H, W) uint8."""
        after = cv2.sepFilter2D(grey, cv2.CV_32F, MOTION_FILTER, MOTION_FILTER, borderType=cv2.BORDER_REFLECT_101)
        if self._before is not None:
            self._differences.append(float(np.abs(after - self._before).mean()))
        self._before = after

    def mean(self) -> float:
        """Of all so far, 0 to 255; 0 for a single picture."""
        return float(np.mean(self._differences)) if self._differences else 0.0


def flow_strength(grey: np.ndarray) -> float:
    """Mean length of the optical flow (DIS) between successive pictures of (T, H, W) uint8.

    In pixels of pictures whose shorter side is 320, or less for a strip of a picture; 0 for a single picture.
    """
    scale = min(FLOW_SIDE / min(grey.shape[1:]), FLOW_LONGEST / max(grey.shape[1:]))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    size = (round(grey.shape[2] * scale), round(grey.shape[1] * scale))
    small = [cv2.resize(picture, size, interpolation=how) for picture in grey]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    lengths = [float(np.linalg.norm(dis.calc(a, b, None), axis=-1).mean()) for a, b in zip(small, small[1:])]
    return float(np.mean(lengths)) if lengths else 0.0


def black_bars(grey: np.ndarray) -> tuple[int, int, int, int]:
    """Rows and columns at top, bottom, left and right that are black in every frame of (T, H, W) uint8.

    All 0 for frames that are black everywhere. Single bright pixels, as compression leaves them, do not count.
    """
    brightest = grey.max(0)
    rows, columns = (np.flatnonzero(np.percentile(brightest, 98, axis=axis) > BLACK_LUMA) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return 0, 0, 0, 0
    height, width = brightest.shape
    return int(rows[0]), int(height - 1 - rows[-1]), int(columns[0]), int(width - 1 - columns[-1])


def perceptual_hash(picture: np.ndarray) -> int:
    """64 bits of (H, W) uint8: which low frequencies of its cosine transform are above their median."""
    small = cv2.resize(picture, (HASH_PICTURE, HASH_PICTURE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:HASH_SIDE, :HASH_SIDE].reshape(-1)
    return int("".join("1" if above else "0" for above in low > np.median(low[1:])), 2)


def video_hash(grey: np.ndarray) -> str:
    """Hashes of the first, middle and last picture of (T, H, W) uint8 as 48 hexadecimal digits."""
    places = np.linspace(0, len(grey) - 1, HASH_FRAMES).round().astype(int)
    return "".join(f"{perceptual_hash(grey[place]):016x}" for place in places)
