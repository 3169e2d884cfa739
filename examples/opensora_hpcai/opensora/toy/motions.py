"""Motions of the toy world: where a shape goes, how captions say it, and how it is read from them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SLANTED = 0.5**0.5


class Motion(NamedTuple):
    """A steady move, there alone or there and back.

    Attributes:
        vector: unit vector (x, y), y growing downwards; (0, 0) stands still.
        ways: what a caption says.
        pattern: regular expression of all words that mean it.
        returns: whether the shape comes back to where it started.
    """

    vector: tuple[float, float]
    ways: tuple[str, ...]
    pattern: str
    returns: bool = False

    def course(self, num_frames: int) -> np.ndarray:
        """How much of the way is done in each frame, (T,) from 0 to 1."""
        steps = np.linspace(0, 1, num_frames)
        return 1 - abs(2 * steps - 1) if self.returns else steps


MOTIONS = {
    "left": Motion((-1, 0), ("left", "to the left"), "left(wards)?"),
    "right": Motion((1, 0), ("right", "to the right"), "right(wards)?"),
    "up": Motion((0, -1), ("up", "upwards"), "up(wards)?"),
    "down": Motion((0, 1), ("down", "downwards"), "down(wards)?"),
    "still": Motion((0, 0), ("",), "stand(s|ing)? still|does not move|motionless|still"),
    "up-left": Motion((-_SLANTED, -_SLANTED), ("up and left",), "up(wards)? (and )?(to the )?left"),
    "up-right": Motion((_SLANTED, -_SLANTED), ("up and right",), "up(wards)? (and )?(to the )?right"),
    "down-left": Motion((-_SLANTED, _SLANTED), ("down and left",), "down(wards)? (and )?(to the )?left"),
    "down-right": Motion((_SLANTED, _SLANTED), ("down and right",), "down(wards)? (and )?(to the )?right"),
    "left-and-back": Motion((-1, 0), ("left and back",), "left and back", True),
    "right-and-back": Motion((1, 0), ("right and back",), "right and back", True),
    "up-and-back": Motion((0, -1), ("up and back",), "up and back", True),
    "down-and-back": Motion((0, 1), ("down and back",), "down and back", True),
}
"""Every motion that a world may have, by its name."""
