"""Tensors that the ranks of one sequence group hold in parts: a part of one's own, the whole, and other parts.

A dimension is shared out in runs, each by itself: of ``total`` items every rank has as many as another or one less, the
first ranks the larger parts. A rank that would have nothing holds an item of another one, computes with it what nobody
sees, and sends none of it.

Everything is a sum over the group in which each rank adds its own part among zeros, because a CPU has no other
collective of groups; Ascend exchanges parts by its own operator. The derivative of each is the exchange in the other
direction: the gradients of a loss that every rank computes then add up to as many times that of one process as there
are ranks, which a mean over them makes right.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from mindspore import Tensor, nn, ops
from mindspore.communication import create_group

from mindone import runtime
from mindone.parallel.mesh import Mesh

# The gradient of ops.Slice would keep all that a part is cut from.
_slice, _reshape = ops.StridedSlice(), ops.Reshape()


def part_of(total: int, ranks: int, rank: int) -> tuple[int, int]:
    """Where the part of a rank begins, and how many of ``total`` items it has; possibly none."""
    return rank * (total // ranks) + min(rank, total % ranks), total // ranks + (rank < total % ranks)


def held_of(total: int, ranks: int, rank: int) -> tuple[int, int]:
    """As `part_of`, but a rank without items holds one that another has."""
    first, count = part_of(total, ranks, rank)
    return min(first, total - 1), max(count, 1)


@lru_cache
def group_name(mesh: Mesh) -> str:
    """The group of the ranks that share this rank's samples; all of them have to ask for it.

    It is never the group of all ranks, whose reductions have another order of their own.
    """
    name = f"sequence_{mesh.sequence_ranks.start}_{mesh.sequence_ranks.stop}"
    create_group(name, list(mesh.sequence_ranks))
    return name


class Exchange(nn.Cell):
    """What the ranks of a mesh's row hold of tensors, see the top of this file.

    ``runs`` are lengths along ``dim`` of the whole tensor, one after the other; sizes are plain numbers, so that they
    are constants of a graph.
    """

    def __init__(self, mesh: Mesh):
        super().__init__(auto_prefix=False)
        self.ranks, self.rank = mesh.sequence, mesh.sequence_index
        group = group_name(mesh)
        self.sum = ops.AllReduce(group=group)
        self.send = ops.AlltoAllV(group) if runtime.kernels() == "Ascend" else None

    def part(self, x: Tensor, dim: int, runs: Sequence[int], rank: int | None = None) -> Tensor:
        """The whole → what this rank, or another one, holds of it."""
        rank = self.rank if rank is None else rank
        begin, parts = 0, ()
        for total in runs:
            first, count = held_of(total, self.ranks, rank)
            parts += (_cut(x, dim, begin + first, count),)
            begin += total
        return parts[0] if len(parts) == 1 else ops.concat(parts, dim)

    def whole(self, x: Tensor, dim: int, runs: Sequence[int]) -> Tensor:
        """What this rank holds → the whole, equal on all ranks."""
        begin, parts = 0, ()
        for total in runs:
            first, held = held_of(total, self.ranks, self.rank)
            own = _cut(x, dim, begin, held)
            if part_of(total, self.ranks, self.rank)[1] == 0:
                own = own * 0
            parts += (_padded(own, dim, first, total - first - held),)
            begin += held
        return self.sum(parts[0] if len(parts) == 1 else ops.concat(parts, dim))

    def owned(self, x: Tensor, dim: int, runs: Sequence[int]) -> Tensor:
        """What this rank holds → of that its own; one item of others if it has none."""
        items = ()
        for total in runs:
            items += ((held_of(total, self.ranks, self.rank)[1], part_of(total, self.ranks, self.rank)[1]),)
        return _without_others(x, dim, items)

    def passed_on(self, x: Tensor, held: Sequence[int]) -> Tensor:
        """Every rank gives the next one what it has, and gets that of the one before.

        Args:
            x: (n,).
            held: how many values each rank has.
        """
        before, after = (self.rank - 1) % self.ranks, (self.rank + 1) % self.ranks
        if self.send is not None:
            sent, received = (), ()
            for rank in range(self.ranks):
                sent += (held[self.rank] if rank == after else 0,)
                received += (held[before] if rank == before else 0,)
            return self.send(x, sent, received)
        places, total = (), 0
        for count in held:
            places += (total,)
            total += count
        first = places[self.rank]
        together = self.sum(_padded(x, 0, first, total - first - held[self.rank]))
        return _cut(together, 0, places[before], held[before])

    def switch(self, x: Tensor, split: int, split_runs: Sequence[int], join: int, join_runs: Sequence[int]) -> Tensor:
        """Whole along ``split`` and a part along ``join`` → a part along ``split`` and whole along ``join``."""
        if self.send is None:
            return self.part(self.whole(x, join, join_runs), split, split_runs)
        shape, own = x.shape, self.owned(x, join, join_runs)
        sent, counts = (), ()
        for rank in range(self.ranks):
            piece = _reshape(self.part(own, split, split_runs, rank), (-1,))
            sent += (piece,)
            counts += (piece.size,)
        width = self._held(split_runs, self.rank)
        unit = x.size // (shape[split] * shape[join]) * width
        received = ()
        for rank in range(self.ranks):
            received += (unit * self.count(join_runs, rank),)
        return self._joined(self.send(ops.concat(sent), counts, received), shape, split, width, join, join_runs)

    def _joined(
        self, flat: Tensor, shape: tuple[int, ...], split: int, width: int, join: int, runs: Sequence[int]
    ) -> Tensor:
        """Pieces of all ranks one after the other → side by side along ``join``, run by run."""
        pieces, begin = (), 0
        for rank in range(self.ranks):
            owned = self.count(runs, rank)
            size = shape[:split] + (width,) + shape[split + 1 :]
            size = size[:join] + (owned,) + size[join + 1 :]
            count = 1
            for side in size:
                count *= side
            pieces += ((_reshape(_cut(flat, 0, begin, count), size) if count else None),)
            begin += count
        parts, places = (), (0,) * self.ranks
        for total in runs:
            after = ()
            for rank in range(self.ranks):
                count = part_of(total, self.ranks, rank)[1]
                if count:
                    parts += (_cut(pieces[rank], join, places[rank], count),)
                after += (places[rank] + count,)
            places = after
        return ops.concat(parts, join)

    def count(self, runs: Sequence[int], rank: int) -> int:
        """How many items of all runs are a rank's own."""
        count = 0
        for total in runs:
            count += part_of(total, self.ranks, rank)[1]
        return count

    def _held(self, runs: Sequence[int], rank: int) -> int:
        count = 0
        for total in runs:
            count += held_of(total, self.ranks, rank)[1]
        return count


