import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindone import runtime
from mindone.diffusion.guidance import classifier_free
from mindone.diffusion.rectified_flow import (
    RectifiedFlow,
    RectifiedFlowConfig,
    point_on_path,
    timestep_transform,
    training_loss,
)
from mindone.errors import UserError

SIZE = (64, 64, 17)


def ratio_of_frames(height, width, num_frames):
    return np.sqrt(np.asarray(height * width * num_frames, np.float32)) / 64


def rng(seed=0):
    return np.random.default_rng(seed)


def draw(flow, count=4000, size=SIZE):
    return flow.draw_timesteps([runtime.stream(1, "timestep", 0, i) for i in range(count)], *size)


def distance_to(samples, cumulative):
    """The Kolmogorov-Smirnov distance between samples and a distribution."""
    ordered = np.sort(samples)
    expected = cumulative(ordered)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return max(np.abs(expected - steps[:-1]).max(), np.abs(expected - steps[1:]).max())


def test_uniform_timesteps_are_uniform_and_differ_within_a_batch():
    t = draw(RectifiedFlow())
    assert len(np.unique(t)) > 3900
    assert distance_to(t, lambda x: x / 1000) < 0.03


def test_discrete_uniform_timesteps_are_whole_numbers_below_the_end():
    t = draw(RectifiedFlow(RectifiedFlowConfig(sample_method="discrete-uniform", num_timesteps=10)))
    assert np.array_equal(np.unique(t), np.arange(10))
    assert np.abs(np.bincount(t.astype(int)) / len(t) - 0.1).max() < 0.02


def test_logit_normal_timesteps_have_the_asked_median_and_spread():
    t = draw(RectifiedFlow(RectifiedFlowConfig(sample_method="logit-normal", loc=0.5, scale=0.8))) / 1000.0
    logit = np.log(t / (1 - t))
    assert abs(np.median(logit) - 0.5) < 0.05
    assert abs(logit.std() - 0.8) < 0.04


def test_a_sample_draws_the_same_timestep_in_any_batch():
    flow = RectifiedFlow(
        RectifiedFlowConfig(sample_method="logit-normal", use_timestep_transform=True), ratio_of_frames
    )
    together = draw(flow, 3)
    alone = flow.draw_timesteps([runtime.stream(1, "timestep", 0, 2)], *SIZE)
    assert together[2] == alone[0]


@pytest.mark.parametrize("ratio", [0.01, 1.0, 30.0, np.full(3, 3.3, np.float32)])
def test_transform_keeps_both_ends(ratio):
    t = np.array([0, 500, 1000], np.float32)
    shifted = timestep_transform(t, ratio)
    assert shifted.dtype == np.float32
    assert shifted[0] == 0
    assert 999.99 < shifted[2] <= 1000
    assert np.sign(shifted[1] - 500) == np.sign(np.max(ratio) - 1)


def test_the_transform_needs_a_rule_for_the_size_and_scales_what_it_gives():
    config = RectifiedFlowConfig(use_timestep_transform=True, transform_scale=0.5)
    with pytest.raises(UserError, match="size_ratio"):
        RectifiedFlow(config)
    flow = RectifiedFlow(config, ratio_of_frames)
    draws = np.array([0.25, 0.75], np.float32)
    np.testing.assert_array_equal(
        flow.timesteps_from_draws(draws, 64, 64, 16), timestep_transform(draws * 1000, ratio_of_frames(64, 64, 16) / 2)
    )


