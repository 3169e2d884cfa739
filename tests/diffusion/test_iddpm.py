import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindone import runtime
from mindone.diffusion.iddpm import Diffusion, DiffusionConfig, betas_of, respaced_timesteps
from mindone.diffusion.iddpm_loss import noisy, training_losses
from mindone.diffusion.speed import Speed
from mindone.errors import UserError
from mindone.testing.stand_ins import guided, toy_prediction

NOISING = ("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod")
UNDOING = ("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef1", "posterior_mean_coef2")
TABLES = (*NOISING, *UNDOING, "posterior_variance", "posterior_log_variance_clipped")


def config_of(settings):
    """Our config for the constructor arguments of the reference runs."""
    loss = "mse"
    if settings.get("use_kl"):
        loss = "rescaled_kl"
    elif settings.get("rescale_learned_sigmas"):
        loss = "rescaled_mse"
    return DiffusionConfig(
        respacing=settings.get("timestep_respacing") or str(settings.get("num_sampling_steps") or ""),
        noise_schedule=settings.get("noise_schedule", "linear"),
        predict_xstart=settings.get("predict_xstart", False),
        learn_sigma=settings.get("learn_sigma", True),
        sigma_small=settings.get("sigma_small", False),
        loss=loss,
    )


class Losses(nn.Cell):
    def __init__(self, config):
        super().__init__()
        self.options = {
            "learn_sigma": config.learn_sigma,
            "predict_xstart": config.predict_xstart,
            "loss": config.loss,
            "num_timesteps": config.num_timesteps,
        }

    def construct(self, output, x_start, noise, is_first, coefficients, mask):
        x_t = noisy(x_start, noise, coefficients, mask)
        return x_t, *training_losses(output, x_start, x_t, noise, is_first, coefficients, mask, **self.options)


def our_losses(config, case, mask):
    inputs, diffusion = case.inputs, Diffusion(config)
    steps = inputs["t"]
    coefficients = diffusion.coefficients(steps)
    x_t = diffusion.add_noise(inputs["x_start"], inputs["noise"], steps)
    if mask is not None:
        clean = diffusion.add_noise(inputs["x_start"], inputs["noise"], np.zeros_like(steps))
        x_t = np.where(mask[:, None, :, None, None], x_t, clean)
    output = toy_prediction(x_t, steps.astype(np.float32), inputs["y"], None, config.learn_sigma)
    arrays = (output, inputs["x_start"], inputs["noise"], steps == 0, coefficients, mask)
    results = Losses(config)(*(None if array is None else Tensor(array) for array in arrays))
    return [result.asnumpy() for result in results]


@pytest.mark.golden("sched_v10_iddpm_losses", "sched_v11_iddpm_losses")
def test_losses_match_the_original(golden_case, mode):
    exact = "v10" in golden_case.stem
    for variant, settings in golden_case.sidecar["variants"].items():
        for masked in (False, True):
            name = f"{variant}_with_mask" if masked else variant
            if f"{name}/loss" not in golden_case.outputs:
                continue
            mask = golden_case.inputs["mask"] if masked else None
            x_t, *losses = our_losses(config_of(settings), golden_case, mask)
            for part, value in zip(("loss", "mse", "vb"), losses):
                expected = golden_case.outputs.get(f"{name}/{part}")
                if expected is not None:
                    rtol = 1e-4 if exact or part == "mse" else 5e-3
                    np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-5, err_msg=f"{name}/{part}")
            if variant == "mse_learned_range" and not masked:
                np.testing.assert_allclose(x_t, golden_case.outputs["x_t"], rtol=1e-4, atol=1e-5)


@pytest.mark.golden("sched_v10_iddpm_losses", "sched_v11_iddpm_losses")
def test_tables_and_respacing_match_the_original(golden_case):
    rtol = 1e-9 if "v10" in golden_case.stem else 3e-4
    spaced = str(len(golden_case.outputs["tables_spaced/betas"]))
    for folder, respacing in (("tables_1000", ""), ("tables_spaced", spaced)):
        diffusion = Diffusion(DiffusionConfig(respacing=respacing))
        for name in TABLES:
            expected = golden_case.outputs[f"{folder}/{name}"]
            np.testing.assert_allclose(getattr(diffusion, name), expected, rtol=rtol, atol=1e-30, err_msg=name)
        assert np.array_equal(diffusion.timestep_map, golden_case.outputs[f"{folder}/timestep_map"])
    for row in golden_case.sidecar["space_timesteps"]:
        assert respaced_timesteps(row["num_timesteps"], row["section_counts"]) == row["timesteps"]


