"""Who works with whom: the ranks of a run as a grid of data x sequence.

Ranks of one row share their samples, each with a part of the tokens; rows have different samples. Neighbours share a
row, so that what has to be fast stays within a machine::

    rank  0  1     row 0 (data_index 0): the same samples
          2  3     row 1 (data_index 1): other samples

The one object that knows: it is handed to the loader, the step, strategies and checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindone import runtime
from mindone.errors import UserError


@dataclass(frozen=True)
class Mesh:
    """This rank's place among ``world_size`` ranks, ``sequence`` of which share one sample.

    Raises:
        UserError: the ranks do not make whole rows.
    """

    rank: int = 0
    world_size: int = 1
    sequence: int = 1

    def __post_init__(self) -> None:
        if self.sequence < 1 or self.world_size % self.sequence:
            raise UserError(
                f"{self.world_size} ranks cannot be shared out in groups of {self.sequence}; "
                "use a divisor of the number of ranks"
            )

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes files."""
        return self.rank == 0

    @property
    def data(self) -> int:
        """Rows: how many ranks or groups have samples of their own."""
        return self.world_size // self.sequence

    @property
    def data_index(self) -> int:
        """The row of this rank."""
        return self.rank // self.sequence

    @property
    def sequence_index(self) -> int:
        """The place of this rank in its row."""
        return self.rank % self.sequence

    @property
    def sequence_ranks(self) -> range:
        """The ranks that share this rank's samples, itself among them."""
        first = self.data_index * self.sequence
        return range(first, first + self.sequence)

    @property
    def data_ranks(self) -> range:
        """The ranks that have this rank's place in their rows."""
        return range(self.sequence_index, self.world_size, self.sequence)


def make_mesh(sequence: int = 1) -> Mesh:
    """The mesh of the ranks that `mindone.runtime.setup` joined."""
    current = runtime.current()
    return Mesh(current.rank, current.world_size, sequence)
