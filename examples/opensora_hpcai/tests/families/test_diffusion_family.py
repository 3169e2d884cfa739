from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindone.diffusion.iddpm import Diffusion, DiffusionConfig
from mindone.errors import UserError
from opensora.config.generate import Sampler
from opensora.config.train import Flow
from opensora.families import get_family
from opensora.families.base import SampleRequest
from opensora.families.diffusion import DiffusionLoss, DiffusionSampler
from opensora.models.stdit import STDiTConfig
from opensora.networks import denoiser_config

SHAPE = (2, 4, 3, 4, 4)
VIDEO = np.linspace(-1, 1, 4 * 3 * 4 * 4).reshape(1, *SHAPE[1:]).astype(np.float32)


class KnowsTheVideo(nn.Cell):
    """A denoiser that gives the denoised video whatever it sees, and a variance in the middle."""

    condition_names = ()
    takes_frames_mask = False

    def __init__(self, predict_xstart):
        super().__init__()
        self.config = SimpleNamespace(pred_sigma=True, predict_xstart=predict_xstart)
        self.y_embedder = nn.Cell()
        self.y_embedder.y_embedding = Parameter(Tensor(np.zeros((5, 3)), ms.float32))
        self.video = Tensor(VIDEO)

    def construct(self, x, timestep, y, mask=None, x_mask=None, drop=None):
        video = ops.broadcast_to(self.video, x.shape)
        return ops.concat((video + 0.0 * x, 0.0 * x), 1)


def text():
    return {"text": np.ones((2, 5, 3), np.float32), "text_mask": np.ones((2, 5), np.int32)}


def sampled(sampling, predict_xstart):
    settings = Sampler(sampling=sampling, sampling_steps=10, guidance_scale=1.0)
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    drawn = np.random.default_rng(1)
    request = SampleRequest(
        noise, text(), (3, 32, 32), 8, step_noise=lambda step: drawn.normal(size=SHAPE).astype(np.float32)
    )
    *_, result = DiffusionSampler(KnowsTheVideo(predict_xstart), settings).steps(request)
    return result


@pytest.mark.parametrize("sampling", ["ddpm", "ddim", "dpm-solver"])
def test_a_network_that_predicts_the_video_is_sampled_as_such(sampling):
    # DPM-Solver ends at the first timestep, with a hundredth of noise.
    np.testing.assert_allclose(sampled(sampling, True), np.repeat(VIDEO, 2, 0), atol=0.05)
    assert np.abs(sampled(sampling, False) - VIDEO).max() > 0.5


@pytest.mark.parametrize("predict_xstart", [False, True])
def test_a_network_that_predicts_the_video_is_trained_as_such(predict_xstart):
    diffusion = Diffusion(DiffusionConfig(predict_xstart=predict_xstart))
    loss = DiffusionLoss(KnowsTheVideo(predict_xstart), diffusion.config)
    t = np.array([100, 700], np.int32)
    noise = Tensor(np.random.default_rng(2).normal(size=SHAPE), ms.float32)
    arrays = text()
    _, (error, _) = loss(
        Tensor(np.repeat(VIDEO, 2, 0)),
        noise,
        Tensor(t),
        Tensor(diffusion.coefficients(t)),
        Tensor(arrays["text"][:, None]),
        Tensor(arrays["text_mask"]),
        Tensor(np.zeros(2, np.int32)),
        None,
    )
    if predict_xstart:
        assert float(error.asnumpy()) == 0
    else:
        assert float(error.asnumpy()) > 0.5


@pytest.mark.parametrize("version", ["v1", "v1.1"])
def test_the_config_of_a_network_says_what_it_predicts(version):
    family = get_family(version)
    config = denoiser_config(family.denoiser_preset, None, {"predict_xstart": True})
    assert family.objective(Flow(), config).diffusion.config.predict_xstart
    assert not family.objective(Flow(), denoiser_config(family.denoiser_preset)).diffusion.config.predict_xstart


def test_timesteps_are_drawn_by_speed_where_the_recipe_says_so():
    family = get_family("v1")
    config = denoiser_config(family.denoiser_preset)
    place = SimpleNamespace(streams=lambda name: [np.random.default_rng(index) for index in range(2000)])
    shares = {}
    for method in ("uniform", "speed"):
        objective = family.objective(Flow(sample_method=method), config)
        shares[method] = float((objective.draw(place) > 650).mean())
    assert 0.31 < shares["uniform"] < 0.39 and 0.06 < shares["speed"] < 0.13


@pytest.mark.parametrize("version", ["v1", "v1.1"])
def test_errors_count_their_signal_to_noise_ratio_within_the_range_of_the_recipe(version):
    family = get_family(version)
    config = denoiser_config(family.denoiser_preset, None, {"predict_xstart": True})
    assert family.objective(Flow(snr_range=(1.0, 5.0)), config).diffusion.config.snr_range == (1.0, 5.0)
    with pytest.raises(UserError, match="snr_range .* use predict_xstart"):
        family.objective(Flow(snr_range=(1.0, 5.0)), denoiser_config(family.denoiser_preset))


def test_other_networks_predict_one_thing_only():
    with pytest.raises(UserError, match="predict_xstart"):
        denoiser_config("STDiT3-XL/2", None, {"predict_xstart": True})
    assert not STDiTConfig().predict_xstart
