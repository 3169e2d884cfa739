"""The noise that a video begins from: written as text, and mixed without losing its variance."""

import numpy as np
import pytest

from mindone.config import SettingError
from opensora.families.base import initial_noise
from opensora.noise import InitialNoise, noise_of, parse_noise

SHAPE = (4, 5, 32, 32)


@pytest.mark.parametrize("noise", [InitialNoise(7), InitialNoise(0, ((12, 0.1), (2**31 - 1, 1 / 3), (3, 1.0)))])
def test_noise_survives_being_written(noise):
    assert parse_noise(str(noise)) == noise


@pytest.mark.parametrize(
    "text", ["", "seven", "-1", "7,12", "7,12:0", "7,12:1.01", "7,12:nan", "7,-12:0.3", "7,12:0.3:4", "7;12:0.3"]
)
def test_what_is_no_noise_is_refused(text):
    with pytest.raises(SettingError, match=f"initial_noise={text} is no noise; give a seed"):
        parse_noise(text)


def test_noise_of_a_seed_alone_is_that_of_the_sampler():
    assert np.array_equal(noise_of([InitialNoise(3), InitialNoise(4)], SHAPE, 1), initial_noise([3, 4], SHAPE, 1))


def test_mixed_noise_keeps_its_variance_and_is_as_near_as_its_radius_says():
    pivot, near, nearer = InitialNoise(7), InitialNoise(7).near(8, 0.6), InitialNoise(7).near(8, 0.6).near(9, 0.1)
    values = noise_of([pivot, near, nearer], SHAPE).reshape(3, -1)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.var(1), 1, atol=0.03)
    np.testing.assert_allclose(values.mean(1), 0, atol=0.03)
    likeness = np.corrcoef(values)
    assert likeness[0, 1] == pytest.approx(0.8, abs=0.02)
    assert likeness[1, 2] == pytest.approx(np.sqrt(1 - 0.01), abs=0.02)


def test_a_radius_of_one_leaves_nothing_of_the_noise_before():
    mixed, alone = noise_of([InitialNoise(7).near(8, 1.0), InitialNoise(8)], SHAPE)
    np.testing.assert_array_equal(mixed, alone)


def test_the_noise_of_a_sample_does_not_depend_on_its_batch_and_every_clip_has_its_own():
    own = InitialNoise(7).near(8, 0.5)
    together = noise_of([InitialNoise(1).near(2, 0.3), own], SHAPE)
    np.testing.assert_array_equal(together[1:], noise_of([own], SHAPE))
    assert not np.array_equal(noise_of([own], SHAPE), noise_of([own], SHAPE, 1))
