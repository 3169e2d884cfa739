"""ZeRO (arXiv:1910.02054): optimizer states, gradients and weights in slices, one on each rank.

A parameter is cut into slices of one length, the flattened values rank after rank, with zeros behind the last. Ranks
exchange by two collectives: the sum of what all have, of which each gets its slice (ReduceScatter; a CPU, which has
none, sums the whole and takes the slice), and all slices one after the other (AllGather).

`Slices` is for parameters that every rank has whole: each updates its slice, and all give theirs to each other.
`spread` replaces weights of layers by slices for good: they are whole while their layer computes, in both passes.
`spread_tables` does the same with tables of embeddings, in networks that are not trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.common.initializer import initializer

from mindone import runtime
from mindone.checkpoint.slices import Cut, cut_for, cut_of, whole_shape
from mindone.nn import functional as F
from mindone.nn.layers import Linear
from mindone.parallel.collectives import buckets
from mindone.parallel.mesh import Mesh

SMALLEST = 1 << 10
"""Weights with fewer elements stay whole when a network is spread: their exchange costs more than their memory."""

_reshape, _slice = ops.Reshape(), ops.Slice()
_rows, _own, _whole = (
    ops.MultitypeFuncGraph("rows_of_slices"),
    ops.MultitypeFuncGraph("own_slice"),
    ops.MultitypeFuncGraph("assign_whole"),
)


@_rows.register("Number", "Number", "Tensor")
def _rows_of_one(ranks, size, x):
    return _reshape(_filled_up(_reshape(x, (-1,)), ranks * size), (ranks, size))


@_own.register("Tensor", "Number", "Number")
def _own_of_one(flat, offset, size):
    return _slice(flat, (offset,), (size,))


@_whole.register("Number", "Tensor", "Number", "Number", "Tensor")
def _whole_of_one(ranks, rows, offset, size, parameter):
    flat = _reshape(_slice(rows, (0, offset), (ranks, size)), (-1,))
    return ops.assign(parameter, _reshape(_slice(flat, (0,), (parameter.size,)), parameter.shape))


def _filled_up(flat: Tensor, size: int) -> Tensor:
    """With zeros behind, fewer than there are ranks."""
    missing = size - flat.shape[0]
    return flat if missing == 0 else ops.concat((flat, ops.zeros((missing,), flat.dtype)))


class ReduceScatter(nn.Cell):
    """(ranks * size,) → (size,): this rank's slice of the sum over all ranks."""

    def __init__(self, mesh: Mesh):
        super().__init__(auto_prefix=False)
        self.ranks, self.rank = mesh.world_size, mesh.rank
        self.on_ascend = runtime.kernels() == "Ascend"
        self.reduce = ops.ReduceScatter() if self.on_ascend else ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        if self.on_ascend:
            return self.reduce(x)
        size = x.shape[0] // self.ranks
        return _slice(self.reduce(x), (self.rank * size,), (size,))


