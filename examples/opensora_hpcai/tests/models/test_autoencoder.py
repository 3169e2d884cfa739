"""What may be asked of every autoencoder."""

import numpy as np
import pytest

from mindone.errors import UserError
from opensora.networks import autoencoder_skeleton


def test_chunks_of_1_2_are_17_frames_which_become_5_latent_ones():
    autoencoder = autoencoder_skeleton("OpenSora-VAE-v1.2")
    assert (autoencoder.chunk_frames, autoencoder.chunk_latents) == (17, 5)
    assert [autoencoder.frames_of(latents) for latents in (1, 2, 5, 10, 11)] == [1, 8, 17, 34, 38]


def test_frames_are_their_own_chunks_in_an_autoencoder_of_images():
    autoencoder = autoencoder_skeleton("SD-VAE")
    assert (autoencoder.chunk_frames, autoencoder.chunk_latents) == (1, 1)
    assert [autoencoder.frames_of(latents) for latents in (1, 7)] == [1, 7]


@pytest.mark.parametrize("name", ["Hunyuan-VAE", "Video-DC-AE"])
def test_a_video_is_one_piece_for_autoencoders_of_whole_videos(name):
    autoencoder = autoencoder_skeleton(name)
    assert (autoencoder.chunk_frames, autoencoder.chunk_latents) == (None, 1)
    for latents in (1, 4):
        assert autoencoder.latent_size((autoencoder.frames_of(latents), 64, 64))[0] == latents


def test_a_number_of_latent_frames_that_no_video_has_is_refused():
    autoencoder = autoencoder_skeleton("OpenSora-VAE-v1.2", micro_frame_size=3)
    assert autoencoder.frames_of(2) == 6
    with pytest.raises(UserError, match="no video has 0 latent frames"):
        autoencoder.frames_of(0)


def test_statistics_are_read_without_the_other_weights():
    autoencoder = autoencoder_skeleton("OpenSora-VAE-v1.2")
    published = autoencoder.shift.asnumpy().copy()
    autoencoder.load_statistics({"scale": np.array([1.0, 2.0, 3.0, 4.0]), "other": np.zeros(3)})
    assert autoencoder.scale.asnumpy().ravel().tolist() == [1, 2, 3, 4]
    assert np.array_equal(autoencoder.shift.asnumpy(), published)
    latents = np.ones((1, 4, 2, 3, 3), np.float32)
    import mindspore as ms

    normalised = autoencoder.normalize(ms.Tensor(latents)).asnumpy()
    np.testing.assert_allclose(normalised[0, :, 0, 0, 0], (1 - published.ravel()) / [1, 2, 3, 4], rtol=1e-6)
