"""What CLIP sees in a video as a cell of a table: the mean direction of its frames' vectors, a byte for each number."""

from __future__ import annotations

import base64
import binascii

import numpy as np

from mindone.errors import UserError

VECTOR = "clip_vector"


def packed(vectors: np.ndarray) -> str:
    """The mean of vectors (N, D) of length 1 as base64; the cosine of two cells is exact to about 0.001."""
    mean = vectors.mean(0)
    return base64.b64encode(np.rint(127 * mean / np.abs(mean).max()).astype(np.int8).tobytes()).decode()


def unpacked(cell: str) -> np.ndarray:
    """The vector (D,) float32 of length 1 in a cell.

    Raises:
        UserError: it is no such cell.
    """
    try:
        vector = np.frombuffer(base64.b64decode(cell, validate=True), np.int8).astype(np.float32)
    except (binascii.Error, ValueError):
        vector = np.zeros(0, np.float32)
    length = np.linalg.norm(vector)
    if not length:
        raise UserError(f"{VECTOR}={cell[:20]!r} is not a vector of CLIP; measure the score likeness again")
    return vector / length