def _without_others(x: Tensor, dim: int, items: tuple[tuple[int, int], ...]) -> Tensor:
    """Leaves out what a rank only holds; ``items`` says for each run how many are held and owned."""
    begin, parts = 0, ()
    for held, owned in items:
        if owned:
            parts += (_cut(x, dim, begin, owned),)
        begin += held
    if len(parts) == 0:
        return _cut(x, dim, 0, 1)
    return parts[0] if len(parts) == 1 else ops.concat(parts, dim)


def _cut(x: Tensor, dim: int, first: int, count: int) -> Tensor:
    if count == x.shape[dim]:
        return x
    shape, after = x.shape, x.ndim - dim - 1
    begin, end = (0,) * dim + (first,) + (0,) * after, shape[:dim] + (first + count,) + shape[dim + 1 :]
    return _slice(x, begin, end, (1,) * (dim + 1 + after))


def _padded(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """With zeros before and after along one dimension.

    Not by `ops.pad`: called again, its gradient in graph mode on a CPU is wrong.
    """
    # Zeros that no graph keeps as a constant of their size.
    zero, shape, parts = ops.stop_gradient(_reshape(x, (-1,))[:1] * 0), x.shape, (x,)
    if before:
        parts = (ops.broadcast_to(zero, shape[:dim] + (before,) + shape[dim + 1 :]),) + parts
    if after:
        parts += (ops.broadcast_to(zero, shape[:dim] + (after,) + shape[dim + 1 :]),)
    return parts[0] if len(parts) == 1 else ops.concat(parts, dim)