@pytest.mark.parametrize(
    "wrong", [{"sample_method": "normal"}, {"num_sampling_steps": 0}, {"transform_scale": 0.0}, {"scale": -1.0}]
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        RectifiedFlowConfig(**wrong)


def test_given_frames_stay_exact_and_do_not_count_in_the_loss():
    x, noise = rng().normal(size=(2, 2, 3, 4, 4, 4)).astype(np.float32)
    mask = np.array([[True, False, True, True], [False, False, False, False]])
    x, noise = x.swapaxes(2, 3)[:, :, :4], noise.swapaxes(2, 3)[:, :, :4]
    t = np.array([400.0, 900.0], np.float32)
    noised = point_on_path(x, noise, t, mask)
    assert np.array_equal(noised[0, :, 1], x[0, :, 1])
    assert np.array_equal(noised[1], x[1])
    assert not np.allclose(noised[0, :, 0], x[0, :, 0])
    wrong_in_given = x - noise
    wrong_in_given[0, :, 1] += 100
    loss = training_loss(wrong_in_given, x, noise, mask)
    assert np.array_equal(loss, [0, 0])


class LossCell(nn.Cell):
    def construct(self, x, noise, t, mask):
        noised = point_on_path(x, noise, t, mask)
        prediction = ms.ops.cat((noised * 0.3, noised), 1)
        return training_loss(prediction, x, noise, mask)


def test_noise_and_loss_are_the_same_in_a_network_as_on_the_host(mode):
    x, noise = rng().normal(size=(2, 3, 4, 2, 3, 3)).astype(np.float32)
    t = np.array([10.0, 500.0, 990.0], np.float32)
    mask = np.array([[True, True], [True, False], [False, False]])
    noised = point_on_path(x, noise, t, mask)
    expected = training_loss(np.concatenate([noised * np.float32(0.3), noised], 1), x, noise, mask)
    result = LossCell()(*map(ms.Tensor, (x, noise, t, mask))).asnumpy()
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def linear_velocity(latents, t, frames_mask):
    return -0.5 * latents - (t / 1000).reshape(-1, 1, 1, 1, 1).astype(np.float32)


def last(steps):
    *_, result = steps
    return result


def test_sampling_follows_a_constant_velocity_to_the_data():
    noise, data = rng().normal(size=(2, 2, 4, 3, 2, 2)).astype(np.float32)
    flow = RectifiedFlow(RectifiedFlowConfig(num_sampling_steps=7, use_timestep_transform=True), ratio_of_frames)
    result = last(flow.sample(lambda z, t, mask: data - noise, noise, *SIZE))
    np.testing.assert_allclose(result, data, atol=1e-5)


def test_sampling_yields_the_latents_after_every_step_and_leaves_the_start_alone():
    noise = rng().normal(size=(1, 2, 3, 2, 2)).astype(np.float32)
    before = noise.copy()
    steps = list(RectifiedFlow(RectifiedFlowConfig(num_sampling_steps=5)).sample(linear_velocity, noise, *SIZE))
    assert len(steps) == 5
    assert all(not np.array_equal(a, b) for a, b in zip(steps, steps[1:]))
    assert np.array_equal(noise, before)


def test_a_batch_of_three_samples_as_three_batches_of_one():
    noise = rng().normal(size=(3, 2, 3, 2, 2)).astype(np.float32)
    flow = RectifiedFlow(RectifiedFlowConfig(num_sampling_steps=4, use_timestep_transform=True), ratio_of_frames)
    sizes = [np.array([64, 128, 256]), np.array([64, 64, 512]), np.array([17, 1, 51])]
    mask = np.array([[1, 1, 1], [0, 1, 0.5], [0.5, 0.2, 1]], np.float32)
    extra = rng(1).normal(size=(4, *noise.shape)).astype(np.float32)
    together = last(flow.sample(linear_velocity, noise, *sizes, mask, lambda step: extra[step]))
    for i in range(3):
        part = slice(i, i + 1)
        size = [value[part] for value in sizes]
        alone = last(
            flow.sample(linear_velocity, noise[part], *size, mask[part], lambda step, part=part: extra[step, part])
        )
        np.testing.assert_array_equal(together[part], alone)


def test_masked_frames_keep_their_latents():
    latents = rng().normal(size=(2, 2, 4, 3, 3)).astype(np.float32)
    mask = np.array([[0, 1, 1, 0], [1, 1, 0, 1]], np.float32)
    seen = []

    def velocity(z, t, frames_mask):
        seen.append(frames_mask)
        return linear_velocity(z, t, frames_mask)

    result = last(RectifiedFlow(RectifiedFlowConfig(num_sampling_steps=6)).sample(velocity, latents, *SIZE, mask))
    kept = mask == 0
    np.testing.assert_array_equal(result.swapaxes(1, 2)[kept], latents.swapaxes(1, 2)[kept])
    assert (result.swapaxes(1, 2)[~kept] != latents.swapaxes(1, 2)[~kept]).all()
    assert all(np.array_equal(frames_mask, mask == 1) for frames_mask in seen)


def test_an_edited_frame_is_noised_once_when_it_joins():
    latents = np.zeros((1, 1, 2, 1, 1), np.float32)
    asked = []

    def step_noise(step):
        asked.append(step)
        return np.full_like(latents, 10)

    flow = RectifiedFlow(RectifiedFlowConfig(num_sampling_steps=10))
    zero = lambda z, t, mask: np.zeros_like(z)  # noqa: E731
    result = last(flow.sample(zero, latents, *SIZE, np.array([[0.5, 1.0]]), step_noise))
    assert asked == [5]
    np.testing.assert_allclose(result.ravel(), [5, 0])


def test_editing_without_noise_is_refused():
    latents = np.zeros((1, 1, 2, 1, 1), np.float32)
    with pytest.raises(UserError, match="step_noise"):
        list(RectifiedFlow().sample(linear_velocity, latents, *SIZE, np.array([[0.5, 1.0]])))


def test_guidance_keeps_the_first_channels_and_pairs_each_sample_with_its_own_half():
    prediction = rng().normal(size=(6, 4, 2)).astype(np.float32)
    guided = classifier_free(prediction, 3.0, channels=2)
    assert guided.shape == (3, 2, 2)
    np.testing.assert_allclose(guided[1], prediction[4, :2] + 3 * (prediction[1, :2] - prediction[4, :2]), rtol=1e-6)
    np.testing.assert_allclose(classifier_free(prediction, 1.0, 2), prediction[:3, :2], rtol=1e-5, atol=1e-6)
