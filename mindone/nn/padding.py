"""Margins around the last axes of a tensor: zeros, or copies of what lies at the edge."""

from __future__ import annotations

import functools

from mindspore import Tensor, nn, ops

Padding = tuple[tuple[int, int], ...]


def pad_zeros(x: Tensor, padding: Padding) -> Tensor:
    """Zeros (before, after) on each of the last axes; joined, because `ops.pad` is slower and takes no bfloat16."""
    for axis, (before, after) in enumerate(padding, start=x.ndim - len(padding)):
        head, tail = x.shape[:axis], x.shape[axis + 1 :]
        if before:
            x = ops.concat((ops.zeros((*head, before, *tail), x.dtype), x), axis)
        if after:
            x = ops.concat((x, ops.zeros((*head, after, *tail), x.dtype)), axis)
    return x


def pad_edges(x: Tensor, padding: Padding) -> Tensor:
    """Copies (before, after) of the first and last slice of each of the last axes."""
    for axis, (before, after) in enumerate(padding, start=x.ndim - len(padding)):
        if before or after:
            x = _edge_pad(axis, before, after)(x)
    return x


class _EdgePad(nn.Cell):
    """`pad_edges` of one axis. Its gradient adds the margins to the edges in one pass over the tensor."""

    def __init__(self, axis: int, before: int, after: int):
        super().__init__()
        self.axis, self.before, self.after = axis, before, after
        self.join = ops.Concat(axis)
        self.slice = ops.Slice()
        self.sum = ops.ReduceSum(keep_dims=True)

    def construct(self, x: Tensor) -> Tensor:
        length = x.shape[self.axis]
        return self.join((self._part(x, 0, 1),) * self.before + (x,) + (self._part(x, length - 1, 1),) * self.after)

    def bprop(self, x: Tensor, _: Tensor, dy: Tensor) -> tuple[Tensor]:
        length = x.shape[self.axis]
        if length == 1:
            return (self.sum(dy, self.axis),)
        first = self.sum(self._part(dy, 0, self.before + 1), self.axis)
        last = self.sum(self._part(dy, self.before + length - 1, self.after + 1), self.axis)
        if length == 2:
            return (self.join((first, last)),)
        return (self.join((first, self._part(dy, self.before + 1, length - 2), last)),)

    def _part(self, x: Tensor, start: int, length: int) -> Tensor:
        begin = (0,) * self.axis + (start,) + (0,) * (x.ndim - 1 - self.axis)
        return self.slice(x, begin, x.shape[: self.axis] + (length,) + x.shape[self.axis + 1 :])


@functools.cache
def _edge_pad(axis: int, before: int, after: int) -> _EdgePad:
    return _EdgePad(axis, before, after)
