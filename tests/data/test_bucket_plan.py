"""Batches of several sizes: planned ahead, mixed, and the same for any number of ranks."""

import itertools
import pickle

import numpy as np
import pytest

from mindone.data.errors import BadSample
from mindone.data.loader import Loader
from mindone.data.plan import BucketPlan, BucketSize
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh

BUCKETS = [BucketSize("small", (1, 8, 8), 4), BucketSize("long", (5, 8, 8), 2), BucketSize("never", (9, 8, 8), 0)]


class ByPlace:
    """Samples go to two buckets in turn, and every fifth has none; with chance, two thirds of the others neither."""

    def __init__(self, length, chance=False):
        self.chance = chance
        self.found = np.where(np.arange(length) % 5 == 4, -1, np.arange(length) % 2)

    def assign(self, draw):
        if not self.chance:
            return self.found
        samples = np.arange(len(self.found))
        return np.where(draw(3, "keep", samples) < 1 / 3, self.found, -1)


def plan_of(length=200, chance=False, **settings):
    return BucketPlan(ByPlace(length, chance), length, BUCKETS, **settings)


class Numbers:
    """Samples that are their own numbers and sizes; some are bad."""

    def __init__(self, length, bad=()):
        self.length, self.bad = length, bad

    def __len__(self):
        return self.length

    def get(self, index, rng, size):
        if index in self.bad:
            raise BadSample(f"{index} is bad")
        return {"index": index, "draw": float(rng.random()), "frames": size[0]}


def seen(plan, mesh=None, state=None, epochs=1, bad=()):
    """What a rank loads: size, indices, draws, per batch."""
    loader = Loader(Numbers(plan.length, bad), plan, mesh=mesh, max_bad_fraction=1)
    loader.state = state or loader.state
    count = sum(len(plan.epoch(number)) for number in range(epochs)) - loader.state["batch"]
    return [
        (batch.size, batch.indices, tuple(batch.arrays["draw"]), batch.start, batch.total)
        for batch in itertools.islice(loader, count)
    ]


def test_every_batch_has_samples_of_one_bucket_and_no_sample_comes_twice():
    plan = plan_of(ranks=2)
    epoch = plan.epoch(0)
    batches = [epoch[number] for number in range(len(epoch))]
    indices = [index for batch in batches for index in batch.indices]
    assert len(set(indices)) == len(indices)
    for batch in batches:
        (bucket,) = {plan.assigned(0)[index] for index in batch.indices}
        assert (batch.size, len(batch)) == (BUCKETS[bucket].size, 2 * BUCKETS[bucket].batch_size)
    positions = [position for batch in batches for position in batch.positions]
    assert positions == list(range(len(positions)))


def test_sizes_alternate_over_the_whole_epoch():
    plan = BucketPlan(ByPlace(4000), 4000, BUCKETS)
    steps = plan.epoch(0).steps
    share = (steps == 0).mean()
    for part in np.array_split(steps, 8):
        assert (part == 0).mean() == pytest.approx(share, abs=0.05)


def test_a_plan_depends_on_its_seed_and_epoch_alone():
    def indices(plan, epoch):
        return [plan.epoch(epoch)[number].indices for number in range(len(plan.epoch(epoch)))]

    plan = plan_of(chance=True, seed=3)
    assert indices(plan, 5) == indices(plan_of(chance=True, seed=3), 5)
    assert indices(pickle.loads(pickle.dumps(plan)), 5) == indices(plan, 5)
    assert indices(plan, 5) != indices(plan, 6)
    assert indices(plan, 5) != indices(plan_of(chance=True, seed=4), 5)


def test_the_number_of_batches_is_known_before():
    for plan in (plan_of(), plan_of(chance=True)):
        assert len(seen(plan, epochs=4)) == sum(len(plan.epoch(number)) for number in range(4))
        assert len(Loader(Numbers(plan.length), plan)) == len(plan.epoch(0))


def test_an_epoch_that_has_no_batch_by_chance_is_passed_over():
    plan = plan_of(length=12, chance=True, seed=1)
    lengths = [len(plan.epoch(number)) for number in range(30)]
    assert lengths[0] and 0 in lengths
    assert len(seen(plan, epochs=30)) == sum(lengths)


def test_all_ranks_have_the_same_size_in_every_step():
    plan = plan_of(ranks=2)
    ranks = [seen(plan, Mesh(rank, 2)) for rank in range(2)]
    assert [(size, len(indices)) for size, indices, *_ in ranks[0]] == [
        (size, len(indices)) for size, indices, *_ in ranks[1]
    ]


def test_another_number_of_ranks_goes_through_the_same_samples_with_the_same_draws():
    plan = plan_of(ranks=2)
    alone = seen(plan, bad=(7, 20))
    both = [seen(plan, Mesh(rank, 2), bad=(7, 20)) for rank in range(2)]
    assert alone == [
        (size, first + second, draws + others, 0, total)
        for (size, first, draws, _, total), (_, second, others, *_) in zip(*both)
    ]
    middle = {"epoch": 0, "batch": 9}
    assert seen(plan, state=middle, bad=(7, 20)) == alone[9:]
    with pytest.raises(UserError, match="a batch of 4 samples cannot be shared out among 3 ranks"):
        seen(plan, Mesh(0, 3))


def test_a_bad_sample_is_replaced_by_one_of_its_bucket():
    plan = plan_of()
    bad = plan.epoch(0)[3].indices[0]
    before, after = seen(plan), seen(plan, bad=(bad,))
    assert after[3][1][0] != before[3][1][0] and after[3][1][1:] == before[3][1][1:]
    assert plan.assigned(0)[after[3][1][0]] == plan.assigned(0)[bad]
    for number in range(len(plan.epoch(0))):
        batch = plan.epoch(0)[number]
        for index, position in zip(batch.indices, batch.positions):
            others = list(plan.epoch(0).stand_ins(position))
            assert index not in others
            assert {plan.assigned(0)[other] for other in others} == {plan.assigned(0)[index]}


def test_no_batch_at_all_is_refused_with_what_each_bucket_lacks():
    with pytest.raises(UserError) as refusal:
        plan_of(length=5, ranks=8)
    assert str(refusal.value) == (
        "no bucket has enough samples for one batch of 8 ranks: long has 2 of 16 samples and lacks 14; small has 2 of "
        "32 samples and lacks 30; use smaller batch sizes or more data"
    )
    with pytest.raises(UserError, match="none of 1 samples falls into a bucket"):
        BucketPlan(Nowhere(), 1, BUCKETS)


class Nowhere:
    def assign(self, draw):
        return np.array([-1])


def test_plans_of_other_batches_have_another_digest():
    digests = {
        plan_of().digest,
        plan_of(ranks=2).digest,
        plan_of(seed=1).digest,
        plan_of(fingerprint="another table").digest,
        plan_of(length=201).digest,
    }
    assert len(digests) == 5
    assert plan_of().digest == plan_of().digest


def test_batches_of_one_shape_are_counted_once():
    twice = [*BUCKETS[:2], BucketSize("small again", (1, 8, 8), 4)]
    plan = BucketPlan(Thirds(), 300, twice)
    assert plan.epoch(0).shapes() == 2


class Thirds:
    def assign(self, draw):
        return np.arange(300) % 3