def sampled(case, settings, masked):
    """Trajectory and timesteps of our sampler with the toy network."""
    inputs, count = case.inputs, len(case.inputs["z"])
    ctor = settings["ctor"]
    diffusion, told = Diffusion(config_of(ctor)), []
    channels = 3 if "v10" in case.stem else ctor.get("cfg_channel")

    def predict(z, t, frames_mask):
        told.append(t[0])
        return guided(
            z,
            t.astype(np.float32),
            inputs["y_cond"],
            inputs["y_null"],
            ctor["cfg_scale"],
            channels,
            frames_mask,
            ctor.get("learn_sigma", True),
        )

    noise = inputs["step_noise"][:, :count]
    options = {"edit_mask": inputs["mask"], "edit_noise": lambda k: noise[2 * k]} if masked else {}
    step_noise = (lambda k: noise[2 * k + 1]) if masked else (lambda k: noise[k])
    steps = diffusion.sample(
        predict, inputs["z"], step_noise, eta=settings.get("eta"), clip=settings.get("clip", False), **options
    )
    return np.stack(list(steps)), told


@pytest.mark.golden("sched_v10_iddpm_sampling", "sched_v11_iddpm_sampling")
def test_sampling_matches_the_original(golden_case):
    limit = 1e-4 if "v10" in golden_case.stem else 5e-4
    assert golden_case.sidecar["variants"]
    for variant, settings in golden_case.sidecar["variants"].items():
        trajectory, told = sampled(golden_case, settings, settings.get("mask", False))
        expected = golden_case.outputs[f"{variant}/trajectory"]
        assert np.abs(trajectory - expected).max() <= limit * np.abs(expected).max(), variant
        assert np.abs(trajectory[-1] - golden_case.outputs[f"{variant}/sample"]).max() <= limit * np.abs(expected).max()
        assert np.array_equal(told, golden_case.outputs[f"{variant}/model_timesteps"]), variant


@pytest.mark.golden("sched_v11_iddpm_losses")
def test_speed_draws_and_weighs_timesteps_as_the_original(golden_case):
    outputs, steps = golden_case.outputs, golden_case.inputs["t"]
    speed = Speed.of(Diffusion())
    np.testing.assert_allclose(speed.probabilities, outputs["speed/p"], rtol=1e-2)
    np.testing.assert_allclose(speed.weights, outputs["speed/weights"], rtol=5e-3)
    assert speed.meaningful_steps == outputs["speed/meaningful_steps"]
    _, _, error, bound = our_losses(DiffusionConfig(), golden_case, None)
    np.testing.assert_allclose(speed.weights[steps] * error, outputs["speed/mse"], rtol=5e-3, atol=1e-5)
    np.testing.assert_allclose(speed.weights[steps] * error + bound, outputs["speed/loss"], rtol=5e-3, atol=1e-5)


def test_speed_draws_steps_where_the_noise_rises_five_times_as_often():
    steps = Speed.of(Diffusion()).draw_timesteps([runtime.stream(1, "timestep", 0, i) for i in range(4000)])
    early, late = (steps < 600).mean() / 600, (steps >= 700).mean() / 300
    assert 4 < early / late < 6


def test_timesteps_are_uniform_over_the_steps_that_are_kept():
    diffusion = Diffusion(DiffusionConfig(respacing="10"))
    steps = diffusion.draw_timesteps([runtime.stream(1, "timestep", 0, i) for i in range(4000)])
    assert steps.dtype == np.int32
    assert np.abs(np.bincount(steps, minlength=10) / 4000 - 0.1).max() < 0.02


