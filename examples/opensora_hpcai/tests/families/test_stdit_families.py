import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindone.diffusion.rectified_flow import RectifiedFlow, RectifiedFlowConfig
from opensora.families.base import SampleRequest, initial_noise
from opensora.families.stdit import FlowSampler, all_conditions
from opensora.timestep_shift import size_ratio

SHAPE = (2, 3, 4, 4)
SIZE = (17, 32, 32)


class CaptionEmbedder(nn.Cell):
    def __init__(self):
        super().__init__()
        self.y_embedding = Parameter(Tensor(np.linspace(-1, 1, 15).reshape(5, 3), ms.float32))


class StandIn(nn.Cell):
    """A denoiser whose velocity tells its inputs apart: every argument moves the result by its own amount."""

    condition_names = ("fps", "height", "width")
    takes_frames_mask = True

    def __init__(self):
        super().__init__()
        self.y_embedder = CaptionEmbedder()

    def construct(self, x, timestep, y, mask=None, x_mask=None, fps=None, height=None, width=None, drop=None):
        valid = mask.astype(ms.float32)[:, None, :, None]
        text = (y * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))
        shift = text + 0.001 * timestep + 0.01 * fps + 0.001 * height - 0.002 * width
        velocity = 0.3 * x + shift.reshape(-1, 1, 1, 1, 1)
        if x_mask is not None:
            velocity = velocity + 0.1 * x_mask.astype(ms.float32)[:, None, :, None, None]
        return ops.concat((velocity, x * 100), 1)


def texts(count, rng):
    mask = np.zeros((count, 5), np.int32)
    for row in range(count):
        mask[row, : 1 + row] = 1
    return {"text": rng.normal(size=(count, 5, 3)).astype(np.float32), "text_mask": mask}


def sampler(guidance_scale=3.0, steps=3, denoiser=None):
    settings = RectifiedFlowConfig(num_sampling_steps=steps, cfg_scale=guidance_scale, use_timestep_transform=True)
    return FlowSampler(denoiser or StandIn(), RectifiedFlow(settings, size_ratio))


def request(noise, text, edit_mask=None, negative=None):
    return SampleRequest(noise, text, SIZE, 8, negative, edit_mask)


def last(steps):
    *_, result = steps
    return result


def test_a_guided_batch_of_three_equals_three_batches_of_one(mode):
    text = texts(3, np.random.default_rng(0))
    noise = initial_noise([5, 6, 7], SHAPE)
    edit = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1]], np.float32)
    together = last(sampler().steps(request(noise, text, edit)))
    one_by_one = sampler()
    for i in range(3):
        part = slice(i, i + 1)
        row = {name: values[part] for name, values in text.items()}
        alone = last(one_by_one.steps(request(noise[part], row, edit[part])))
        np.testing.assert_allclose(together[part], alone, rtol=1e-5, atol=1e-5)
    assert np.array_equal(together[1, :, 0], noise[1, :, 0])


def test_guidance_uses_the_null_caption_with_the_mask_of_the_prompt(mode):
    text = texts(2, np.random.default_rng(1))
    noise = initial_noise([1, 2], SHAPE)
    denoiser = StandIn()
    null = {**text, "text": np.broadcast_to(denoiser.y_embedder.y_embedding.asnumpy(), text["text"].shape)}
    make = lambda scale: sampler(scale, 1, denoiser)  # noqa: E731
    guided = last(make(4.0).steps(request(noise, text)))
    plain = last(make(1.0).steps(request(noise, text)))
    without = last(make(1.0).steps(request(noise, null)))
    np.testing.assert_allclose(guided, without + 4 * (plain - without), rtol=1e-4, atol=1e-4)


def test_a_negative_prompt_replaces_the_null_caption_and_has_its_own_mask(mode):
    rng = np.random.default_rng(2)
    text, negative = texts(2, rng), texts(2, rng)
    negative["text_mask"] = negative["text_mask"][::-1].copy()
    noise = initial_noise([1, 2], SHAPE)
    denoiser = StandIn()
    guided = last(sampler(4.0, 1, denoiser).steps(request(noise, text, negative=negative)))
    plain = last(sampler(1.0, 1, denoiser).steps(request(noise, text)))
    against = last(sampler(1.0, 1, denoiser).steps(request(noise, negative)))
    np.testing.assert_allclose(guided, against + 4 * (plain - against), rtol=1e-4, atol=1e-4)


def test_an_image_is_told_120_frames_per_second():
    assert all_conditions(8, 17, 64, 48, 2)["fps"].tolist() == [8, 8]
    image = all_conditions(8, 1, 64, 48, 2)
    assert image["fps"].tolist() == [120, 120]
    assert (image["height"].tolist(), image["width"].tolist()) == ([64, 64], [48, 48])
    assert image["ar"].tolist() == pytest.approx([64 / 48] * 2)


def test_noise_of_a_sample_depends_on_its_seed_alone():
    together = initial_noise([3, 4, 5], SHAPE)
    assert together.dtype == np.float32
    assert np.array_equal(together[1:2], initial_noise([4], SHAPE))
    assert not np.array_equal(together[0], together[1])
