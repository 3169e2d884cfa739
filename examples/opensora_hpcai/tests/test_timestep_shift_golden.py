"""Training losses and sampling of rectified flow against the numbers of the original Open-Sora 1.2 scheduler."""

import numpy as np
import pytest
from mindspore import nn, ops

from mindone.diffusion.guidance import classifier_free
from mindone.diffusion.rectified_flow import RectifiedFlow, RectifiedFlowConfig, timestep_transform, training_loss
from mindone.testing.golden import as_tensor
from opensora.timestep_shift import size_ratio

# The sidecars give these limits in words.
LOSS_RTOL, T_RTOL, T_ATOL, SAMPLE_OVER_MAX = 1e-4, 1e-5, 1e-3, 1e-4


def column(values):
    return values.reshape(-1, 1, 1, 1, 1)


def toy_model(x, t, y, concatenate, sine, x_mask=None):
    """The toy network of the sidecar on arrays or tensors; the second half of its channels must not matter."""
    first = 0.3 * x + 0.1 * column(t / 1000) + 0.05 * column(y.reshape(y.shape[0], -1).mean(1))
    if x_mask is not None:
        first = first + 0.02 * x_mask[:, None, :, None, None]
    return concatenate((first, 0.2 * sine(3 * x) - 0.1), 1)


class LossOfToyModel(nn.Cell):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def construct(self, x_start, noise, t, y, mask=None):
        noised = self.flow.add_noise(x_start, noise, t, mask)
        prediction = toy_model(noised, t, y, ops.concat, ops.sin)
        return noised, training_loss(prediction, x_start, noise, mask)


@pytest.mark.golden("sched_v12_rflow_losses")
def test_training_losses_and_timesteps_match_the_original(golden_case, mode):
    given, expected = golden_case.inputs, golden_case.outputs
    size = given["height"], given["width"], given["num_frames"]
    cell = LossOfToyModel(RectifiedFlow())
    for name, variant in golden_case.sidecar["variants"].items():
        flow = RectifiedFlow(RectifiedFlowConfig(**variant["ctor"]), size_ratio)
        t = given["t"] if variant["draw"] is None else flow.timesteps_from_draws(given[variant["draw"]], *size)
        inputs = (given["x_start"], given["noise"], t, given["y"], *([given["mask"]] if variant["mask"] else []))
        noised, loss = (output.asnumpy() for output in cell(*map(as_tensor, inputs)))
        if name == "given_t":
            np.testing.assert_allclose(noised, expected["x_t"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(t, expected[f"{name}/t"], rtol=T_RTOL, err_msg=name)
        np.testing.assert_allclose(loss, expected[f"{name}/loss"], rtol=LOSS_RTOL, err_msg=name)


@pytest.mark.golden("sched_v12_rflow_losses")
def test_timestep_transform_matches_the_original_table(golden_case):
    for height, width, frames, t, scale, expected in golden_case.sidecar["timestep_transform"]["rows"]:
        np.testing.assert_allclose(
            timestep_transform(t, size_ratio(height, width, frames) * scale), expected, rtol=T_RTOL
        )


@pytest.mark.golden("sched_v12_rflow_sampling")
def test_sampling_matches_the_original_step_by_step(golden_case):
    for name, variant in golden_case.sidecar["variants"].items():
        expected = {key: golden_case.outputs[f"{name}/{key}"] for key in ("sample", "model_inputs", "model_timesteps")}
        inputs, timesteps, result = sample(variant, golden_case.inputs)
        np.testing.assert_allclose(timesteps, expected["model_timesteps"], rtol=T_RTOL, atol=T_ATOL, err_msg=name)
        for actual, reference in ((inputs, expected["model_inputs"]), (result, expected["sample"])):
            assert np.abs(actual - reference).max() <= SAMPLE_OVER_MAX * np.abs(reference).max(), name


def test_videos_shorter_than_a_chunk_count_as_images():
    ratios = size_ratio(64, 64, np.array([1, 9, 16, 17]))
    assert ratios.dtype == np.float32
    np.testing.assert_allclose(ratios * 8, [1, 1, 1, np.sqrt(5)], rtol=1e-6)


def sample(variant, given):
    """Latents and timesteps that the model saw at every step, and the result."""
    flow = RectifiedFlow(RectifiedFlowConfig(**variant["ctor"]), size_ratio)
    scale = variant.get("guidance_scale", flow.config.cfg_scale)
    y = np.concatenate([given["y_cond"], given["y_null"]])
    seen = []

    def velocity(z, t, frames_mask):
        seen.append((z, t))
        mask = None if frames_mask is None else np.tile(frames_mask, (2, 1))
        prediction = toy_model(np.concatenate([z, z]), np.tile(t, 2), y, np.concatenate, np.sin, mask)
        return classifier_free(prediction, scale, z.shape[1])

    steps = flow.sample(
        velocity,
        given["z"],
        *(given[name] for name in ("height", "width", "num_frames")),
        edit_mask=given["mask"] if variant["mask"] else None,
        step_noise=lambda step: given["step_noise"][step],
    )
    *_, result = steps
    inputs, timesteps = zip(*seen)
    return np.stack(inputs), np.stack(timesteps), result
