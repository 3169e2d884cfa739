"""Long videos: clips one after the other, each beginning with the last frames of the one before.

The last L frames of a clip go through the autoencoder again, or their latents are taken as they are, and stand at the
beginning of the next one; its first L frames are left out of the film. So n frames per clip and N clips are
``n + (N - 1)(n - L)`` frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opensora.generate.references import posterior_of, sample

if TYPE_CHECKING:
    from opensora.models.autoencoder import Autoencoder


class Film:
    """The frames of a video, clip by clip.

    Args:
        overlap: L, the frames that a clip has in common with the one before it.
    """

    def __init__(self, overlap: int):
        self.overlap = overlap
        self._parts: list[np.ndarray] = []

    def add(self, clip: np.ndarray) -> None:
        """Frames (T, H, W, 3) of the next clip."""
        self._parts.append(clip[self.overlap :] if self._parts else clip)

    @property
    def frames(self) -> np.ndarray:
        return self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)

    def shrink(self, count: int) -> None:
        """Keeps a few frames, evenly spaced, for a contact sheet."""
        frames = self.frames
        self._parts = [frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]]

    def encoded_end(self, autoencoder: Autoencoder, video: np.ndarray, seed: int, loop: int) -> np.ndarray:
        """Latents (C, T', H, W) of the last frames of a clip (3, T, height, width), for the clip number ``loop``."""
        mean, std = posterior_of(autoencoder, video[:, -self.overlap :], "the clip before")
        return sample(autoencoder, mean, std, seed, loop, 0)
