"""Dropout whose masks are functions of a seed that the step is given, so that a training can go on bit by bit.

MindSpore's own dropout keeps a counter that no checkpoint holds. Here a mask is computed from row and column of every
value by whole numbers below a prime, whose squares stay within int32 on every device.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

PRIME = 46337
"""Cubing is a permutation of the numbers below it: 3 does not divide PRIME - 1."""

_assign = ops.Assign()


def new_seeds() -> Parameter:
    """Two whole numbers below `PRIME`, which `SeededLoss` sets before every pass."""
    return Parameter(Tensor(np.zeros(2, np.int32)), name="dropout_seeds", requires_grad=False)


class SeededDropout(nn.Cell):
    """In training, zeroes a share ``rate`` of the values and divides the others by ``1 - rate``.

    Args:
        number: tells it from other ones with the same seeds.
    """

    def __init__(self, rate: float, number: int, seeds: Parameter):
        super().__init__(auto_prefix=False)
        self.rate, self.number, self.seeds = float(rate), int(number) * 7919 % PRIME, seeds

    def construct(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        columns = x.shape[-1]
        rows = x.size // columns
        first = _cube(self.seeds[0] + self.number)
        second = _cube(self.seeds[1] + self.number)
        row = ops.arange(rows).astype(ms.int32)
        row = _cube(_cube(row % PRIME + first) + row // PRIME)
        column = _cube(ops.arange(columns).astype(ms.int32) + second)
        drawn = _cube(_cube(row.reshape(-1, 1) + column) + first)
        kept = (drawn.astype(ms.float32) >= self.rate * PRIME).astype(x.dtype).reshape(x.shape)
        return x * kept * (1 / (1 - self.rate))


class SeededLoss(nn.Cell):
    """A loss cell with `SeededDropout` in it: ``(seeds, *inputs)``, where seeds are (2,) int32 below `PRIME`."""

    def __init__(self, loss: nn.Cell, seeds: Parameter):
        super().__init__(auto_prefix=False)
        self.loss, self.seeds = loss, seeds

    def construct(self, seeds: Tensor, *inputs):
        _assign(self.seeds, seeds)
        return self.loss(*inputs)


def _cube(x: Tensor) -> Tensor:
    x = x % PRIME
    return x * x % PRIME * x % PRIME
