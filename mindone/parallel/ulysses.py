"""Ulysses (arXiv:2309.14509): ranks have different tokens, and in an attention all tokens of different heads.

Only the tokens within a frame are split, so that attention along time needs no exchange.
"""

from __future__ import annotations

from mindspore import Tensor, ops

from mindone.parallel.exchange import Exchange
from mindone.parallel.mesh import Mesh
from mindone.parallel.sequence import NoParallel, Size

TOKENS = 2


class TokenParts(NoParallel):
    """Ranks have different tokens of every frame.

    Args:
        mesh: the ranks of whose rows share their samples.
    """

    def __init__(self, mesh: Mesh):
        super().__init__(auto_prefix=False)
        self.exchange = Exchange(mesh)

    def split(self, x: Tensor) -> Tensor:
        return self.exchange.part(x, TOKENS, (x.shape[TOKENS],))

    def gather(self, x: Tensor, size: Size) -> Tensor:
        return self.exchange.whole(x, TOKENS, size[1:])


class Ulysses(TokenParts):
    """Two exchanges per attention within frames."""

    def before_attention(self, parts: tuple[Tensor, ...], axis: str, size: Size) -> tuple[Tensor, ...]:
        if axis == "time":
            return parts
        # One message for all of them.
        together = parts[0] if len(parts) == 1 else ops.concat(parts, 3)
        together = self.exchange.switch(together, 4, (together.shape[4],), TOKENS, size[1:])
        return (together,) if len(parts) == 1 else ops.split(together, parts[0].shape[3], 3)

    def after_attention(self, x: Tensor, axis: str, size: Size, heads: int) -> Tensor:
        return x if axis == "time" else self.exchange.switch(x, TOKENS, size[1:], 3, (heads,))
