"""Independent pieces of one result, shared out over the ranks that have the same samples.

Micro batches, chunks of frames and tiles of an autoencoder are such pieces: each rank of a row of the mesh computes
every n-th one, and then all of them have all results, which are those of one process to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from mindone.parallel.collectives import buckets, sum_over_row
from mindone.parallel.mesh import Mesh

Piece = TypeVar("Piece")
Results = tuple[np.ndarray, ...]
# What a piece may result in: so many arrays of so many axes.
MOST_RESULTS, MOST_AXES = 4, 6


class Pieces:
    """Applies a function to pieces, on the ranks of ``mesh`` that share their samples."""

    def __init__(self, mesh: Mesh | None = None):
        self.mesh = mesh or Mesh()

    def map(self, compute: Callable[[Piece], Results], pieces: Sequence[Piece]) -> Iterable[Results]:
        """The results of all pieces, in their order; one after the other if there is one rank.

        All ranks of a row have to call it with the same number of pieces.

        Args:
            compute: gives at most 4 float32 arrays of at most 6 axes.
        """
        if self.mesh.sequence == 1:
            return map(compute, pieces)
        own = range(self.mesh.sequence_index, len(pieces), self.mesh.sequence)
        found = {index: compute(pieces[index]) for index in own}
        return _exchanged(found, len(pieces), self.mesh)


def _exchanged(found: dict[int, Results], count: int, mesh: Mesh) -> list[Results]:
    """The results of all pieces from those that each rank has found: a sum in which all other ranks add zeros."""
    table = np.zeros((count, MOST_RESULTS, 1 + MOST_AXES), np.float32)
    for index, results in found.items():
        for place, result in enumerate(results):
            table[index, place, 0] = 1 + result.ndim
            table[index, place, 1 : 1 + result.ndim] = result.shape
    shapes = [_shapes(row) for row in sum_over_row(table, mesh).astype(int)]
    flat = [
        array.ravel()
        for index in range(count)
        for array in found.get(index, [np.zeros(shape, np.float32) for shape in shapes[index]])
    ]
    summed = []
    for start, stop in buckets([len(array) for array in flat]):
        together = sum_over_row(np.concatenate(flat[start:stop]), mesh)
        summed += np.split(together, np.cumsum([len(array) for array in flat[start:stop]])[:-1])
    arrays = iter(summed)
    return [tuple(next(arrays).reshape(shape) for shape in row) for row in shapes]


def _shapes(row: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(entry[1 : entry[0]]) for entry in row if entry[0]]
