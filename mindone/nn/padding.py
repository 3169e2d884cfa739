"""Margins around the last axes of a tensor: zeros, or copies of what lies at the edge."""

from __future__ import annotations

from mindspore import Tensor, ops

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
            first, last = ops.narrow(x, axis, 0, 1), ops.narrow(x, axis, x.shape[axis] - 1, 1)
            x = ops.concat((first,) * before + (x,) + (last,) * after, axis)
    return x
