"""What is known of every sample of a table before training: its length, size and rate, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindone.data.table import VideoRow


@dataclass(frozen=True)
class Metadata:
    """(N,) arrays with a row per sample; a sample whose ``num_frames`` is 0 cannot be read."""

    num_frames: np.ndarray
    """int32, 1 for pictures"""
    height: np.ndarray
    """int32, pixels as shown"""
    width: np.ndarray
    """int32, pixels as shown"""
    fps: np.ndarray
    """float32, frames per second; 0 where it is not known, and for pictures"""

    def __len__(self) -> int:
        return len(self.num_frames)

    @staticmethod
    def of_rows(rows: Sequence[VideoRow]) -> Metadata:
        """What a table says; 0 where it says nothing."""
        columns = (("num_frames", np.int32), ("height", np.int32), ("width", np.int32), ("fps", np.float32))
        return Metadata(
            *(np.fromiter((getattr(row, name) or 0 for row in rows), dtype, len(rows)) for name, dtype in columns)
        )
