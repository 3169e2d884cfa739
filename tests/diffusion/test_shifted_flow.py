import numpy as np
import pytest

from mindone import runtime
from mindone.diffusion.guidance import text_and_image
from mindone.diffusion.shifted_flow import (
    ShiftedFlow,
    ShiftedFlowConfig,
    draw_timesteps,
    oscillating,
    pack,
    point_on_path,
    shift_of,
    shifted,
    timesteps_from_draws,
    token_positions,
    unpack,
    velocity_of,
)
from mindone.errors import UserError
from mindone.testing.stand_ins import toy_velocity

PATCH = 2


def flow_of(settings):
    return ShiftedFlow(
        ShiftedFlowConfig(
            num_steps=settings["num_steps"],
            guidance=settings["guidance"],
            guidance_img=settings["guidance_img"],
            shift=settings.get("shift", True),
            flow_shift=settings.get("shift_alpha"),
            text_osci=settings.get("text_osci", False),
            image_osci=settings.get("image_osci", False),
            scale_temporal_osci=settings.get("scale_temporal_osci", False),
        )
    )


@pytest.mark.golden("sched_v20_sampling")
def test_sampling_with_both_guidances_matches_the_original(golden_case):
    inputs, outputs = golden_case.inputs, golden_case.outputs
    z, size = inputs["z"], inputs["z"].shape[2:]
    per_frame = size[1] * size[2] // PATCH**2
    for name, settings in golden_case.sidecar["variants"].items():
        flow, seen = flow_of(settings), []
        condition = pack(np.concatenate([outputs[f"{name}/masks"], outputs[f"{name}/masked_ref"]], 1), PATCH)
        conditions = np.concatenate([condition, condition, np.zeros_like(condition)])

        def velocity(z, t, text_scale, image_scale, conditions=conditions, settings=settings, seen=seen):
            tokens = pack(z, PATCH)
            seen.append(tokens)
            three = np.concatenate([tokens] * 3)
            found = toy_velocity(three, t, inputs["txt"], inputs["vec"], settings["guidance"], conditions)
            scale = np.repeat(image_scale, per_frame)[None, :, None]
            return unpack(text_and_image(found, text_scale, scale), size, PATCH)

        *_, latent = flow.sample(velocity, z, per_frame)
        np.testing.assert_allclose(flow.timesteps(per_frame, size[0]), outputs[f"{name}/timesteps"], rtol=1e-5)
        for ours, key in ((latent, "latent"), (np.stack(seen), "model_inputs")):
            expected = outputs[f"{name}/{key}"]
            assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max(), (name, key)


@pytest.mark.golden("sched_v20_sampling")
def test_the_distilled_form_matches_the_original(golden_case):
    """One branch, guidance as an input, the schedule of a single frame."""
    inputs, outputs = golden_case.inputs, golden_case.outputs
    z, count = inputs["z"], len(inputs["z"])
    size = z.shape[2:]
    timesteps = outputs["distilled/timesteps"]
    flow = ShiftedFlow(ShiftedFlowConfig(num_steps=len(timesteps) - 1))
    per_frame = size[1] * size[2] // PATCH**2
    np.testing.assert_allclose(flow.timesteps(per_frame, 1), timesteps, rtol=1e-5)
    tokens = pack(z, PATCH)
    for t, following in zip(timesteps, timesteps[1:]):
        found = toy_velocity(tokens, t, inputs["txt"][:count], inputs["vec"][:count], 4.0)
        tokens = tokens + (following - t) * found
    expected = outputs["distilled/packed"]
    assert np.abs(tokens - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.golden("sched_v20_sampling")
def test_schedules_shifts_and_oscillations_match_the_original(golden_case):
    sidecar = golden_case.sidecar
    for row in sidecar["schedule"]:
        settings = ShiftedFlowConfig(row["num_steps"], shift=row["shift"], flow_shift=row["shift_alpha"])
        ours = ShiftedFlow(settings).timesteps(row["image_seq_len"], row["num_frames"])
        steps = row["num_steps"]
        kept = ours if row["timesteps_kept"] == "all" else ours[[0, 1, steps // 2, steps - 1, steps]]
        np.testing.assert_allclose(kept, row["timesteps"], rtol=1e-5)
    for row in sidecar["oscillation"]:
        assert oscillating(row["guidance"], row["step"]) == row["value"]
    for tokens, value in sidecar["res_lin_function"]:
        assert shift_of(tokens, 1) == pytest.approx(value)


@pytest.mark.golden("sched_v20_losses_conditions")
def test_the_training_quantities_match_the_original(golden_case):
    inputs, outputs = golden_case.inputs, golden_case.outputs
    for name in ("a", "b"):
        x_start, noise = inputs[f"x0_{name}"], inputs[f"x1_{name}"]
        frames, height, width = x_start.shape[2:]
        t = timesteps_from_draws(inputs[f"eps_{name}"], shift_of(height * width // 4, frames))
        np.testing.assert_allclose(t, outputs[f"{name}/t"], rtol=1e-5)
        packed = pack(x_start, PATCH)
        x_t, target = point_on_path(packed, noise, t), velocity_of(packed, noise)
        np.testing.assert_allclose(x_t, outputs[f"{name}/x_t"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(target, outputs[f"{name}/target"], rtol=1e-4, atol=1e-6)
        prediction = 0.3 * x_t + 0.1 * t[:, None, None]
        assert np.square(prediction - target).mean() == pytest.approx(float(outputs[f"{name}/loss"]), rel=1e-4)


@pytest.mark.golden("v20_train_pack_shift")
def test_tokens_positions_and_shifts_match_the_original(golden_case):
    outputs = golden_case.outputs
    for shape in golden_case.sidecar["shapes"]:
        x, patch, name = golden_case.inputs[shape["x"]], shape["patch_size"], shape["x"]
        assert np.array_equal(pack(x, patch), outputs[f"{name}/packed"])
        assert np.array_equal(unpack(pack(x, patch), x.shape[2:], patch), x)
        positions = np.broadcast_to(token_positions(x.shape[2:], patch), outputs[f"{name}/img_ids"].shape)
        assert np.array_equal(positions, outputs[f"{name}/img_ids"])
    for row, (frames, height, width) in enumerate(golden_case.inputs["latent_sizes"]):
        alpha = shift_of(height * width // 4, frames)
        assert alpha == pytest.approx(float(outputs["shift_alpha"][row]), rel=1e-5)
        np.testing.assert_allclose(shifted(golden_case.inputs["t"], alpha), outputs["shifted_t"][row], rtol=1e-5)


def test_timesteps_are_logit_normal_before_the_shift():
    t = draw_timesteps([runtime.stream(1, "timestep", 0, i) for i in range(4000)], 1.0)
    logit = np.log(t / (1 - t))
    assert abs(logit.mean()) < 0.05 and abs(logit.std() - 1) < 0.04
    assert draw_timesteps([runtime.stream(1, "timestep", 0, 0)], 3.0)[0] == pytest.approx(shifted(t[0], 3.0), rel=1e-5)


def test_a_perfect_velocity_leads_to_the_data():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 1, 4, 3, 4, 4)).astype(np.float32)
    *_, result = ShiftedFlow(ShiftedFlowConfig(7)).sample(lambda *_: noise - x, noise, 4)
    np.testing.assert_allclose(result, x, atol=1e-5)


def test_impossible_settings_are_refused():
    for wrong in ({"num_steps": 0}, {"flow_shift": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            ShiftedFlowConfig(**wrong)
