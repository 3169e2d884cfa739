"""``opensora evaluate fvd``: the Frechet distance on features that the user's own network gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindone.errors import UserError
from mindone.metrics.frechet import frechet_distance
from opensora.config.evaluate import FvdConfig


def fvd(config: FvdConfig) -> float:
    """Prints and returns the distance; it is FVD if the features are those of I3D.

    Raises:
        UserError: a file cannot be read, or the features do not go together.
    """
    distance, means = frechet_distance(*(_features(path) for path in (config.real, config.generated)))
    print(f"Frechet distance: {distance:.4f} (of the means alone: {means:.4f})")
    return distance


def _features(path: str | Path) -> np.ndarray:
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a .npy file of features: {error}") from error
    if not isinstance(features, np.ndarray) or features.dtype.kind not in "fiu":
        raise UserError(f"{path} does not hold one array of numbers")
    return features
