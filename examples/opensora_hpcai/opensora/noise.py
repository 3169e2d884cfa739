"""The noise that a video begins from: that of a seed, or one near to it that a search has found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mindone.config import SettingError

# Seeds that are mixed in, and their radii.
Mixed = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class InitialNoise:
    """Noise of a seed, into which that of other seeds is mixed, one after the other.

    Written as ``7,12:0.3,40:0.3``: the noise of seed 7, then that of 12 with radius 0.3, then that of 40. A radius is
    in (0, 1]; 1 leaves nothing of the noise before.
    """

    seed: int
    mixed: Mixed = ()

    def near(self, seed: int, radius: float) -> InitialNoise:
        """This noise with another one mixed in."""
        return replace(self, mixed=(*self.mixed, (seed, radius)))

    def __str__(self) -> str:
        return ",".join([f"{self.seed}", *(f"{seed}:{radius}" for seed, radius in self.mixed)])


def parse_noise(text: str) -> InitialNoise:
    """The reverse of ``str``.

    Raises:
        SettingError: it is no such text.
    """
    try:
        first, *rest = text.split(",")
        pairs = [entry.split(":") for entry in rest]
        noise = InitialNoise(int(first), tuple((int(seed), float(radius)) for seed, radius in pairs))
    except ValueError:
        noise = None
    if noise is None or noise.seed < 0 or any(seed < 0 or not 0 < radius <= 1 for seed, radius in noise.mixed):
        raise SettingError(
            f"initial_noise={text} is no noise; give a seed and what is mixed in, each as seed:radius with a radius "
            "above 0 up to 1, such as 7,12:0.3",
            "initial_noise",
        )
    return noise


def noise_of(noises: Sequence[InitialNoise], shape: Sequence[int], loop: int = 0) -> np.ndarray:
    """(B, *shape) float32 noise of the clip number ``loop`` of a long video.

    Mixing keeps the variance: ``sqrt(1 - radius^2) * noise + radius * other``, so that what it gives is noise as good
    as any, at an angle of arcsin(radius) from the one before.
    """
    from opensora.families.base import initial_noise

    values = initial_noise([noise.seed for noise in noises], shape, loop)
    for own, noise in zip(values, noises):
        for seed, radius in noise.mixed:
            own *= math.sqrt(1 - radius**2)
            own += radius * initial_noise([seed], shape, loop)[0]
    return values
