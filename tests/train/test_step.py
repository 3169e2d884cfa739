"""The compiled training update."""

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindone import runtime
from mindone.nn import layers
from mindone.testing import golden
from mindone.train.ema import Ema
from mindone.train.optim import AdamW
from mindone.train.step import LossScale, SpikeGuard, StepState, TrainStep

DATA = np.random.default_rng(1)
INPUTS = DATA.normal(size=(6, 8, 4)).astype(np.float32)
TARGETS = DATA.normal(size=(6, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def graph_mode():
    golden.use_mode("graph")


class Regression(nn.Cell):
    """A two-layer network's mean squared error, and its mean prediction to report."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.first = Parameter(Tensor(rng.normal(size=(8, 4)).astype(np.float32)), name="first")
        self.second = Parameter(Tensor(rng.normal(size=(1, 8)).astype(np.float32)), name="second")
        self.offset = Parameter(Tensor(0.1, ms.float32), name="offset")

    def construct(self, x, y):
        prediction = ops.dense(ops.tanh(ops.dense(x, self.first)), self.second)[:, 0] + self.offset
        return ops.square(prediction - y).mean(), (prediction.mean(),)


class Training:
    """`Regression` under training, with the inputs of update ``i`` cut into micro batches."""

    def __init__(self, micro_batches=1, ema_decay=0.9, **settings):
        self.network = Regression()
        self.weights = self.network.trainable_params()
        self.optimizer = AdamW(self.weights, weight_decay=0.01)
        self.ema = Ema(self.weights, ema_decay)
        self.micro_batches = micro_batches
        settings.setdefault("max_grad_norm", 0.5)
        self.step = TrainStep(self.network, self.optimizer, self.ema, accumulation_steps=micro_batches, **settings)

    def pieces(self, i, inputs=None):
        x, y = INPUTS[i] if inputs is None else inputs, TARGETS[i]
        k = self.micro_batches
        return [(np.ascontiguousarray(x[j::k]), np.ascontiguousarray(y[j::k])) for j in range(k)]

    def update(self, i, lr=0.01, inputs=None):
        return self.step([(Tensor(x), Tensor(y)) for x, y in self.pieces(i, inputs)], lr, i)

    def values(self):
        state = (*self.weights, *self.ema.averages, *self.optimizer.state().values())
        return [parameter.asnumpy().copy() for parameter in state]


def test_accumulated_micro_batches_equal_one_large_batch(mode):
    whole, pieces = Training(), Training(micro_batches=2)
    for i in range(3):
        a, b = whole.update(i), pieces.update(i)
        np.testing.assert_allclose(a.loss.asnumpy(), b.loss.asnumpy(), rtol=1e-6)
        np.testing.assert_allclose(a.grad_norm.asnumpy(), b.grad_norm.asnumpy(), rtol=1e-6)
        np.testing.assert_allclose(a.aux[0].asnumpy(), b.aux[0].asnumpy(), atol=1e-6)
    for a, b in zip(whole.values(), pieces.values()):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_ema_and_update_count_move_once_per_update_and_not_per_micro_batch():
    training = Training(micro_batches=4)
    averages = [weight.asnumpy().copy() for weight in training.weights]
    for i in range(2):
        training.update(i)
        averages = [0.9 * average + 0.1 * w.asnumpy() for average, w in zip(averages, training.weights)]
    for average, expected in zip(training.ema.averages, averages):
        np.testing.assert_allclose(average.asnumpy(), expected, rtol=1e-6, atol=1e-7)
    assert float(training.optimizer.step.asnumpy()) == 2


def test_gradients_are_clipped_to_the_global_norm_of_all_parameters():
    clipped, free = Training(max_grad_norm=0.5), Training(max_grad_norm=None)
    norm = float(free.update(0).grad_norm.asnumpy())
    assert norm > 0.5
    assert float(clipped.update(0).grad_norm.asnumpy()) == pytest.approx(norm)
    for a, b in zip(clipped.optimizer.exp_avg, free.optimizer.exp_avg):
        np.testing.assert_allclose(a.asnumpy(), b.asnumpy() * 0.5 / norm, rtol=1e-5)


def test_a_step_goes_on_from_its_state_as_if_nothing_had_been():
    first, second = Training(), Training()
    first.update(0)
    for ours, theirs in zip(second.weights, first.weights):
        ours.set_data(Tensor(theirs.asnumpy()))
    saved = first.step.state()
    arrays = {group: {name: p.asnumpy().copy() for name, p in each.items()} for group, each in saved.arrays.items()}
    second.step.load_state(StepState(arrays, saved.numbers))
    for i in (1, 2):
        first.update(i), second.update(i)
    assert all(np.array_equal(a, b) for a, b in zip(first.values(), second.values()))


def test_the_compiler_has_nothing_to_complain_about_accumulation():
    script = "import test_step; test_step.golden.use_mode('graph'); test_step.Training(micro_batches=2).update(0)"
    environment = {**os.environ, "GLOG_v": "2"}
    folder = Path(__file__).parent
    found = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "side effect" not in found.stderr + found.stdout


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_an_update_with_nan_is_skipped_counted_and_leaves_no_trace(micro_batches):
    training = Training(micro_batches)
    training.update(0)
    before = training.values()
    poisoned = INPUTS[1].copy()
    poisoned[0, 0] = np.nan
    assert not bool(training.update(1, inputs=poisoned).finite.asnumpy())
    assert training.step.skipped == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, training.values()))
    assert bool(training.update(2).finite.asnumpy())
    assert np.isfinite(training.values()[0]).all()


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_an_update_whose_loss_is_a_spike_is_left_out_and_the_usual_loss_is_remembered(micro_batches):
    training = Training(micro_batches, spikes=SpikeGuard(5.0, warmup=2))
    for i in range(3):
        assert training.update(i).accepted
    before, usual = training.values(), training.step.spikes.mean
    spiked = [(Tensor(x), Tensor(y + 100)) for x, y in training.pieces(3)]
    result = training.step(spiked, 0.01, 3)
    assert bool(result.finite.asnumpy()) != result.accepted and training.step.skipped == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, training.values()))
    assert training.step.spikes.mean == usual and usual > 0
    again = Training(micro_batches, spikes=SpikeGuard(5.0, warmup=2))
    again.step.load_state(training.step.state())
    assert again.step.spikes == training.step.spikes
    assert training.update(4).accepted


def test_the_usual_loss_is_the_mean_of_those_that_were_accepted():
    guard = SpikeGuard(3.0, warmup=2)
    for loss, accepted in ((1.0, True), (3.0, True), (50.0, False)):
        assert guard.limit == (float("inf") if guard.seen < 2 else 6.0)
        guard.after(loss, accepted)
    assert guard.mean == 2.0 and guard.limit == 6.0


def test_the_loss_scale_changes_neither_loss_nor_update():
    plain, scaled = Training(), Training(loss_scale=LossScale(1024.0))
    for i in range(2):
        a, b = plain.update(i), scaled.update(i)
        assert float(a.loss.asnumpy()) == pytest.approx(float(b.loss.asnumpy()), rel=1e-6)
    for a, b in zip(plain.values(), scaled.values()):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_dynamic_loss_scale_falls_after_an_overflow_and_rises_after_a_window_without():
    scale = LossScale(1024.0, dynamic=True, factor=2.0, window=2)
    seen = []
    for finite in (True, False, True, True, True):
        scale.after(finite)
        seen.append(scale.value)
    assert seen == [1024.0, 512.0, 512.0, 1024.0, 1024.0]


def test_averaged_weights_stand_in_for_the_trained_ones_only_within_the_context():
    training = Training()
    training.update(0)
    raw = [weight.asnumpy().copy() for weight in training.weights]
    with training.ema.applied():
        loss_of_average = training.network(Tensor(INPUTS[0]), Tensor(TARGETS[0]))[0].asnumpy()
        assert all(np.array_equal(w.asnumpy(), a.asnumpy()) for w, a in zip(training.weights, training.ema.averages))
    assert all(np.array_equal(w.asnumpy(), values) for w, values in zip(training.weights, raw))
    assert float(training.network(Tensor(INPUTS[0]), Tensor(TARGETS[0]))[0].asnumpy()) != float(loss_of_average)


def test_training_goes_on_from_its_own_weights_after_the_averages_were_used():
    disturbed, plain = Training(), Training()
    for i in range(3):
        for training in (disturbed, plain):
            training.update(i)
        with disturbed.ema.applied():
            disturbed.network(Tensor(INPUTS[0]), Tensor(TARGETS[0]))
    assert all(np.array_equal(a, b) for a, b in zip(disturbed.values(), plain.values()))


def test_ema_warm_up_begins_with_small_decays_and_ends_at_the_given_one():
    ema = Ema(Regression().trainable_params(), decay=0.99, warmup=True)
    assert [1 - ema.rate(update) for update in (0, 8, 10_000)] == pytest.approx([0.1, 0.5, 0.99])


def test_an_average_of_weights_from_a_checkpoint_begins_at_these():
    with runtime.lazy_parameters():
        layer = layers.Linear(2, 3)
    for parameter in layer.get_parameters():
        parameter.set_data(Tensor(np.full(parameter.shape, 3.0, np.float32)))
    averages = Ema(layer.trainable_params()).averages
    assert all(np.array_equal(average.asnumpy(), np.full(average.shape, 3.0)) for average in averages)
