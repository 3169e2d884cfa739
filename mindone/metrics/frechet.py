"""The Frechet distance between two sets of features, as FID (Heusel et al., arXiv:1706.08500) and FVD have it."""

from __future__ import annotations

import numpy as np

from mindone.errors import UserError


def frechet_distance(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The distance of the normal distributions of two sets of features (N, D), (M, D), and its first term.

    ``|m1 - m2|^2 + trace(C1 + C2 - 2 sqrt(C1 C2))`` with unbiased covariances, in float64. The trace of the root comes
    from the eigenvalues of the symmetric ``sqrt(C1) C2 sqrt(C1)``, so fewer samples than dimensions do no harm.

    Raises:
        UserError: less than two samples, features of different length, or values that are not finite.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    for name, features in (("first", first), ("second", second)):
        if features.ndim != 2 or len(features) < 2:
            raise UserError(f"the {name} set of features has the shape {features.shape}; it needs two rows or more")
        if not np.isfinite(features).all():
            raise UserError(f"the {name} set of features has values that are not finite")
    if first.shape[1] != second.shape[1]:
        raise UserError(f"the two sets have features of {first.shape[1]} and {second.shape[1]} values")
    mean_term = float(np.square(first.mean(0) - second.mean(0)).sum())
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second)]
    root = _root(covariances[0])
    eigenvalues = np.linalg.eigvalsh(root @ covariances[1] @ root)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    spread = covariances[0].trace() + covariances[1].trace() - 2 * trace_of_root
    return mean_term + float(spread), mean_term


def _root(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
