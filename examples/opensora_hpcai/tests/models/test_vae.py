"""The video autoencoders against the numbers of the originals, and the rules of their pieces."""

import dataclasses
import json
import re

import numpy as np
import pytest
from mindspore import Tensor, ops

from mindone.errors import UserError
from mindone.models.autoencoder_kl import AutoencoderKLConfig
from mindone.testing import golden
from opensora.models.vae_frames import FrameAutoencoderConfig, VideoAutoencoderKL, to_video
from opensora.models.vae_temporal import TemporalAutoencoder, TemporalAutoencoderConfig
from opensora.models.vae_v1_2 import VideoAutoencoder, VideoAutoencoderConfig, gaussian_kl


def frame_counts(case) -> list[int]:
    return sorted(int(match[1]) for name in case.inputs if (match := re.fullmatch(r"x_t(\d+)", name)))


@pytest.mark.golden("v10_vae2d")
def test_frame_autoencoder_matches_the_original(golden_case, mode):
    autoencoder = golden_case.load_into(VideoAutoencoderKL(FrameAutoencoderConfig.from_dict(golden_case.args)))
    x = golden_case.inputs["x"]
    noise = to_video(Tensor(golden_case.inputs["noise"]), len(x))
    golden_case.check_outputs("encode_mode", autoencoder.encode(x))
    golden_case.check_outputs("encode_sample", autoencoder.encode(x, noise))
    golden_case.check_outputs("decode", autoencoder.decode(golden_case.inputs["z"]))
    results = golden_case.check_loss_and_gradients(autoencoder, golden.mean_square(autoencoder), [Tensor(x)])
    golden_case.check_outputs("reconstruction", results[0])
    for name, value in (("latent_mean", results[1]), ("latent_logvar", results[2])):
        images = value.transpose(0, 2, 1, 3, 4).reshape(golden_case.intermediates[name].shape)
        golden_case.check_intermediate(name, images)


@pytest.mark.golden("v12_vae_temporal")
def test_temporal_autoencoder_matches_the_original(golden_case, mode):
    autoencoder = TemporalAutoencoder(TemporalAutoencoderConfig.from_dict(golden_case.args["vae_temporal"]))
    golden_case.load_into(autoencoder)
    one_frame = Tensor(golden_case.inputs["x_t01"])
    results = golden_case.check_loss_and_gradients(autoencoder, golden.mean_square(autoencoder), [one_frame])
    golden_case.check_outputs("mean_t01", results[1])
    golden_case.check_outputs("logvar_t01", results[2])
    # Each frame count would be a compilation of its own; the graph itself is the one just checked.
    for count in frame_counts(golden_case) if mode == "pynative" else []:
        mean, logvar = autoencoder.encode(Tensor(golden_case.inputs[f"x_t{count:02}"]))
        golden_case.check_outputs(f"mean_t{count:02}", mean)
        golden_case.check_outputs(f"logvar_t{count:02}", logvar)
        decoded = autoencoder.decode(Tensor(golden_case.inputs[f"z_t{count:02}"]), count)
        golden_case.check_outputs(f"decode_t{count:02}", decoded)


def pipeline(case, **changes) -> VideoAutoencoder:
    config = dataclasses.replace(VideoAutoencoderConfig.from_dict(case.args), **changes)
    return case.load_into(VideoAutoencoder(config))


@pytest.mark.golden("v12_vae_pipeline")
def test_video_autoencoder_matches_the_original(golden_case):
    golden.use_mode("pynative")
    # The micro batch does not change numbers, and fewer calls are faster here.
    chunked = pipeline(golden_case, micro_batch_size=None)
    whole = pipeline(golden_case, micro_batch_size=None, micro_frame_size=None)
    for count in frame_counts(golden_case):
        one_chunk = count <= chunked.config.micro_frame_size
        variants = {("micro", "full"): chunked} if one_chunk else {("micro",): chunked, ("full",): whole}
        for names, autoencoder in variants.items():
            z = autoencoder.encode(golden_case.inputs[f"x_t{count:02}"])
            reconstruction = autoencoder.decode(z, count)
            for name in names:
                golden_case.check_outputs(f"z_{name}_t{count:02}", z)
                golden_case.check_outputs(f"rec_{name}_t{count:02}", reconstruction)


