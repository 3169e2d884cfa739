import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from opensora.families import get_family
from opensora.pipelines.sampler import Sampler, initial_noise

SHAPE = (2, 3, 4, 4)
SIZE = (17, 32, 32)


class CaptionEmbedder(nn.Cell):
    def __init__(self):
        super().__init__()
        self.y_embedding = Parameter(Tensor(np.linspace(-1, 1, 15).reshape(5, 3), ms.float32))


class StandIn(nn.Cell):
    """A denoiser whose velocity tells its inputs apart: every argument moves the result by its own amount."""

    def __init__(self):
        super().__init__()
        self.y_embedder = CaptionEmbedder()

    def construct(self, x, timestep, y, mask=None, x_mask=None, fps=None, height=None, width=None):
        valid = mask.astype(ms.float32)[:, None, :, None]
        text = (y * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))
        shift = text + 0.001 * timestep + 0.01 * fps + 0.001 * height - 0.002 * width
        velocity = 0.3 * x + shift.reshape(-1, 1, 1, 1, 1)
        if x_mask is not None:
            velocity = velocity + 0.1 * x_mask.astype(ms.float32)[:, None, :, None, None]
        return ops.concat((velocity, x * 100), 1)


def texts(count, rng):
    mask = np.zeros((count, 5), np.uint8)
    for row in range(count):
        mask[row, : 1 + row] = 1
    return rng.normal(size=(count, 5, 3)).astype(np.float32), mask


def sampler(guidance_scale=3.0):
    family = get_family("v1.2")
    return Sampler(family, StandIn(), family.flow(num_sampling_steps=3), SIZE, fps=8, guidance_scale=guidance_scale)


def last(steps):
    *_, result = steps
    return result


def test_a_guided_batch_of_three_equals_three_batches_of_one(mode):
    text, mask = texts(3, np.random.default_rng(0))
    noise = initial_noise([5, 6, 7], SHAPE)
    edit = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1]], np.float32)
    together = last(sampler().steps(noise, text, mask, edit))
    one_by_one = sampler()
    for i in range(3):
        part = slice(i, i + 1)
        alone = last(one_by_one.steps(noise[part], text[part], mask[part], edit[part]))
        np.testing.assert_allclose(together[part], alone, rtol=1e-5, atol=1e-5)
    assert np.array_equal(together[1, :, 0], noise[1, :, 0])


def test_guidance_uses_the_null_caption_with_the_mask_of_the_prompt(mode):
    text, mask = texts(2, np.random.default_rng(1))
    noise = initial_noise([1, 2], SHAPE)
    denoiser = StandIn()
    null = np.broadcast_to(denoiser.y_embedder.y_embedding.asnumpy(), text.shape)
    family = get_family("v1.2")
    flow = family.flow(num_sampling_steps=1)
    make = lambda scale: Sampler(family, denoiser, flow, SIZE, 8, guidance_scale=scale)  # noqa: E731
    guided = last(make(4.0).steps(noise, text, mask))
    plain = last(make(1.0).steps(noise, text, mask))
    without = last(make(1.0).steps(noise, null, mask))
    np.testing.assert_allclose(guided, without + 4 * (plain - without), rtol=1e-4, atol=1e-4)


def test_noise_of_a_sample_depends_on_its_seed_alone():
    together = initial_noise([3, 4, 5], SHAPE)
    assert together.dtype == np.float32
    assert np.array_equal(together[1:2], initial_noise([4], SHAPE))
    assert not np.array_equal(together[0], together[1])
