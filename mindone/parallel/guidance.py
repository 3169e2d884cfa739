"""The branches of guidance (with the prompt, without it...) on several ranks: each computes rows of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn

from mindone.parallel.exchange import Exchange
from mindone.parallel.mesh import Mesh


class SharedRows(nn.Cell):
    """A network of which every rank of a row of the mesh computes some of the samples, and gets all of them.

    Called like the network; inputs with as many rows as the first one are split, others are the same for all samples.

    Args:
        told: attributes that the network is asked for beside being called.
    """

    def __init__(self, network: nn.Cell, mesh: Mesh, told: Sequence[str] = ()):
        super().__init__(auto_prefix=False)
        self.network, self.exchange = network, Exchange(mesh)
        for name in told:
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def construct(self, x: Tensor, *inputs: Tensor | None) -> Tensor:
        rows, own = (x.shape[0],), ()
        for value in inputs:
            if value is not None and value.shape[0] == x.shape[0]:
                own += (self.exchange.part(value, 0, rows),)
            else:
                own += (value,)
        return self.exchange.whole(self.network(self.exchange.part(x, 0, rows), *own), 0, rows)
