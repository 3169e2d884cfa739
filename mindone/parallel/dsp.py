"""Dynamic sequence parallelism (DSP, arXiv:2403.10266): whole frames within a frame, whole columns along time.

Ranks have different frames in spatial blocks and different tokens of all frames in temporal ones, so that every
attention is within one rank; what moves are the tokens between the blocks.
"""

from __future__ import annotations

from mindspore import Tensor

from mindone.parallel.exchange import Exchange
from mindone.parallel.mesh import Mesh
from mindone.parallel.sequence import NoParallel, Size

FRAMES, TOKENS = 1, 2


class DynamicSequence(NoParallel):
    """Two exchanges per pair of spatial and temporal block.

    Args:
        mesh: the ranks of whose rows share their samples.
    """

    def __init__(self, mesh: Mesh):
        super().__init__(auto_prefix=False)
        self.exchange = Exchange(mesh)

    def split(self, x: Tensor) -> Tensor:
        return self.exchange.part(x, FRAMES, (x.shape[FRAMES],))

    def gather(self, x: Tensor, size: Size) -> Tensor:
        return self.exchange.whole(x, FRAMES, size[:1])

    def frames(self, values: Tensor, axis: str) -> Tensor:
        if axis == "time" or values.shape[FRAMES] == 1:
            return values
        return self.exchange.part(values, FRAMES, (values.shape[FRAMES],))

    def to_temporal(self, x: Tensor, size: Size) -> Tensor:
        return self.exchange.switch(x, TOKENS, size[1:], FRAMES, size[:1])

    def to_spatial(self, x: Tensor, size: Size) -> Tensor:
        return self.exchange.switch(x, FRAMES, size[:1], TOKENS, size[1:])
