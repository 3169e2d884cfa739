"""Rows of patches: what goes in comes out, and a network computes the same as for the video itself."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from mindone.diffusion.iddpm import Diffusion, DiffusionConfig
from mindone.errors import UserError
from opensora.config.generate import Sampler
from opensora.families import get_family, with_defaults
from opensora.families.base import SampleRequest, initial_noise, seeded_noise
from opensora.families.diffusion import DiffusionLoss
from opensora.families.packed import PackedDenoiser, Packing
from opensora.models.stdit2 import STDiT2, STDiT2Config

CONFIG = STDiT2Config(hidden_size=24, depth=2, num_heads=2, caption_channels=8, model_max_length=4, input_sq_size=64)
# Latent height and width; the second one has patches that are not whole.
SIZES = [(4, 6), (5, 3), (8, 8)]


def packing(max_image_size=64, patch=(1, 2, 2)):
    return Packing(patch, CONFIG.hidden_size, CONFIG.input_sq_size, max_image_size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch", [(1, 2, 2), (1, 1, 2), (1, 2, 1)])
def test_latents_come_out_of_a_row_as_they_went_in(size, patch):
    latents = np.random.default_rng(0).normal(size=(2, 3, 4, *size)).astype(np.float32)
    row = packing(64, patch).pack(latents)
    assert row.shape == (2, 3, 4, patch[1], packing(64, patch).length * patch[2])
    np.testing.assert_array_equal(packing(64, patch).unpack(row, size), latents)
    assert np.count_nonzero(row) == latents.size


def test_a_row_has_as_many_patches_as_the_largest_square():
    assert [packing(side).length for side in (16, 64, 512)] == [1, 16, 1024]


def test_a_video_that_is_larger_than_a_row_is_refused_with_the_size_that_it_needs():
    with pytest.raises(UserError, match="room for 4 patches, and the video has 2x3 in a frame; use max_image_size 48"):
        packing(32).pack(np.zeros((1, 4, 2, 4, 6), np.float32))
    packing(48).pack(np.zeros((1, 4, 2, 4, 6), np.float32))


@pytest.fixture(scope="module")
def denoiser():
    network, rng = STDiT2(CONFIG), np.random.default_rng(3)
    for _, parameter in network.parameters_and_names():
        parameter.set_data(Tensor((0.2 * rng.normal(size=parameter.shape)).astype(np.float32), ms.float32))
    network.set_train(False)
    return network


def request(size, given):
    """A batch of two; of ``given`` ones the first frame of the first sample is kept."""
    rng, shape = np.random.default_rng(1), (4, 3, *size)
    text = {
        "text": rng.normal(size=(2, 4, 8)).astype(np.float32),
        "text_mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32),
    }
    mask = np.array([[0, 1, 1], [1, 1, 1]], np.float32) if given else None
    pixels = (3, size[0] * 8, size[1] * 8)
    draws = seeded_noise([1, 2], shape, "step")
    return SampleRequest(
        initial_noise([1, 2], shape), text, pixels, 8, edit_mask=mask, step_noise=draws, edit_noise=draws
    )


def sampled(denoiser, asked, **settings):
    family = get_family("v1.1")
    sampler = family.sampler(denoiser, with_defaults(Sampler(sampling_steps=3, **settings), family))
    *_, last = sampler.steps(asked)
    return last


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("given", [False, True])
def test_videos_of_any_size_are_the_same_as_without_rows(size, given, denoiser, mode):
    asked = request(size, given)
    whole = sampled(denoiser, asked)
    packed = sampled(denoiser, asked, pre_patchify=True, max_image_size=64)
    assert np.abs(whole).max() > 1e-2
    np.testing.assert_allclose(packed, whole, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("given", [False, True])
def test_the_loss_and_its_gradients_are_those_without_rows(given, denoiser, mode):
    size, rng = (4, 6), np.random.default_rng(5)
    latents, noise = (rng.normal(size=(2, 4, 3, *size)).astype(np.float32) for _ in range(2))
    mask = np.array([[False, True, True], [True, True, True]]) if given else None
    told = [np.full(2, value, np.float32) for value in (3, 32, 48, 32 / 48, 8)]
    text = [rng.normal(size=(2, 1, 4, 8)).astype(np.float32), np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)]
    diffusion, rows = Diffusion(DiffusionConfig(learn_sigma=True)), packing(64)
    t = np.array([300, 0], np.int32)

    def found(cell, latents, noise, conditions):
        arrays = (latents, noise, t, diffusion.coefficients(t), *text, np.zeros(2, np.int32), mask, *conditions)
        tensors = [None if array is None else Tensor(array) for array in arrays]
        weights = denoiser.trainable_params()
        (loss, parts), gradients = ops.value_and_grad(cell, None, weights, has_aux=True)(*tensors)
        values = [value.asnumpy() for value in (loss, *parts, *gradients)]
        return values, [weight.name for weight in weights]

    plain, names = found(DiffusionLoss(denoiser, diffusion.config), latents, noise, told)
    extra = rows.conditions(latents.shape, 32, 48, 2)
    cell = DiffusionLoss(PackedDenoiser(denoiser), diffusion.config, rows.patch[2])
    packed, _ = found(cell, rows.pack(latents), rows.pack(noise), [*told, *extra.values()])
    for name, ours, expected in zip(("loss", "mse", "vb", *names), packed, plain):
        assert np.abs(ours - expected).max() <= 2e-3 * np.abs(expected).max() + 1e-7, name


def test_what_fills_a_row_is_not_attended_to(denoiser):
    asked = request((4, 6), False)
    short, long = (sampled(denoiser, asked, pre_patchify=True, max_image_size=side) for side in (48, 96))
    np.testing.assert_allclose(short, long, rtol=2e-4, atol=2e-4)