@pytest.mark.golden("v12_vae_pipeline")
def test_compiled_video_autoencoder_works_in_equal_pieces_and_matches_the_original(golden_case):
    golden.use_mode("graph")
    autoencoder = pipeline(golden_case)
    count = max(frame_counts(golden_case))
    z = autoencoder.encode(golden_case.inputs[f"x_t{count:02}"])
    golden_case.check_outputs(f"z_micro_t{count:02}", z)
    golden_case.check_outputs(f"rec_micro_t{count:02}", autoencoder.decode(z, count))


@pytest.mark.golden("v12_vae_pipeline")
def test_gradients_through_the_video_autoencoder_match_the_original(golden_case, mode):
    autoencoder = pipeline(golden_case)
    one_frame = Tensor(golden_case.inputs["x_t01"])
    results = golden_case.check_loss_and_gradients(autoencoder, golden.mean_square(autoencoder), [one_frame])
    golden_case.check_outputs("rec_micro_t01", results[0])
    golden_case.check_intermediate("spatial_z_t01", results[3])


@pytest.mark.golden("v12_vae_temporal", "v12_vae_pipeline")
def test_latent_sizes_are_those_of_the_original(golden_case):
    if golden_case.args["kind"] == "temporal":
        autoencoder = TemporalAutoencoder(TemporalAutoencoderConfig.from_dict(golden_case.args["vae_temporal"]))
    else:
        autoencoder = VideoAutoencoder(VideoAutoencoderConfig.from_dict(golden_case.args))
    for size, latent in golden_case.sidecar["get_latent_size"]:
        assert autoencoder.latent_size(tuple(size)) == tuple(latent), size


IMAGE = AutoencoderKLConfig(
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(4, 8),
    layers_per_block=1,
    norm_num_groups=2,
)
TIME = TemporalAutoencoderConfig(
    filters=4, num_res_blocks=1, channel_multipliers=(1, 2, 2), temporal_downsample=(True, True), num_groups=2
)


@pytest.fixture(scope="module")
def tiny() -> VideoAutoencoder:
    golden.use_mode("pynative")
    return VideoAutoencoder(VideoAutoencoderConfig(autoencoder_kl=IMAGE, vae_temporal=TIME, micro_frame_size=5))


@pytest.fixture
def pynative():
    golden.use_mode("pynative")


def video(frames: int, batch: int = 1) -> np.ndarray:
    shape = (batch, 3, frames, 8, 6)
    return np.random.default_rng(frames).uniform(-1, 1, shape).astype(np.float32)


def test_a_long_video_is_its_chunks_one_after_the_other(tiny, pynative):
    x = video(10)
    whole = tiny.encode(x).asnumpy()
    pieces = [tiny.encode(x[:, :, start : start + 5]).asnumpy() for start in (0, 5)]
    np.testing.assert_allclose(whole, np.concatenate(pieces, 2), atol=1e-6)
    decoded = [tiny.decode(piece, 5).asnumpy() for piece in pieces]
    np.testing.assert_allclose(tiny.decode(whole, 10).asnumpy(), np.concatenate(decoded, 2), atol=1e-5)


def test_a_sample_does_not_depend_on_its_batch_or_micro_batch(tiny, pynative):
    x = video(3, batch=2)
    together = tiny.posterior(x)
    alone = tiny.posterior(x[1:])
    for a, b in zip(together, alone):
        np.testing.assert_allclose(a.asnumpy()[1:], b.asnumpy(), atol=1e-6)


