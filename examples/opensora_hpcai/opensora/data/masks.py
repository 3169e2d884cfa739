"""Which latent frames a training sample has to generate (True) and which it is given (False).

The kinds are those of 1.2, and two of ours for models that go on from whole clips: ``half_head`` and ``half_tail`` give
half a video, where 1.2 gives at most a quarter at one end.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mindone.errors import UserError

MASK_NAMES = (
    "identity",
    "quarter_random",
    "quarter_head",
    "quarter_tail",
    "quarter_head_tail",
    "image_random",
    "image_head",
    "image_tail",
    "image_head_tail",
    "random",
    "interpolate",
    "half_head",
    "half_tail",
)
# The original's spelling, and the names of 1.1.
ALIASES = {"intepolate": "interpolate", "mask_no": "identity", "no": "identity"}
NEEDED_FOR_QUARTER = 4


class MaskGenerator:
    """Draws a kind of mask by its ratio, then the mask.

    Args:
        ratios: probability per kind, e.g. ``{"random": 0.05, "image_head": 0.1}``; ``identity`` gets what is left of 1.
            The mapping is not changed.
    Raises:
        UserError: an unknown kind, a ratio outside of 0..1, or ratios that add up to something else than 1.
    """

    def __init__(self, ratios: Mapping[str, float]):
        self.ratios: dict[str, float] = {}
        for name, ratio in ratios.items():
            kind = _kind(name)
            if not 0 <= ratio <= 1:
                raise UserError(f"mask_ratios: {name}={ratio} has to be between 0 and 1")
            self.ratios[kind] = self.ratios.get(kind, 0.0) + float(ratio)
        total = sum(self.ratios.values())
        if total > 1 + 1e-6:
            raise UserError(f"mask_ratios add up to {total:g}; they must not exceed 1")
        if "identity" not in self.ratios:
            self.ratios["identity"] = max(0.0, 1.0 - total)
        elif total < 1 - 1e-6:
            raise UserError(f"mask_ratios add up to {total:g}; leave out identity, which then gets the rest")

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        """A mask (num_frames,) bool of a kind drawn by its ratio."""
        return make_mask(self.choose(float(rng.random())), num_frames, rng)

    def choose(self, draw: float) -> str:
        """The first kind, in the order given, whose running sum exceeds ``draw``."""
        total = 0.0
        for kind, ratio in self.ratios.items():
            total += ratio
            if draw < total:
                return kind
        return "identity"


def _kind(name: str) -> str:
    kind = ALIASES.get(name, name.removeprefix("mask_"))
    kind = ALIASES.get(kind, kind)
    if kind not in MASK_NAMES:
        raise UserError(f"mask_ratios: {name} is not known; use some of {', '.join(MASK_NAMES)}")
    return kind


def make_mask(kind: str, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A mask (num_frames,) bool of this kind; True = to be generated.

    At least one frame is True. One frame alone is always generated, and fewer than 4 have no quarter: all True (the
    original fails there). The draws, in order: for ``quarter_*`` the length in 1..num_frames//4 (``half_*`` is always
    num_frames//2); for ``*_random`` its position; for ``interpolate`` the first given frame, 0 or 1; for ``random`` the
    share of given frames in 0.1..0.9 and one number per frame.
    """
    mask = np.ones(num_frames, bool)
    kind = _kind(kind)
    if num_frames <= 1 or kind == "identity":
        return mask
    if kind == "random":
        share = rng.uniform(0.1, 0.9)
        return _at_least_one(rng.random(num_frames) > share)
    if kind == "interpolate":
        mask[int(rng.integers(0, 2)) :: 2] = False
        return mask
    unit, where = kind.split("_", 1)
    if unit == "quarter" and num_frames < NEEDED_FOR_QUARTER:
        return mask
    length = num_frames // 2 if unit == "half" else 1
    if unit == "quarter":
        length = int(rng.integers(1, num_frames // 4 + 1))
    if where == "random":
        start = int(rng.integers(0, num_frames - length + 1))
        mask[start : start + length] = False
    if "head" in where:
        mask[:length] = False
    if "tail" in where:
        mask[-length:] = False
    return _at_least_one(mask)


def _at_least_one(mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        mask[-1] = True
    return mask
