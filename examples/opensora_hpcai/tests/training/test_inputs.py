"""From a batch of caches to the inputs of a loss: the posterior, masks, and numbers that belong to one sample."""

from dataclasses import replace

import numpy as np
import pytest
from cached_world import SCALE, SHIFT, setting, write_cached_world

from mindone.data.loader import Batch
from mindone.errors import UserError
from mindone.runtime import stream
from mindone.train.loop import Place
from opensora.data.masks import MaskGenerator
from opensora.training import denoiser as training
from opensora.training.inputs import DenoiserInputs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_cached_world(root)
    return root


def batch_of(prepared, indices):
    dataset = training.make_dataset(prepared)
    samples = [dataset.get(i, stream(0, "data", i), prepared.size) for i in indices]
    return Batch(samples, tuple(indices), tuple(indices), prepared.size, 0, len(indices))


def prepared_inputs(prepared, indices, positions):
    config = prepared.config
    objective = prepared.family.objective(config.flow, prepared.denoiser_config)
    masks = MaskGenerator(config.flow.mask_ratios) if config.flow.mask_ratios else None
    inputs = DenoiserInputs(objective, prepared.autoencoder, training.make_captions(prepared), masks)
    return inputs(batch_of(prepared, indices), Place(5, 3, positions))


def test_cached_latents_are_sampled_from_their_posterior_and_normalised(data):
    place = Place(5, 3, range(2))
    latents = prepared_inputs(setting(data), [0, 1], place.positions)[0].asnumpy()
    mean = np.stack([np.random.default_rng(i).normal(size=(2, 4, 4, 4)).transpose(1, 0, 2, 3) for i in (0, 1)])
    shift, scale = (np.array(values).reshape(1, 4, 1, 1, 1) for values in (SHIFT, SCALE))
    expected = (mean + 0.1 * place.normal("posterior", (4, 2, 4, 4)) - shift) / scale
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)


def test_the_inputs_of_a_sample_depend_on_its_position_and_not_on_its_batch(data):
    prepared = setting(data)
    whole = prepared_inputs(prepared, [0, 1, 2, 3], range(4))
    halves = [prepared_inputs(prepared, [i, i + 1], range(i, i + 2)) for i in (0, 2)]
    for full, first, second in zip(whole, *halves):
        np.testing.assert_array_equal(full.asnumpy(), np.concatenate([first.asnumpy(), second.asnumpy()]))


def test_masks_time_steps_and_caption_dropout_differ_between_samples(data):
    prepared = setting(data)
    prepared = replace(prepared, denoiser_config=replace(prepared.denoiser_config, class_dropout_prob=0.5))
    _, _, t, _, _, drop, frames_mask, *_ = (x.asnumpy() for x in prepared_inputs(prepared, [0, 1, 2, 3], range(4)))
    assert len(set(t)) == 4
    assert set(drop) == {0, 1}
    assert set(frames_mask[:, 0]) == {True, False}
    assert frames_mask[:, 1].all()


def test_without_mask_ratios_there_is_no_frames_mask(data):
    prepared = setting(data, "--mask_ratios", "None")
    assert prepared_inputs(prepared, [0], range(1))[6] is None


def test_latents_of_another_size_are_refused(data):
    prepared = setting(data, "--image_size", "16")
    with pytest.raises(UserError, match="cache them again with the same image_size"):
        prepared_inputs(prepared, [0], range(1))
