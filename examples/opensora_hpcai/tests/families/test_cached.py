"""Sampling that leaves blocks out in some steps: what is the same as without it, and what is left out."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindone.diffusion.rectified_flow import RectifiedFlow, RectifiedFlowConfig
from mindone.diffusion.shifted_flow import ShiftedFlow, ShiftedFlowConfig
from mindone.diffusion.step_cache import Broadcast, TeaCache, TeaCacheRun
from opensora.config.generate import Sampler as SamplerSettings
from opensora.families.base import SampleRequest
from opensora.families.cached import Broadcasted, TeaCached
from opensora.families.diffusion import DiffusionSampler
from opensora.families.mmdit import GuidedSampler
from opensora.families.stdit import FlowSampler
from opensora.models.mmdit import MMDiT, MMDiTConfig
from opensora.models.stdit import STDiT, STDiTConfig
from opensora.models.stdit2 import STDiT2, STDiT2Config
from opensora.models.stdit3 import STDiT3, STDiT3Config
from opensora.timestep_shift import size_ratio

STEPS = 4
SIZE = (9, 32, 32)
ITSELF, EACH_STEP = (1.0, 0.0), (1.0,)
WIDTHS = {
    "hidden_size": 24,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 1.0,
    "caption_channels": 6,
    "model_max_length": 3,
}


def lively(network):
    """Weights of which every part moves the result."""
    rng = np.random.default_rng(0)
    for name, parameter in network.parameters_and_names():
        norm = "norm" in name and name.endswith(("weight", "scale"))
        value = norm + 0.3 * rng.normal(size=parameter.shape)
        parameter.set_data(ms.Tensor(value.astype(np.float32)))
    return network.set_train(False)


def stdit3(cache=None):
    settings = RectifiedFlowConfig(num_sampling_steps=STEPS, cfg_scale=3.0)
    return FlowSampler(lively(STDiT3(STDiT3Config(**WIDTHS))), RectifiedFlow(settings, size_ratio), step_cache=cache)


def diffusion(network, cache=None):
    settings = SamplerSettings(sampling="ddim", sampling_steps=STEPS, guidance_scale=3.0, guidance_channels=3)
    return DiffusionSampler(lively(network), settings, step_cache=cache)


def stdit(cache=None):
    return diffusion(STDiT(STDiTConfig(**WIDTHS)), cache)


def stdit2(cache=None):
    return diffusion(STDiT2(STDiT2Config(**WIDTHS)), cache)


def mmdit(cache=None):
    config = MMDiTConfig(16, 5, 6, 24, 1.0, 2, 1, 1, (4, 4, 4))
    flow = ShiftedFlow(ShiftedFlowConfig(num_steps=STEPS, guidance=3.0))
    return GuidedSampler(lively(MMDiT(config)), flow, step_cache=cache)


SAMPLERS = {"STDiT": stdit, "STDiT2": stdit2, "STDiT3": stdit3, "MMDiT": mmdit}


def request(count=2, mask=None, first=0):
    """Samples ``first`` and so on of a row of samples, each a stronger noise than the one before."""
    rows = [np.random.default_rng(first + row) for row in range(count)]
    noise = np.stack([rng.normal(size=(4, 2, 4, 4)) * (first + row + 1) for row, rng in enumerate(rows)])
    text = np.stack([rng.normal(size=(3, 6)) for rng in rows]).astype(np.float32)
    pooled = np.stack([rng.normal(size=5) for rng in rows]).astype(np.float32)
    told = {"text": text, "text_mask": np.ones((count, 3), np.int32), "pooled": pooled}
    return SampleRequest(noise.astype(np.float32), told, SIZE, 8, edit_mask=mask, step_noise=lambda step: noise * 0)


def last(sampler, asked):
    if isinstance(sampler, GuidedSampler):
        asked = replace(asked, negative={name: values * 0 for name, values in asked.text.items()})
    *_, result = sampler.steps(asked)
    return result


@pytest.fixture(autouse=True)
def without_compiling():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def test_every_part_compiles_and_samples_as_it_does_without_compiling():
    rules = [TeaCache(1e9, ITSELF), TeaCache(1.5, EACH_STEP, 1, 2)]
    everywhere = Broadcast(2, (-1, 1001))
    caches = [lambda rule=rule: TeaCached(rule) for rule in rules]
    caches.append(lambda: Broadcasted(everywhere, everywhere, everywhere))
    expected = [last(stdit3(make()), request()) for make in caches]
    ms.set_context(mode=ms.GRAPH_MODE)
    for make, values in zip(caches, expected):
        np.testing.assert_allclose(last(stdit3(make()), request()), values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_cache_that_never_skips_is_the_plain_sampler_bit_for_bit(name):
    plain = last(SAMPLERS[name](), request())
    tea = TeaCached(TeaCache(0.0, ITSELF))
    np.testing.assert_array_equal(last(SAMPLERS[name](tea), request()), plain)
    assert (tea.spent.computed, tea.spent.steps) == (STEPS, STEPS)
    if name != "MMDiT":
        always = Broadcasted(*[Broadcast(1)] * 3)
        np.testing.assert_array_equal(last(SAMPLERS[name](always), request()), plain)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_cache_with_no_step_to_leave_out_is_the_plain_sampler_with_a_forecast_too(name):
    tea = TeaCached(TeaCache(1.0, EACH_STEP, 1))
    np.testing.assert_array_equal(last(SAMPLERS[name](tea), request()), last(SAMPLERS[name](), request()))
    assert tea.spent.computed == STEPS


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_forecast_is_of_the_sample_alone_and_of_both_branches_of_guidance(name):
    """With guidance there are two rows per sample, of which each is forecast by the sample's own times."""
    rule = TeaCache(1.5, EACH_STEP, 1, 2)
    together, alone, repeated = TeaCached(rule), TeaCached(rule), TeaCached(replace(rule, order=0))
    pair, single = last(SAMPLERS[name](together), request()), SAMPLERS[name](alone)
    for row in range(2):
        np.testing.assert_allclose(last(single, request(1, first=row))[0], pair[row], rtol=1e-4, atol=1e-4)
    assert (last(SAMPLERS[name](repeated), request()) != pair).any()
    assert (together.spent.computed, together.spent.steps) == (3, STEPS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_between_the_first_and_the_last_step_blocks_do_not_run(name, monkeypatch):
    tea, runs = TeaCached(TeaCache(1e9, ITSELF)), []
    sampler = SAMPLERS[name](tea)
    network = {"STDiT": STDiT, "STDiT2": STDiT2, "STDiT3": STDiT3, "MMDiT": MMDiT}[name]
    blocks = network.run_blocks
    monkeypatch.setattr(network, "run_blocks", lambda self, *inputs: (runs.append(1), blocks(self, *inputs))[1])
    assert np.isfinite(last(sampler, request())).all()
    assert (tea.spent.computed, tea.spent.steps) == (len(runs), STEPS) == (2, STEPS)
    assert tea.spent.speed == STEPS / 2


class Residual(nn.Cell):
    """A guided network whose input never changes, and whose blocks count their runs in Python."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.network = self
        self.timestep_place = 1
        self.runs = 0

    def arguments(self, *inputs):
        return inputs

    def guide(self, output, inputs):
        return output

    def embed(self, x, t):
        return x * 0 + 1, t

    def run_blocks(self, x, state):
        self.runs += 1
        return x * 3

    def head(self, x, state):
        return x + state.reshape(-1, 1)

    def first_input(self, x, state):
        return x


class Linear(Residual):
    """Its blocks add 3 times the timestep, in every row another multiple of it."""

    def embed(self, x, t):
        return x * 0, t

    def run_blocks(self, x, state):
        self.runs += 1
        return x + (state * 3 * ms.Tensor(np.arange(1, len(state) + 1), ms.float32)).reshape(-1, 1)

    def head(self, x, state):
        return x


@pytest.mark.parametrize("order", [1, 2])
def test_what_blocks_add_is_forecast_exactly_if_it_is_linear_in_time(order):
    network, tea = Linear(), TeaCached(TeaCache(1e9, ITSELF, order, 2))
    predict, x = tea.start(network, 6), ms.Tensor(np.ones((2, 3), np.float32))
    for t in (9.0, 7.0, 4.0, 3.5, 1.0, 0.5):
        found = predict(x, ms.Tensor(np.full(2, t, np.float32))).asnumpy()
        np.testing.assert_allclose(found, [[3 * t] * 3, [6 * t] * 3], rtol=1e-5)
    assert network.runs == 3


def test_samples_that_disagree_are_forecast_each_from_its_own_steps(monkeypatch):
    network, tea = Linear(), TeaCached(TeaCache(0.0, EACH_STEP, 1))
    plan = iter([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1]])
    monkeypatch.setattr(TeaCacheRun, "computes", lambda *given: np.array(next(plan), bool))
    predict, x = tea.start(network, 5), ms.Tensor(np.ones((2, 3), np.float32))
    found = [predict(x, ms.Tensor(np.full(2, t, np.float32))).asnumpy()[:, 0] for t in (9.0, 7.0, 4.0, 3.0, 0.0)]
    # The second sample has one result, of 9, until it computes again.
    np.testing.assert_allclose(found, [[27, 54], [21, 54], [12, 24], [9, 18], [0, 0]], rtol=1e-5, atol=1e-5)
    assert (network.runs, tea.spent.computed) == (4, 4)


def test_a_constant_input_is_skipped_and_the_head_still_sees_the_step():
    network, tea = Residual(), TeaCached(TeaCache(0.5, ITSELF))
    predict = tea.start(network, 5)
    x = ms.Tensor(np.ones((2, 3), np.float32))
    found = [predict(x, ms.Tensor(np.full(2, step, np.float32))).asnumpy()[0, 0] for step in range(5)]
    assert found == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert network.runs == 2
    assert tea.spent.speed == 2.5


def test_a_sample_is_made_of_the_same_steps_in_any_batch():
    """Two samples that change at different speeds: in one batch each decides by itself."""
    both = TeaCached(TeaCache(0.0, ITSELF))
    last(stdit3(both), request())
    rates = np.stack(both.distances)
    assert not np.allclose(rates[:, 0], rates[:, 1])
    # Between what the first two changes of the two samples are: one computes in the second step, the other does not.
    rule = TeaCache(float(rates[0].mean()), ITSELF)
    together, alone = TeaCached(rule), TeaCached(rule)
    pair, single = last(stdit3(together), request()), stdit3(alone)
    for row in range(2):
        np.testing.assert_allclose(last(single, request(1, first=row))[0], pair[row], rtol=0, atol=2e-5)
    assert together.spent.computed >= 3
    assert alone.spent.computed < 2 * STEPS


def test_frames_that_join_make_the_blocks_run():
    tea = TeaCached(TeaCache(1e9, ITSELF))
    mask = np.array([[0.6, 1.0], [0.0, 1.0]], np.float32)
    asked = replace(request(mask=mask), edit_noise=lambda step: np.zeros((2, 4, 2, 4, 4), np.float32))
    plain = last(stdit3(), asked)
    found = last(stdit3(tea), asked)
    assert tea.spent.computed == 3
    np.testing.assert_array_equal(found[1, :, 0], plain[1, :, 0])


@pytest.mark.parametrize("name", ["STDiT", "STDiT2", "STDiT3"])
def test_attention_is_reused_in_the_steps_between_and_the_result_is_another(name):
    everywhere = (-1, 1001)
    pab = Broadcasted(*[Broadcast(2, everywhere)] * 3)
    plain, found = last(SAMPLERS[name](), request()), last(SAMPLERS[name](pab), request())
    assert (pab.spent.computed, pab.spent.steps) == (2 + 2 / 4, STEPS)
    assert np.isfinite(found).all()
    assert (found != plain).any()
