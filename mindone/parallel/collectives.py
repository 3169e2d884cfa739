"""What ranks tell each other, from the one reduction that works on every device: AllReduce(sum).

A CPU has no broadcast to groups, no maximum and no barrier; they are sums in which all but one rank add zeros. With
one rank everything here is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindone.parallel.exchange import group_name
from mindone.parallel.mesh import Mesh

# Many small messages are slow and one huge one needs memory for all of it: pieces of this many elements (64 MB).
BUCKET_ELEMENTS = 1 << 24

_flatten, _from_flat = ops.MultitypeFuncGraph("flatten"), ops.MultitypeFuncGraph("from_flat")
_reshape, _slice = ops.Reshape(), ops.Slice()


@_flatten.register("Tensor")
def _flatten_one(x):
    return _reshape(x, (-1,))


@_from_flat.register("Tensor", "Number", "Tensor")
def _from_flat_one(flat, offset, like):
    return _reshape(_slice(flat, (offset,), (like.size,)), like.shape)


def buckets(sizes: Sequence[int], limit: int = BUCKET_ELEMENTS) -> list[tuple[int, int]]:
    """Bounds of consecutive runs of items whose sizes add up to at most ``limit`` (or of one larger item)."""
    bounds, start, total = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            bounds.append((start, index))
            start, total = index, 0
        total += size
    return [*bounds, (start, len(sizes))] if sizes else []


class Mean(nn.Cell):
    """The mean of one tensor over all ranks of a mesh."""

    def __init__(self, mesh: Mesh):
        super().__init__(auto_prefix=False)
        self.world_size = mesh.world_size
        self.all_reduce = ops.AllReduce() if mesh.world_size > 1 else None

    def construct(self, x: Tensor) -> Tensor:
        return x if self.all_reduce is None else self.all_reduce(x) / self.world_size


class InBuckets(nn.Cell):
    """Applies what reduces one tensor to a tuple of tensors of one dtype, in few messages.

    Args:
        reduce: a cell for one flat tensor, as `Mean`; None leaves the tuple as it is.
        like: tensors or parameters of the shapes that will be reduced.
    """

    def __init__(self, reduce: nn.Cell | None, like: Sequence[Tensor]):
        super().__init__(auto_prefix=False)
        sizes = [int(np.prod(tensor.shape)) for tensor in like]
        self.reduce = reduce
        self.bounds = tuple(buckets(sizes))
        self.offsets = tuple(tuple(int(sum(sizes[a:i])) for i in range(a, b)) for a, b in self.bounds)
        self.map_ = ops.HyperMap()

    def construct(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.reduce is None:
            return tensors
        reduced, flat = (), None
        for i in range(len(self.bounds)):
            part = tensors[self.bounds[i][0] : self.bounds[i][1]]
            mine = ops.concat(self.map_(_flatten, part))
            # One after the other: ranks have to meet in the same order.
            flat = self.reduce(mine if flat is None else ops.depend(mine, flat))
            reduced += self.map_(ops.partial(_from_flat, flat), self.offsets[i], part)
        return reduced


def broadcast_parameters(parameters: Sequence[Parameter], mesh: Mesh) -> None:
    """Gives every rank the first rank's values."""
    if mesh.world_size == 1:
        return
    for start, stop in buckets([int(np.prod(parameter.shape)) for parameter in parameters]):
        part = parameters[start:stop]
        flat = np.concatenate([parameter.asnumpy().astype(np.float32).ravel() for parameter in part])
        flat = ops.AllReduce()(Tensor(flat * np.float32(mesh.is_main))).asnumpy()
        pieces = np.split(flat, np.cumsum([int(np.prod(parameter.shape)) for parameter in part])[:-1])
        for parameter, piece in zip(part, pieces):
            parameter.set_data(Tensor(piece.reshape(parameter.shape), parameter.dtype))


def any_rank(flag: bool, mesh: Mesh) -> bool:
    """Whether ``flag`` is set on any rank; all ranks have to ask."""
    if mesh.world_size == 1:
        return flag
    return float(ops.AllReduce()(Tensor(float(flag), ms.float32)).asnumpy()) > 0


def sum_over_ranks(values: np.ndarray, mesh: Mesh) -> np.ndarray:
    """The sum of every rank's array, float32 of one shape, on every rank."""
    return values if mesh.world_size == 1 else ops.AllReduce()(Tensor(values)).asnumpy()


def sum_over_row(values: np.ndarray, mesh: Mesh) -> np.ndarray:
    """The sum of the float32 arrays of the ranks that share this rank's samples, on each of them."""
    if mesh.sequence == 1:
        return values
    return ops.AllReduce(group=group_name(mesh))(Tensor(values)).asnumpy()


def barrier(mesh: Mesh) -> None:
    """Waits until every rank is here."""
    any_rank(False, mesh)


def from_first_rank(number: int, mesh: Mesh) -> int:
    """The first rank's value of a whole number from 0 to 2^48, on every rank."""
    if mesh.world_size == 1:
        return number
    # A CPU reduces float32, which holds whole numbers up to 2^24 exactly.
    parts = np.array([number >> 24, number & 0xFFFFFF], np.float32) * np.float32(mesh.is_main)
    high, low = ops.AllReduce()(Tensor(parts)).asnumpy()
    return (int(high) << 24) + int(low)
