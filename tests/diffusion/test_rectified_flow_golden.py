"""Training losses and sampling of rectified flow against the numbers of the original Open-Sora 1.2 scheduler."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mindone.diffusion.guidance import classifier_free
from mindone.diffusion.rectified_flow import RectifiedFlow, RectifiedFlowConfig, timestep_transform, training_loss

GOLDEN = Path(__file__).parent.parent / "golden"
LOSS_RTOL, T_RTOL, T_ATOL, SAMPLE_OVER_MAX = 1e-4, 1e-5, 1e-3, 1e-4


def read(stem):
    tensors = load_file(GOLDEN / f"{stem}.safetensors")
    return json.loads((GOLDEN / f"{stem}.json").read_text()), tensors


def toy_model(x, t, y=None, x_mask=None):
    """The toy network of the sidecar; the second half of its channels must not matter."""
    column = lambda values: np.reshape(values, (-1, 1, 1, 1, 1)).astype(np.float32)  # noqa: E731
    first = np.float32(0.3) * x + np.float32(0.1) * column(t / 1000)
    if y is not None:
        first = first + np.float32(0.05) * column(y.reshape(len(y), -1).mean(1))
    if x_mask is not None:
        first = first + np.float32(0.02) * x_mask[:, None, :, None, None]
    return np.concatenate([first, 0.2 * np.sin(3 * x) - 0.1], axis=1)


@pytest.mark.golden
def test_training_losses_and_timesteps_match_the_original():
    sidecar, tensors = read("sched_v12_rflow_losses")
    given = {name.removeprefix("inputs/"): value for name, value in tensors.items() if name.startswith("inputs/")}
    size = given["height"], given["width"], given["num_frames"]
    for name, variant in sidecar["variants"].items():
        flow = RectifiedFlow(RectifiedFlowConfig(**variant["ctor"]))
        draws = variant["draw"]
        t = given["t"] if draws is None else flow.timesteps_from_draws(given[draws], *size)
        mask = given["mask"] if variant["mask"] else None
        noised = flow.add_noise(given["x_start"], given["noise"], t, mask)
        if name == "given_t":
            np.testing.assert_allclose(noised, tensors["outputs/x_t"], rtol=1e-5, atol=1e-6)
        loss = training_loss(toy_model(noised, t, given["y"]), given["x_start"], given["noise"], mask)
        np.testing.assert_allclose(t, tensors[f"outputs/{name}/t"], rtol=T_RTOL, err_msg=name)
        np.testing.assert_allclose(loss, tensors[f"outputs/{name}/loss"], rtol=LOSS_RTOL, err_msg=name)


@pytest.mark.golden
def test_timestep_transform_matches_the_original_table():
    sidecar, _ = read("sched_v12_rflow_losses")
    for height, width, frames, t, scale, expected in sidecar["timestep_transform"]["rows"]:
        np.testing.assert_allclose(timestep_transform(t, height, width, frames, scale), expected, rtol=T_RTOL)


@pytest.mark.golden
def test_sampling_matches_the_original_step_by_step():
    sidecar, tensors = read("sched_v12_rflow_sampling")
    given = {name.removeprefix("inputs/"): value for name, value in tensors.items() if name.startswith("inputs/")}
    for name, variant in sidecar["variants"].items():
        expected = {key: tensors[f"outputs/{name}/{key}"] for key in ("sample", "model_inputs", "model_timesteps")}
        inputs, timesteps, result = sample(variant, given)
        np.testing.assert_allclose(timesteps, expected["model_timesteps"], rtol=T_RTOL, atol=T_ATOL, err_msg=name)
        for actual, reference in ((inputs, expected["model_inputs"]), (result, expected["sample"])):
            assert np.abs(actual - reference).max() <= SAMPLE_OVER_MAX * np.abs(reference).max(), name


def sample(variant, given):
    """Latents and timesteps that the model saw at every step, and the result."""
    flow = RectifiedFlow(RectifiedFlowConfig(**variant["ctor"]))
    scale = variant.get("guidance_scale", flow.config.cfg_scale)
    y = np.concatenate([given["y_cond"], given["y_null"]])
    seen = []

    def velocity(z, t, frames_mask):
        seen.append((z, t))
        mask = None if frames_mask is None else np.tile(frames_mask, (2, 1))
        return classifier_free(toy_model(np.concatenate([z, z]), np.tile(t, 2), y, mask), scale, z.shape[1])

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
