"""Ring attention (arXiv:2310.01889): ranks have different tokens; keys and values travel from rank to rank.

A rank attends with its own queries, of all heads, to the keys that it has at a time; what it finds is joined by the
logarithms of the softmax's sums. So any number of ranks can share a video, also more than there are heads, and none
has the keys of all tokens. In the backward pass keys and values travel again, and their gradients with them: nothing of
other ranks is kept in between.

For networks that ask the strategy for the attention itself (`NoParallel.attention`), all whose tokens see each other.

Legend: `B` batch, `N` queries and `M` keys of a rank, `h` heads, `d` head size.
"""

from __future__ import annotations

import functools

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone import runtime
from mindone.nn import functional as F
from mindone.parallel.exchange import Exchange
from mindone.parallel.mesh import Mesh
from mindone.parallel.sequence import Size
from mindone.parallel.ulysses import TokenParts

Pair = tuple[Tensor, Tensor]


class Ring(TokenParts):
    """One round of keys and values per attention.

    Args:
        mesh: the ranks of whose rows share their samples.
    """

    def __init__(self, mesh: Mesh):
        super().__init__(mesh)
        self.place = (mesh.rank, mesh.world_size, mesh.sequence, runtime.kernels())

    def positions(self, values: Tensor, size: Size) -> Tensor:
        return self.exchange.part(values, values.ndim - 2, size[1:])

    def attention(self, q: Tensor, k: Tensor, v: Tensor, size: Size) -> Tensor:
        runs = size[1:]
        k, v = self.exchange.owned(k, 1, runs), self.exchange.owned(v, 1, runs)
        return F.cast(_ring_attention(self.place, runs)(q, k, v)[0], q.dtype)


class RingAttention(nn.Cell):
    """q (B, N, h, d), k and v (B, M, h, d) of a rank → attended values (B, N, h, d) and their log-sums, float32.

    Args:
        exchange: the ranks.
        counts: how many keys each rank has; one that has none holds one that nobody attends to.
    """

    def __init__(self, exchange: Exchange, counts: tuple[int, ...]):
        super().__init__(auto_prefix=False)
        self.exchange, self.counts, self.held = exchange, counts, tuple([max(1, count) for count in counts])
        self.ranks, self.rank = exchange.ranks, exchange.rank
        self.after, self.zeros = ops.Depend(), ops.ZerosLike()

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> Pair:
        here, found = (k, v), ()
        for step in range(self.ranks):
            coming = self._passed(here, step) if step < self.ranks - 1 else here
            if self.counts[self._owner(step)]:
                part = F.attention_part(q, *here)
                found = F.merged(found, part) if found else part
                # The next round waits for this one: else the keys of all ranks might arrive first.
                coming = (self.after(coming[0], found[0]), coming[1])
            here = coming
        return found

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, out: Pair, d_out: Pair) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients go round with the keys and values that they belong to, one step further: home."""
        # Nothing is sent before what led here was sent, computed again or not.
        here, slopes, d_q = (self.after(k, out[0]), self.after(v, d_out[0])), (), ()
        for step in range(self.ranks):
            coming = self._passed(here, step) if step < self.ranks - 1 else here
            if self.counts[self._owner(step)]:
                of_q, of_k, of_v = F.attention_part_gradients(q, *here, *out, d_out[0])
                d_q = (d_q[0] + of_q,) if d_q else (of_q,)
                slopes = (slopes[0] + of_k, slopes[1] + of_v) if slopes else (of_k, of_v)
            elif step == 0:
                slopes = (self.zeros(F.cast(k, ms.float32)), self.zeros(F.cast(v, ms.float32)))
            # All ranks send in one order: keys, then gradients, then the next keys.
            slopes = self._passed((self.after(slopes[0], coming[0]), slopes[1]), step)
            here = (self.after(coming[0], slopes[0]), coming[1])
        return F.cast(d_q[0], q.dtype), F.cast(slopes[0], k.dtype), F.cast(slopes[1], v.dtype)

    def _owner(self, step: int) -> int:
        """The rank whose keys are here after so many rounds."""
        return (self.rank - step) % self.ranks

    def _passed(self, pair: Pair, step: int) -> Pair:
        """What has come after ``step`` rounds goes to the next rank; returns what comes.

        In two messages: joined into one, keys and values would be in memory once more at either end. The first waits
        for both of the pair, and what has come is used when both have.
        """
        first = self._sent(self.after(pair[0], pair[1]), step)
        second = self._sent(self.after(pair[1], first), step)
        return self.after(first, second), second

    def _sent(self, part: Tensor, step: int) -> Tensor:
        shape, held = part.shape, ()
        for rank in range(self.ranks):
            held += (shape[0] * shape[2] * shape[3] * self.held[(rank - step) % self.ranks],)
        flat = self.exchange.passed_on(part.reshape(-1), held)
        return flat.reshape(shape[0], self.held[self._owner(step + 1)], shape[2], shape[3])


@functools.cache
def _ring_attention(place: tuple[int, int, int, str], runs: tuple[int, ...]) -> RingAttention:
    """One cell for all attentions of a kind: sizes are its own, for a backward pass takes tensors alone."""
    rank, world_size, sequence, _ = place
    exchange = Exchange(Mesh(rank, world_size, sequence))
    return RingAttention(exchange, tuple(exchange.count(runs, other) for other in range(sequence)))