class AllGather(nn.Cell):
    """(size,) → (ranks * size,): the slices of all ranks one after the other."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.all_gather = ops.AllGather()
        self.in_float32 = runtime.kernels() == "CPU"

    def construct(self, x: Tensor) -> Tensor:
        # A CPU sends no bfloat16; what it makes of float32 and back is the same number.
        if self.in_float32 and x.dtype == ms.bfloat16:
            return F.cast(self.all_gather(F.cast(x, ms.float32)), ms.bfloat16)
        return self.all_gather(x)


class Slices(nn.Cell):
    """The slices of parameters, of which some may be slices themselves already (`spread`).

    Args:
        parameters: float32.
    Attributes:
        weights: the parameters, by which a loss is differentiated.
        parameters: this rank's slices, which an optimizer moves; named ``slice.<parameter>``.
        owners: the parameter of each slice.
    """

    def __init__(self, parameters: Sequence[Parameter], mesh: Mesh):
        super().__init__(auto_prefix=False)
        spread = [parameter for parameter in parameters if cut_of(parameter)]
        whole = [parameter for parameter in parameters if not cut_of(parameter)]
        cuts = [cut_for(parameter.shape, mesh.world_size, mesh.rank) for parameter in whole]
        self.ranks, self.whole = mesh.world_size, ParameterTuple(whole)
        self.cut = ParameterTuple([_slice_of(each, cut, f"slice.{each.name}") for each, cut in zip(whole, cuts)])
        self.owners = (*spread, *whole)
        self.weights, self.parameters = ParameterTuple(self.owners), ParameterTuple((*spread, *self.cut))
        self.spread, self.sizes = len(spread), tuple(cut.size for cut in cuts)
        self.bounds = tuple(buckets([mesh.world_size * size for size in self.sizes]))
        self.offsets = tuple(tuple(int(sum(self.sizes[a:i])) for i in range(a, b)) for a, b in self.bounds)
        self.sum, self.gather = ReduceScatter(mesh), AllGather()
        self.total = ops.AllReduce()
        self.map_ = ops.HyperMap()

    def scatter(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of `weights` → the slices of their mean over ranks."""
        found, flat = (), None
        # Those of weights that are spread are summed already.
        for i in range(self.spread):
            found += (gradients[i] / self.ranks,)
        whole = gradients[self.spread :]
        for i in range(len(self.bounds)):
            first, last = self.bounds[i]
            sizes = self.sizes[first:last]
            rows = self.map_(ops.partial(_rows, self.ranks), sizes, whole[first:last])
            mine = _reshape(rows[0] if len(rows) == 1 else ops.concat(rows, 1), (-1,))
            # One after the other: ranks have to meet in the same order.
            flat = self.sum(mine if flat is None else ops.depend(mine, flat)) / self.ranks
            found += self.map_(ops.partial(_own, flat), self.offsets[i], sizes)
        return found

    def square_sum(self, own: Tensor) -> Tensor:
        """The sum over ranks of a scalar of their slices."""
        return self.total(own)

    def write_back(self) -> tuple:
        """Gives the whole parameters what the slices have now; what is returned has no meaning."""
        done, rows = (), None
        for i in range(len(self.bounds)):
            first, last = self.bounds[i]
            parts = self.cut[first:last]
            mine = parts[0] if len(parts) == 1 else ops.concat(parts)
            rows = _reshape(self.gather(mine if rows is None else ops.depend(mine, rows)), (self.ranks, -1))
            assign = ops.partial(_whole, self.ranks, rows)
            done += self.map_(assign, self.offsets[i], self.sizes[first:last], self.whole[first:last])
        return done

    def construct(self) -> tuple:
        return self.write_back()

    def refresh(self) -> None:
        """`write_back`, outside of a graph."""
        if self.sizes:
            self()

    def read(self) -> None:
        """Gives the slices what the whole parameters have now."""
        for parameter, own in zip(self.whole, self.cut):
            own.set_data(Tensor(_values(parameter, cut_of(own))))

    def named(self, states: Sequence[Parameter]) -> dict[str, Parameter]:
        """States of an optimizer of `parameters` by the names that they would have without slices.

        Those that are slices say so, see `mindone.checkpoint.slices.cut_of`.
        """
        slices = {own.name: (owner.name, cut_of(own)) for own, owner in zip(self.parameters, self.owners)}
        found = {}
        for state in states:
            kind, _, name = state.name.partition(".")
            if name in slices:
                owner, state.cut = slices[name]
                found[f"{kind}.{owner}"] = state
            else:
                found[state.name] = state
        return found


def _slice_of(whole: Parameter, cut: Cut, name: str) -> Parameter:
    """A parameter with a slice of another one's values, or without memory if that has none."""
    if whole.has_init:
        with runtime.lazy_parameters():
            own = Parameter(initializer("zeros", (cut.size,), whole.dtype), name)
    else:
        own = Parameter(Tensor(_values(whole, cut), whole.dtype), name)
    own.requires_grad, own.cut = whole.requires_grad, cut
    return own


def _values(parameter: Parameter, cut: Cut) -> np.ndarray:
    whole = parameter.asnumpy()
    values = np.zeros(cut.size, whole.dtype)
    values[: cut.count] = whole.reshape(-1)[cut.begin : cut.begin + cut.count]
    return values


class SpreadLinear(nn.Cell):
    """``x W^T`` of a weight (out, in) that is in slices: it is whole only while it is multiplied, in both passes."""

    def __init__(self, shape: tuple[int, int], mesh: Mesh):
        super().__init__(auto_prefix=False)
        self.shape, self.size = shape, shape[0] * shape[1]
        self.padded = mesh.world_size * cut_for(shape, mesh.world_size, mesh.rank).size
        self.gather, self.sum = AllGather(), ReduceScatter(mesh)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, self._whole(weight, x))

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        rows = _reshape(x, (-1, self.shape[1]))
        moved = _reshape(dout, (-1, self.shape[0]))
        of_x = _reshape(ops.matmul(moved, self._whole(weight, dout)), x.shape)
        of_weight = F.cast(ops.matmul(moved.swapaxes(0, 1), rows), ms.float32)
        flat = _filled_up(_reshape(of_weight, (-1,)), self.padded)
        # After the gathering of this layer: ranks have to meet in one order.
        return of_x, F.cast(self.sum(ops.depend(flat, of_x)), weight.dtype)

    def _whole(self, weight: Tensor, when: Tensor) -> Tensor:
        """The weight in the dtype of what it multiplies, gathered when that is there and not before."""
        own = F.cast(ops.depend(weight, when), when.dtype)
        return _reshape(_slice(self.gather(own), (0,), (self.size,)), self.shape)


