"""Frames to tensors: resizing, centre crop, flip, normalisation. Frames are (H, W, 3) uint8 RGB."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from mindone.errors import UserError

RESIZE_MODES = ("center", "crop_resize")
_NORMALISED = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)


def resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes by area averaging when shrinking, bicubic when enlarging."""
    if frame.shape[:2] == (height, width):
        return frame
    shrinks = height <= frame.shape[0] and width <= frame.shape[1]
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def resize_to_cover(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes, keeping the aspect ratio, to the smallest size that covers (height, width)."""
    scale = max(height / frame.shape[0], width / frame.shape[1])
    return resize(frame, max(height, round(frame.shape[0] * scale)), max(width, round(frame.shape[1] * scale)))


def centre_offset(size: int, target: int) -> int:
    """Where a centred window of ``target`` starts in ``size``; of two equal choices the left one."""
    return (size - target) // 2


def centre_crop(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """The (height, width) window in the middle of a frame that is at least as large."""
    top, left = centre_offset(frame.shape[0], height), centre_offset(frame.shape[1], width)
    return frame[top : top + height, left : left + width]


def largest_crop(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest window in the middle of a frame that has the aspect ratio of (height, width)."""
    scale = min(frame.shape[0] / height, frame.shape[1] / width)
    return centre_crop(frame, max(1, round(height * scale)), max(1, round(width * scale)))


@dataclass(frozen=True)
class ResizeCrop:
    """Brings frames of any size to (height, width) without distortion, keeping the middle.

    ``mode`` says what comes first: ``center`` resizes to cover, then crops; ``crop_resize`` crops to the aspect ratio,
    then resizes. They differ by rounding only.
    """

    height: int
    width: int
    mode: str = "center"

    def __post_init__(self) -> None:
        if self.mode not in RESIZE_MODES:
            raise UserError(f"transform_name={self.mode} is not known; use {' or '.join(RESIZE_MODES)}")
        if self.height < 1 or self.width < 1:
            raise UserError(f"image_size={self.height}x{self.width} has to be positive")

    def of(self, height: int, width: int) -> ResizeCrop:
        """What is done to frames of this size: the same for all sizes."""
        return self

    def __call__(self, frame: np.ndarray, flip: bool = False) -> np.ndarray:
        if self.mode == "center":
            frame = centre_crop(resize_to_cover(frame, self.height, self.width), self.height, self.width)
        else:
            frame = resize(largest_crop(frame, self.height, self.width), self.height, self.width)
        return frame[:, ::-1] if flip else frame

    def clip(self, frames: Iterable[np.ndarray], flip: bool = False, count: int | None = None) -> np.ndarray:
        """Frames of one size to (T, height, width, 3) uint8; only resized frames are kept in memory.

        Args:
            count: how many there are, if that is known: each then goes to its place at once.
        """
        resized = (self(frame, flip) for frame in frames)
        if count is None:
            return np.stack(list(resized))
        clip = np.empty((count, self.height, self.width, 3), np.uint8)
        for number, frame in enumerate(resized):
            clip[number] = frame
        return clip


@dataclass(frozen=True)
class ResizeWithin:
    """Shrinks frames to at most the area of a square of ``side`` pixels, keeping their aspect ratio.

    Sides become multiples of ``multiple``, rounded down, at least one of them; what is too much is cropped.
    """

    side: int
    multiple: int = 16

    def __post_init__(self) -> None:
        if self.multiple < 1 or self.side < self.multiple:
            raise UserError(f"image_size={self.side} has to be at least {self.multiple} pixels")

    def of(self, height: int, width: int) -> ResizeCrop:
        """What is done to frames of this size."""
        most = (self.side // self.multiple) ** 2
        scale = min(1.0, self.side / math.sqrt(height * width))
        # not the product alone: 0.3 * 160 is 47.99999999999999
        rows, columns = (max(1, int(round(side * scale, 6)) // self.multiple) for side in (height, width))
        # a very long side beside one that was rounded up to a multiple
        rows, columns = min(rows, most // columns or 1), min(columns, most // rows or 1)
        return ResizeCrop(rows * self.multiple, columns * self.multiple)


Transform = ResizeCrop | ResizeWithin


def normalise(frames: np.ndarray) -> np.ndarray:
    """(..., T, H, W, 3) uint8 to (..., 3, T, H, W) float32 in [-1, 1]: ``x / 127.5 - 1``."""
    *before, length, height, width, channels = frames.shape
    video = np.empty((*before, channels, length, height, width), np.float32)
    for *clip, number in np.ndindex(*before, length):
        for channel, plane in enumerate(cv2.split(frames[(*clip, number)])):
            cv2.LUT(plane, _NORMALISED, dst=video[(*clip, channel, number)])
    return video
