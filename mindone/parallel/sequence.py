"""Sequence parallelism as a strategy object that a video network calls at fixed places.

The network is written for one device. It hands its tokens to the strategy where they can be split over ranks
(`split`), gathered (`gather`), around every self-attention (`before_attention`, `after_attention`) and between spatial
and temporal blocks (`to_temporal`, `to_spatial`); where all tokens see each other, it asks for the attention itself
(`positions`, `attention`). Which of these exchange anything is the strategy's business.

``size`` is that of all ranks' tokens together, plain numbers: frames, then tokens of a frame, (T, S); or (1, L, N) for
runs of tokens one after the other, such as text and video, each of which is split by itself.

Legend: `B` batch, `T` frames, `S` tokens of a frame, `D` width, `h` heads, `d` head size.
"""

from __future__ import annotations

from typing import Literal

from mindspore import Tensor, nn

from mindone.nn import functional as F
from mindone.parallel.mesh import Mesh

Size = tuple[int, ...]
Way = Literal["ulysses", "dsp", "ring"]


class NoParallel(nn.Cell):
    """Every rank works on all tokens of its own batch; the interface that other strategies implement."""

    def split(self, x: Tensor) -> Tensor:
        """All tokens (B, T, S, D), equal on all ranks → the tokens of this rank."""
        return x

    def gather(self, x: Tensor, size: Size) -> Tensor:
        """The tokens of this rank → all tokens (B, T, S, D), equal on all ranks."""
        return x

    def frames(self, values: Tensor, axis: str) -> Tensor:
        """Values per frame (B, T, ...), or (B, 1, ...) for all → those of the frames seen by a block of ``axis``."""
        return values

    def before_attention(self, parts: tuple[Tensor, ...], axis: str, size: Size) -> tuple[Tensor, ...]:
        """Projections, each (B, T, S, n, h, d) → with all tokens along ``axis`` (``space`` or ``time``)."""
        return parts

    def after_attention(self, x: Tensor, axis: str, size: Size, heads: int) -> Tensor:
        """Attended values (B, T, S, h, d) → back as they were before `before_attention`, with ``heads`` heads."""
        return x

    def positions(self, values: Tensor, size: Size) -> Tensor:
        """Values per token of all runs (..., N, n) → those of the tokens that `attention` is given."""
        return values

    def attention(self, q: Tensor, k: Tensor, v: Tensor, size: Size) -> Tensor:
        """Attention among all tokens of all runs, given what `before_attention` gave: each (B, N, h, d)."""
        return F.attention(q, k, v)

    def to_temporal(self, x: Tensor, size: Size) -> Tensor:
        """Tokens that leave a spatial block → as the temporal blocks want them."""
        return x

    def to_spatial(self, x: Tensor, size: Size) -> Tensor:
        """Tokens that leave a temporal block → as the spatial blocks want them."""
        return x


def make_strategy(mesh: Mesh, way: Way) -> NoParallel | None:
    """How the ranks of a row share their samples.

    Args:
        way: by tokens and heads (``ulysses``), by frames and tokens in turn (``dsp``), or by tokens alone (``ring``).
    Returns:
        None where every rank has samples of its own.
    """
    from mindone.parallel.dsp import DynamicSequence
    from mindone.parallel.ring import Ring
    from mindone.parallel.ulysses import Ulysses

    if mesh.sequence == 1:
        return None
    return {"ulysses": Ulysses, "dsp": DynamicSequence, "ring": Ring}[way](mesh)
