"""Keys and values that travel around a ring give the attention and the gradients of one process."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone.nn import functional as F
from mindone.parallel.ring import RingAttention
from mindone.testing.golden import use_mode

RANKS = 3


class Letters:
    """The exchange of one of three ranks, in one process: what others have sent until now; zeros for the rest."""

    def __init__(self, rank, sent, counts):
        self.ranks, self.rank, self.sent, self.rounds, self.counts = RANKS, rank, sent, 0, counts

    def passed_on(self, x, held):
        # Keys or values of one rank, (2, M, 2, 4), but not both in one.
        assert x.shape == (held[self.rank],) and sum(held) == 2 * 2 * 4 * sum(max(1, each) for each in self.counts)
        before, number = (self.rank - 1) % RANKS, self.rounds
        self.sent[self.rank, number], self.rounds = x.asnumpy(), number + 1
        return Tensor(self.sent.get((before, number), np.zeros(held[before], np.float32)))


def around(counts, run):
    """``run`` for every rank, until all letters have come: as often as one waits for another."""
    sent = {}
    for _ in range(2 * RANKS):
        found = [run(RingAttention(Letters(rank, sent, counts), counts), rank) for rank in range(RANKS)]
    return found


def parts(x, counts):
    """What each rank has of (B, M, h, d); one that has none holds the last."""
    ends = np.cumsum(counts)
    return [Tensor(x[:, end - count : end] if count else x[:, -1:]) for end, count in zip(ends, counts)]


@pytest.mark.parametrize("counts", [(3, 2, 2), (1, 0, 4)])
def test_a_ring_of_uneven_parts_attends_as_one_process(counts):
    use_mode("pynative")
    rng, total = np.random.default_rng(0), sum(counts)
    q, k, v, d_out = (rng.standard_normal((2, total, 2, 4)).astype(np.float32) for _ in range(4))
    expected = F.attention(*map(Tensor, (q, k, v))).asnumpy()
    slopes = ops.GradOperation(get_all=True, sens_param=True)(Whole())(*map(Tensor, (q, k, v, d_out)))
    # Queries may be others than keys: here the first and the last rank have all of them.
    queries = (total, 1, total)
    own = [parts(x, counts) for x in (k, v)]

    def mine(x, rank):
        return Tensor(x[:, : queries[rank]])

    outs = around(counts, lambda ring, rank: ring.construct(mine(q, rank), own[0][rank], own[1][rank]))
    for rank, (out, _) in enumerate(outs):
        np.testing.assert_allclose(out.asnumpy(), expected[:, : queries[rank]], atol=1e-5)
    shares = (0.5, 0, 0.5)

    def back(ring, rank):
        d = (mine(d_out * shares[rank], rank), None)
        return ring.bprop(mine(q, rank), own[0][rank], own[1][rank], outs[rank], d)

    found = around(counts, back)
    np.testing.assert_allclose(found[0][0].asnumpy() + found[2][0].asnumpy(), slopes[0].asnumpy(), atol=1e-5)
    for index in (1, 2):
        together = np.concatenate([found[rank][index].asnumpy() for rank in range(RANKS) if counts[rank]], 1)
        np.testing.assert_allclose(together, slopes[index].asnumpy(), atol=1e-5)


class Whole(nn.Cell):
    def construct(self, q, k, v):
        return F.attention(q, k, v)


def test_sums_of_large_scores_do_not_overflow():
    use_mode("pynative")
    sums = [Tensor(np.full((1, 1, 1), value, np.float32)) for value in (1000.0, -1000.0)]
    values = [Tensor(np.full((1, 1, 1, 2), value, np.float32)) for value in (1.0, 5.0)]
    for first, second in ((0, 1), (1, 0)):
        out, total = F.merged((values[first], sums[first]), (values[second], sums[second]))
        assert out.dtype == ms.float32 and (out.asnumpy() == 1).all() and total.asnumpy().item() == 1000
