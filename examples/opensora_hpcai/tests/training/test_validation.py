"""The validation loss: against the original, and that nothing but samples and timesteps decides it."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone import runtime
from mindone.data.errors import BadSample
from mindone.data.metadata import Metadata
from mindone.diffusion.rectified_flow import RectifiedFlow, RectifiedFlowConfig
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh
from mindone.train.tracker import Trackers
from opensora.data.buckets import rules_1
from opensora.families.base import LatentBatch
from opensora.families.stdit import FlowObjective
from opensora.timestep_shift import size_ratio
from opensora.training import validation
from opensora.training.planning import Buckets
from opensora.training.validation import SizedBatch, Validation, ValidationLoss

SIZE = (5, 24, 16)


class StandIn(nn.Cell):
    """The reference runs' network: a part of the input, the timestep and the text."""

    condition_names = ()
    takes_frames_mask = True

    def construct(self, x, timestep, y, mask=None, x_mask=None, drop=None):
        text = y.reshape(y.shape[0], -1).mean(1)
        velocity = 0.3 * x + (0.02 * timestep / 100 + 0.2 * text).reshape(-1, 1, 1, 1, 1)
        if x_mask is not None:
            velocity = velocity * (0.5 + 0.5 * x_mask.astype(ms.float32)[:, None, :, None, None])
        return ops.concat((velocity, ops.zeros_like(velocity)), 1)


class Inputs:
    """Hands out latents and texts by the samples' numbers."""

    def __init__(self, latents, texts, masks=None):
        self.latents, self.texts, self.masks = latents, texts, masks

    def latent_batch(self, batch, place):
        rows = list(batch.indices)
        ones = np.ones(len(rows), np.float32)
        text = {"text": self.texts[rows], "text_mask": np.ones((len(rows), self.texts.shape[1]), np.int32)}
        masks = None if self.masks is None else self.masks[rows]
        return LatentBatch(Tensor(self.latents[rows]), text, 8 * ones, 5 * ones, 24 * ones, 16 * ones, masks)


class Samples:
    """A data set in which some samples cannot be read."""

    def __init__(self, bad=()):
        self.bad = bad

    def get(self, index, rng, size=None):
        if index in self.bad:
            raise BadSample(f"{index} is damaged")
        return {"index": index}


def make_loss(latents, texts, masks=None, bad=(), timesteps=10):
    flow = RectifiedFlow(RectifiedFlowConfig(use_timestep_transform=True), size_ratio)
    objective = FlowObjective(flow, (), dropout=1.0)
    return ValidationLoss(objective, StandIn(), Inputs(latents, texts, masks), Samples(bad), timesteps)


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 4, 2, 3, 2)).astype(np.float32), rng.normal(size=(5, 3, 4)).astype(np.float32)


@pytest.mark.golden("v12_eval_loss")
@pytest.mark.parametrize("case", ["plain", "masked"])
def test_the_loss_at_every_timestep_is_the_originals(golden_case, mode, monkeypatch, case):
    inputs, expected = golden_case.inputs, golden_case.outputs
    noise = np.concatenate([inputs[f"noise{i}"] for i in range(3)], 1)
    monkeypatch.setattr(
        validation.Place, "normal", lambda place, name, shape: noise[place.step - 1, list(place.positions)]
    )
    latents, texts, masks = (np.concatenate([inputs[f"{name}{i}"] for i in range(3)]) for name in ("x", "y", "mask"))
    loss = make_loss(latents, texts[:, 0], masks if case == "masked" else None)
    np.testing.assert_allclose(1000 * loss.points, expected["timesteps"], rtol=1e-6)
    per_sample = np.array([loss.sums(SizedBatch(SIZE, (index,)))[:-1] for index in range(8)]).T
    of_batches = sum(loss.sums(SizedBatch(SIZE, indices)) for indices in ((0, 1, 2), (3, 4, 5), (6, 7)))
    per_timestep = of_batches[:-1] / of_batches[-1]
    for name, value in (
        ("loss_per_sample", per_sample),
        ("loss_per_timestep", per_timestep),
        ("loss", per_timestep.mean()),
    ):
        reference = expected[f"{case}/{name}"]
        assert np.abs(value - reference).max() <= 1e-5 * np.abs(reference).max()