def test_ddim_without_noise_follows_the_path_of_a_perfect_prediction():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 1, 4, 3, 2, 2)).astype(np.float32)
    diffusion = Diffusion(DiffusionConfig(respacing="ddim20", learn_sigma=False))
    start = diffusion.add_noise(x, noise, len(diffusion) - 1)
    *_, result = diffusion.sample(lambda z, t, mask: noise, start, lambda k: 0.0, eta=0.0)
    np.testing.assert_allclose(result, x, atol=1e-4)


def test_frames_that_are_kept_stay_bit_by_bit():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1, 4, 3, 2, 2)).astype(np.float32)
    diffusion = Diffusion(DiffusionConfig(respacing="5"))
    predict = lambda z, t, mask: np.concatenate([z, z], 1)  # noqa: E731
    noise = lambda k: rng.normal(size=z.shape).astype(np.float32)  # noqa: E731
    *_, result = diffusion.sample(predict, z, noise, edit_mask=np.array([[0.0, 1.0, 1.0]]), edit_noise=noise)
    assert np.abs(result[:, :, 0] - z[:, :, 0]).max() < 0.1
    assert not np.allclose(result[:, :, 1], z[:, :, 1])


def test_a_learned_variance_does_not_move_the_prediction(mode):
    """The bound's gradient reaches the variance only."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 2, 4, 3, 2, 2)).astype(np.float32)
    diffusion = Diffusion()
    steps = np.array([3, 400], np.int32)
    coefficients = Tensor(diffusion.coefficients(steps))
    x_t = Tensor(diffusion.add_noise(x, noise, steps))
    output = Tensor(rng.normal(size=(2, 8, 3, 2, 2)).astype(np.float32))
    first = Tensor(steps == 0)

    def bound(output):
        return training_losses(output, Tensor(x), x_t, Tensor(noise), first, coefficients)[2].sum()

    gradient = ms.grad(bound)(output).asnumpy()
    assert not gradient[:, :4].any()
    assert np.abs(gradient[:, 4:]).min() > 0


@pytest.mark.parametrize("wrong", [{"noise_schedule": "quadratic"}, {"loss": "l1"}])
def test_unknown_settings_are_refused_by_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        DiffusionConfig(**wrong)


@pytest.mark.parametrize("respacing", ["ten", "0", "10,x", "ddim", "ddim3,4", "2000", "ddim999", "600,600"])
def test_respacings_that_cannot_be_are_refused(respacing):
    with pytest.raises(UserError, match="respacing"):
        respaced_timesteps(1000, respacing)


def test_both_schedules_rise_and_stay_below_one():
    for name in ("linear", "squaredcos_cap_v2"):
        betas = betas_of(name, 1000)
        assert (np.diff(betas) >= 0).all() and betas[0] > 0 and betas[-1] <= 0.999


def test_errors_of_a_predicted_video_count_their_signal_to_noise_ratio_within_a_range():
    diffusion = Diffusion(DiffusionConfig(predict_xstart=True, snr_range=(1.0, 5.0), learn_sigma=False))
    steps = np.array([5, 150, 900])
    ratio = diffusion.alphas_cumprod[steps] / (1 - diffusion.alphas_cumprod[steps])
    assert ratio[0] > 5 > ratio[1] > 1 > ratio[2]
    video, off = np.zeros((3, 4, 2, 2, 2), np.float32), np.full((3, 4, 2, 2, 2), 0.5, np.float32)
    arrays = (off, video, video, video, steps == 0, diffusion.coefficients(steps))
    loss, error, _ = training_losses(
        *map(Tensor, arrays), learn_sigma=False, predict_xstart=True, snr_range=diffusion.config.snr_range
    )
    np.testing.assert_allclose(error.asnumpy(), 0.25, rtol=1e-6)
    np.testing.assert_allclose(loss.asnumpy(), 0.25 * np.array([5, ratio[1], 1]), rtol=1e-5)


@pytest.mark.parametrize("limits", [(5.0, 1.0), (-1.0, 5.0), (0.0, 0.0)])
def test_a_range_of_ratios_that_is_none_is_refused(limits):
    with pytest.raises(UserError, match="snr_range"):
        DiffusionConfig(predict_xstart=True, snr_range=limits)
