"""Videos of different sizes as padded sequences of patches, with the masks that tell patches from padding.

What the first release trained on (`opensora.models.early_dit`). Runs on the host.

Legend: `N` patches of the longest video, `L` tokens of the longest text, `P` side of a patch, `C` channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindone.errors import UserError

HALF = np.float32(0.5)


def to_patches(video: np.ndarray, side: int) -> np.ndarray:
    """Patches (N, C, P, P) of a video (T, H, W, C): frame by frame, row by row; what is over at the edges is lost.

    Raises:
        UserError: frames are smaller than a patch.
    """
    frames, height, width, channels = video.shape
    rows, columns = height // side, width // side
    if not rows or not columns:
        raise UserError(f"frames of {height}x{width} are smaller than a patch of {side}x{side}")
    video = video[:, : rows * side, : columns * side].reshape(frames, rows, side, columns, side, channels)
    return video.transpose(0, 1, 3, 5, 2, 4).reshape(-1, channels, side, side)


def from_patches(patches: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """The video (T, H, W, C) of its first patches (N, C, P, P); ``size`` is frames, height and width in pixels."""
    frames, (rows, columns) = size[0], (length // patches.shape[-1] for length in size[1:])
    channels, side = patches.shape[1:3]
    patches = patches[: frames * rows * columns].reshape(frames, rows, columns, channels, side, side)
    return patches.transpose(0, 1, 4, 2, 5, 3).reshape(frames, rows * side, columns * side, channels)


def normalized(video: np.ndarray) -> np.ndarray:
    """uint8 values as float32 in [-0.5, 0.5]."""
    return video.astype(np.float32) / np.float32(255) - HALF


def pixels(video: np.ndarray) -> np.ndarray:
    """Values in [-0.5, 0.5] as float32 in 0 to 255: the inverse of `normalized`."""
    return (video + HALF) * np.float32(255)


def padded(sequences: Sequence[np.ndarray], multiple: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (N_i, ...) filled up with zeros to the longest, or a multiple beyond it.

    Returns:
        (B, N, ...), and a mask (B, N) int64 that is 1 where something was.
    """
    longest = max(map(len, sequences))
    if multiple:
        longest = -(-longest // multiple) * multiple
    batch = np.zeros((len(sequences), longest, *sequences[0].shape[1:]), sequences[0].dtype)
    mask = np.zeros((len(sequences), longest), np.int64)
    for row, sequence in enumerate(sequences):
        batch[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return batch, mask


def attention_mask(video: np.ndarray, text: np.ndarray, architecture: str) -> np.ndarray:
    """Which tokens see which, (B, 1, Nq, Nk) of 1 and 0, from the masks (B, N) and (B, L) of the two sequences."""
    both = np.concatenate((text, video), 1)
    queries, keys = {"adaln": (video, video), "cross-attn": (video, text), "token-concat": (both, both)}[architecture]
    return queries[:, None, :, None] * keys[:, None, None, :]