def evaluate(loss, batch_size, mesh=None, tmp_path=None):
    batches = validation.batches_of_one_size(5, SIZE, batch_size)
    return Validation(loss, batches, None, tmp_path, Trackers(), mesh or Mesh()).evaluate()


def test_the_loss_depends_on_samples_and_not_on_batches_ranks_or_earlier_validations(samples, tmp_path, monkeypatch):
    (name, (count, alone)), *rest = evaluate(make_loss(*samples), 1, tmp_path=tmp_path).items()
    assert (name, count, rest) == ("5x24x16", 5, [])
    loss = make_loss(*samples)
    for batch_size in (2, 5, 2):
        np.testing.assert_allclose(evaluate(loss, batch_size, tmp_path=tmp_path)["5x24x16"][1], alone, rtol=1e-5)
    parts = []
    monkeypatch.setattr(validation, "sum_over_ranks", lambda values, mesh: parts.append(values) or values)
    for rank in range(2):
        evaluate(loss, 2, Mesh(rank, 2), tmp_path)
    np.testing.assert_allclose(sum(parts)[0, :-1] / 5, alone, rtol=1e-5)


def test_bad_samples_are_left_out_with_a_warning(samples, tmp_path, caplog):
    found = evaluate(make_loss(*samples, bad=(1, 4)), 2, tmp_path=tmp_path)
    assert found["5x24x16"][0] == 3 and "a validation sample is left out: 4 is damaged" in caplog.text
    with pytest.raises(UserError, match="none of the validation samples can be used"):
        evaluate(make_loss(*samples, bad=range(5)), 2, tmp_path=tmp_path)


def test_numbers_are_written_per_timestep_and_a_resumed_run_goes_on_below(samples, tmp_path):
    loss, batches = make_loss(*samples, timesteps=3), validation.batches_of_one_size(5, SIZE, 2)
    run = Validation(loss, batches, None, tmp_path, Trackers(), Mesh())
    for step in (2, 4):
        run(step)
    before = (tmp_path / "validation.log").read_text().splitlines()
    assert before[0].split("\t") == [
        "step",
        "size",
        "samples",
        "loss",
        "loss at 0.250",
        "loss at 0.500",
        "loss at 0.750",
    ]
    assert before[1].split("\t")[:3] == ["2", "5x24x16", "5"]
    Validation(loss, batches, None, tmp_path, Trackers(), Mesh(), resumed_at=2)(4)
    assert (tmp_path / "validation.log").read_text().splitlines() == before


def test_samples_of_buckets_are_validated_at_their_buckets_sizes():
    rules = rules_1({"144p": {1: [1.0, 8], 17: [1.0, 2]}})
    metadata = Metadata(*(np.array(values) for values in ([1, 40, 40, 1, 40], [144] * 5, [256] * 5, [8.0] * 5)))
    interval = np.ones(5, np.int32)
    buckets = Buckets(rules, metadata, interval, rules.fit(metadata, interval))
    found = validation.batches_of_buckets(buckets, 2)
    assert {batch.size[0]: batch.indices for batch in found[:1]} == {17: (1, 2)}
    assert sorted(index for batch in found for index in batch.indices) == list(range(5))
    small = dataclasses.replace(metadata, height=np.full(5, 8), width=np.full(5, 8))
    with pytest.raises(UserError, match="no validation sample falls into a bucket: 5 smaller than every resolution"):
        validation.batches_of_buckets(Buckets(rules, small, interval, rules.fit(small, interval)), 2)


def test_validation_draws_nothing_that_a_run_draws():
    assert runtime.stream(0, "validation", 0, "take").random() != runtime.stream(0, "bucket", 0, 0, "take").random()