class SpreadTable(nn.Cell):
    """Rows of a table (count, width) that is in slices of whole rows.

    Args:
        together: all ranks ask for the same rows at a time. Then each gives those that it has, and no rank ever has
            the table; otherwise it is whole while it is used, and also where more rows are asked for than it has.
    """

    def __init__(self, shape: tuple[int, int], mesh: Mesh, together: bool):
        super().__init__(auto_prefix=False)
        self.shape, self.size, self.together = shape, shape[0] * shape[1], together
        self.cut = rows_for(shape, mesh.world_size, mesh.rank)
        self.rows, self.first = self.cut.size // shape[1], self.cut.begin // shape[1]
        self.gather, self.total = AllGather(), ops.AllReduce()

    def construct(self, ids: Tensor, weight: Tensor) -> Tensor:
        """Integer ids (...) → (..., width) in the dtype of the weight, a slice (rows * width,)."""
        if not self.together or ids.size > self.shape[0]:
            return ops.gather(self.whole(weight, ids), ids, 0)
        places = F.cast(ids, ms.int32) - self.first
        mine = ops.logical_and(places >= 0, places < self.rows)
        rows = ops.gather(_reshape(weight, (self.rows, -1)), ops.where(mine, places, ops.zeros_like(places)), 0)
        return self.total(ops.where(mine.expand_dims(-1), rows, ops.zeros_like(rows)))

    def whole(self, weight: Tensor, when: Tensor) -> Tensor:
        """The table, gathered when another tensor is there and not before."""
        return _reshape(_slice(self.gather(ops.depend(weight, when)), (0,), (self.size,)), self.shape)


def rows_for(shape: tuple[int, int], ranks: int, rank: int) -> Cut:
    """A rank's slice of a table (count, width), of whole rows; the last ranks may have none."""
    size = -(-shape[0] // ranks) * shape[1]
    return Cut(tuple(shape), rank * size, size)


def spread(network: nn.Cell, mesh: Mesh, smallest: int = SMALLEST) -> list[Parameter]:
    """Replaces the weights of a network's linear layers by slices, this rank's of each, and returns those.

    A parameter without memory (`mindone.runtime.lazy_parameters`) stays so: a checkpoint then fills its slice alone.

    Args:
        smallest: weights with fewer elements stay whole.
    """
    found = []
    for _, layer in network.cells_and_names():
        if not isinstance(layer, Linear) or layer.spread is not None or layer.weight.size < smallest:
            continue
        whole = layer.weight
        cut = cut_for(whole.shape, mesh.world_size, mesh.rank)
        own = _slice_of(whole, cut, whole.name)
        layer.spread = SpreadLinear(tuple(whole.shape), mesh)
        layer.weight = own
        found.append(own)
    return found


def spread_tables(network: nn.Cell, mesh: Mesh, together: bool, smallest: int = SMALLEST) -> list[Parameter]:
    """Replaces the tables of embeddings by slices, this rank's of each, and returns those; see `spread`.

    For a network that is not trained: there is no gradient.

    Args:
        network: layers with a ``spread`` that is None and a ``table``, the name of a parameter (count, width).
        together: whether all ranks always ask for the same rows, as encoders of the same texts do.
        smallest: tables with fewer elements stay whole.
    """
    found = []
    for _, layer in network.cells_and_names():
        name = getattr(layer, "table", None)
        if name is None or layer.spread is not None or getattr(layer, name).size < smallest:
            continue
        whole = getattr(layer, name)
        layer.spread = SpreadTable(tuple(whole.shape), mesh, together)
        own = _slice_of(whole, layer.spread.cut, whole.name)
        setattr(layer, name, own)
        found.append(own)
    return found


def held_bytes(parameters: Iterable[Parameter]) -> tuple[int, int]:
    """The memory of this rank's parameters, and of the same if they were whole."""
    own, whole = 0, 0
    for parameter in parameters:
        own += parameter.size * parameter.itemsize
        whole += math.prod(whole_shape(parameter)) * parameter.itemsize
    return own, whole