@pytest.mark.parametrize("frames", [1, 6])
def test_odd_frame_counts_come_back_with_their_shape(tiny, pynative, frames):
    x = video(frames, batch=2)
    z = tiny.encode(x)
    assert z.shape == (2, 4, *tiny.latent_size((frames, 8, 6)))
    assert tiny.decode(z, frames).shape == x.shape


def test_noise_moves_latents_by_its_share_of_the_standard_deviation(tiny, pynative):
    x = video(3)
    mean, std = tiny.posterior(x)
    noise = np.ones(mean.shape, np.float32)
    moved = tiny.denormalize(tiny.encode(x, noise)).asnumpy()
    np.testing.assert_allclose(moved, (mean + std).asnumpy(), atol=1e-5)
    assert (std.asnumpy() > 0).all()


def test_training_graph_and_host_side_agree(tiny, pynative):
    x = video(6)
    reconstruction, mean, logvar, z, z_again = tiny(Tensor(x))
    host_mean, host_std = tiny.posterior(x)
    np.testing.assert_allclose(mean.asnumpy(), host_mean.asnumpy(), atol=1e-6)
    np.testing.assert_allclose(ops.exp(0.5 * logvar).asnumpy(), host_std.asnumpy(), atol=1e-6)
    np.testing.assert_allclose(reconstruction.asnumpy(), tiny.decode(tiny.encode(x), 6).asnumpy(), atol=1e-5)
    np.testing.assert_allclose(z.asnumpy(), tiny.spatial_vae.encode(x).asnumpy(), atol=1e-6)
    assert z_again.shape == z.shape


def test_divergence_is_summed_over_all_but_the_batch(pynative):
    mean, logvar = video(2, batch=2), video(3, batch=2)[:, :, :2]
    expected = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).reshape(2, -1).sum(1)
    np.testing.assert_allclose(gaussian_kl(Tensor(mean), Tensor(logvar)).asnumpy(), expected, rtol=1e-5)


def test_wrong_shapes_are_refused_in_one_sentence(tiny, pynative):
    with pytest.raises(UserError, match=r"shape \(B, 3, T, H, W\)"):
        tiny.encode(np.zeros((1, 4, 2, 8, 6), np.float32))
    with pytest.raises(UserError, match="2 latent frames cannot be decoded to num_frames=9"):
        tiny.decode(np.zeros((1, 4, 2, 4, 3), np.float32), 9)


def test_settings_survive_a_json_file():
    config = VideoAutoencoderConfig(autoencoder_kl=IMAGE, vae_temporal=TIME, micro_frame_size=None)
    assert VideoAutoencoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    frames = FrameAutoencoderConfig(autoencoder_kl=IMAGE, micro_batch_size=None)
    assert FrameAutoencoderConfig.from_dict(json.loads(json.dumps(frames.to_dict()))) == frames


def test_the_2d_part_may_be_named():
    named = VideoAutoencoderConfig.from_dict({"autoencoder_kl": "sdxl-vae"})
    assert (named.autoencoder_kl.scaling_factor, named.vae_temporal) == (0.13025, TemporalAutoencoderConfig())
    with pytest.raises(UserError, match="t5-v1_1-xxl gives T5Config"):
        VideoAutoencoderConfig.from_dict({"autoencoder_kl": "t5-v1_1-xxl"})


def test_a_config_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="shift has 2 values for 4 latent channels"):
        VideoAutoencoderConfig(shift=(0.0, 1.0))
    with pytest.raises(UserError, match="act_fn=relu"):
        AutoencoderKLConfig(act_fn="relu")
    with pytest.raises(UserError, match="use_quant_conv=false"):
        AutoencoderKLConfig.from_dict({"use_quant_conv": False})
    with pytest.raises(UserError, match="temporal_downsample has 1 entries"):
        TemporalAutoencoderConfig(temporal_downsample=(True,))
