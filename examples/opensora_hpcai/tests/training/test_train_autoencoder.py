"""Training an autoencoder from small videos."""

import json
import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_vae import TWO_PARTS, arguments

from mindone.checkpoint import read_tensors
from mindone.config import parse
from mindone.data.loader import Batch
from mindone.data.transforms import normalise
from mindone.data.write import write_video
from mindone.errors import UserError
from mindone.models.lpips import LPIPS
from mindone.testing import golden
from mindone.train.loop import Place
from opensora import networks
from opensora.cli import enter
from opensora.config import TrainVaeConfig
from opensora.model_folder import read_config
from opensora.models.vae_loss import FrameLoss, LossWeights, TimeLoss, VideoLoss, frame_distances
from opensora.models.vae_v1_2 import gaussian_kl
from opensora.training import autoencoder as training

CLIPS, FRAMES, SIDE = 6, 5, 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table of six videos of 5 frames with 8 x 8 pixels."""
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(CLIPS):
        frames = np.broadcast_to(rng.integers(0, 255, (FRAMES, 1, 1, 3), np.uint8), (FRAMES, SIDE, SIDE, 3))
        write_video(root / f"clip{i}.mp4", np.ascontiguousarray(frames), fps=8)
    (root / "videos.csv").write_text("path\n" + "".join(f"clip{i}.mp4\n" for i in range(CLIPS)))
    return root


@pytest.fixture
def settings(data, tmp_path):
    """Builds a config for training the temporal part on the latents of the 2D part."""

    def build(**changes):
        values = {
            "vae": json.dumps(TWO_PARTS),
            "use_z_rec_loss": True,
            "kl_loss_weight": 0.01,
            "train_steps": 2,
            "start_learning_rate": 0.01,
            "output_path": tmp_path / "output",
            **changes,
        }
        return parse(TrainVaeConfig, arguments(data, SIDE, FRAMES, **values))

    return build


def batch(settings, **changes):
    """A config, its autoencoder, and two clips of it as a batch."""
    config = settings(**changes)
    golden.use_mode("pynative")
    autoencoder = training.build(config.model)
    dataset = training.make_dataset(config.data, training.read_rows(config.data))
    clips = [dataset.get(i, np.random.default_rng(0))["frames"] for i in range(2)]
    return config, autoencoder, Batch([{"frames": clip} for clip in clips], (0, 1), (0, 1), total=2)


def test_a_run_trains_the_temporal_part_and_leaves_a_model_with_its_own_statistics(settings, tmp_path, caplog):
    caplog.set_level("INFO")
    config = settings(latent_statistics=4, held_out=2)
    golden.use_mode("graph")
    ms.set_seed(config.runtime.seed)
    before = {name: p.asnumpy().copy() for name, p in training.build(config.model).parameters_and_names()}
    folder = training.train(config)
    assert folder == tmp_path / "output" / "model"
    after = read_tensors(folder)
    moved = {name for name in before if not np.array_equal(before[name], np.asarray(after[name]))}
    assert {name.split(".")[0] for name in moved} == {"temporal_vae", "shift", "scale"}
    stored = json.loads((folder / "config.json").read_text())
    np.testing.assert_allclose(stored["shift"], np.asarray(after["shift"]).ravel(), rtol=1e-6)
    assert "2 held-out clips: l1" in caplog.text
    assert len((tmp_path / "output" / "result.log").read_text().splitlines()) == 3
    update = enter("replay", ["--run", str(tmp_path / "output"), "--step", "2"])
    assert update.is_same and len(update.samples) == 2


HUNYUAN = {"block_out_channels": [4, 4, 4, 4], "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}


@pytest.mark.parametrize(
    ("name", "network"),
    [("Hunyuan-VAE", HUNYUAN), ("VideoAutoencoderKL", {"autoencoder_kl": TWO_PARTS["autoencoder_kl"]})],
)
def test_autoencoders_of_one_part_are_trained_on_pixels_and_leave_normal_latents(settings, tmp_path, name, network):
    more = {"use_z_rec_loss": False, "use_real_rec_loss": True, "perceptual_loss_weight": 0, "latent_statistics": 4}
    config = settings(model_type=name, vae=json.dumps(network), **more)
    golden.use_mode("graph")
    folder = training.train(config)
    autoencoder = networks.load_autoencoder(folder)
    (clips,) = training.first_clips(training.make_dataset(config.data, training.read_rows(config.data)), 4, 4, 0)
    mean, std = (part.asnumpy() for part in autoencoder.posterior(clips))
    assert read_config(folder)["scale_factor"] == pytest.approx(autoencoder.scale_factor)
    shifted = (mean - autoencoder.shift_factor) * autoencoder.scale_factor
    spread = np.square(shifted).mean() + np.square(std * autoencoder.scale_factor).mean()
    np.testing.assert_allclose(spread, 1, rtol=0.01)


def test_an_autoencoder_of_one_part_has_no_parts_to_freeze_or_compare(settings):
    for name, value in (("vae_2d_only", True), ("use_image_identity_loss", True), ("use_z_rec_loss", True)):
        changes = {"use_z_rec_loss": False, "use_real_rec_loss": True, "perceptual_loss_weight": 0, name: value}
        config = settings(model_type="Hunyuan-VAE", freeze_vae_2d=False, vae=json.dumps(HUNYUAN), **changes)
        with pytest.raises(UserError, match=name):
            training.train(config)


def test_latents_that_are_trained_on_have_the_statistics_they_are_normalised_with(settings):
    config, autoencoder, _ = batch(settings)
    dataset = training.make_dataset(config.data, training.read_rows(config.data))
    training.set_latent_statistics(autoencoder, dataset, 2, 2, config.runtime.seed)
    (clips,) = training.first_clips(dataset, 2, 2, config.runtime.seed)
    latents = autoencoder.encode(clips).asnumpy()
    np.testing.assert_allclose(latents.mean((0, 2, 3, 4)), 0, atol=1e-4)
    spread = autoencoder.posterior(clips)[1].asnumpy() / autoencoder.scale.asnumpy()
    np.testing.assert_allclose(latents.var((0, 2, 3, 4)) + np.square(spread).mean((0, 2, 3, 4)), 1, rtol=1e-4)


def test_the_loss_is_absolute_and_squared_error_and_weighted_divergence_per_reconstructed_value(settings):
    _, autoencoder, clips = batch(settings)
    x = Tensor(normalise(clips.arrays["frames"]))
    noise = Tensor(np.random.default_rng(1).normal(size=(2, 4, FRAMES, 4, 4)).astype(np.float32))
    reconstruction, mean, logvar = autoencoder.spatial_vae(x, noise)
    error = (reconstruction - x).asnumpy()
    kl = gaussian_kl(mean, logvar).asnumpy().mean() / error[0].size
    loss, parts = FrameLoss(autoencoder, LossWeights(mse=2.0, kl=0.5))(x, noise)
    expected = np.abs(error).mean() + 2 * np.square(error).mean() + 0.5 * kl
    np.testing.assert_allclose(float(loss.asnumpy()), expected, rtol=1e-5)
    np.testing.assert_allclose(float(parts[0].asnumpy()), np.abs(error).mean(), rtol=1e-5)


def test_the_temporal_loss_equals_the_latent_loss_of_the_whole_autoencoder(settings):
    config, autoencoder, clips = batch(settings)
    place = Place(3, 0, range(2))
    z, noise = training.AutoencoderInputs(config, autoencoder)(clips, place)
    weights = LossWeights(kl=0.1, image_identity=True)
    whole = VideoLoss(autoencoder, weights, pixels=False, latents=True)(
        Tensor(normalise(clips.arrays["frames"])), noise
    )[0]
    np.testing.assert_allclose(
        float(TimeLoss(autoencoder, weights)(z, noise)[0].asnumpy()), float(whole.asnumpy()), rtol=1e-5
    )


def test_images_are_mixed_in_by_their_share(settings):
    config, autoencoder, clips = batch(settings, mixed_strategy="mixed_video_image", mixed_image_ratio=0.5)
    prepare = training.AutoencoderInputs(config, autoencoder)
    frames = [prepare(clips, Place(3, step, range(2)))[0].shape[2] for step in range(20)]
    assert set(frames) == {1, FRAMES}


def test_the_2d_part_is_frozen_only_when_asked_for(settings):
    for frozen in (True, False):
        config, autoencoder, _ = batch(settings, use_real_rec_loss=True, perceptual_loss_weight=0, freeze_vae_2d=frozen)
        names = {parameter.name for parameter in training.make_loss(config, autoencoder).trainable_params()}
        assert any(name.startswith("spatial_vae.") for name in names) != frozen
        assert any(name.startswith("temporal_vae.") for name in names)


def test_the_decoder_alone_is_trained_when_asked_for(settings):
    shared = {"use_real_rec_loss": True, "perceptual_loss_weight": 0, "freeze_vae_2d": False, "freeze_encoder": True}
    hunyuan = {"model_type": "Hunyuan-VAE", "use_z_rec_loss": False, "vae": json.dumps(HUNYUAN)}
    for changes in ({}, hunyuan):
        config, autoencoder, _ = batch(settings, **shared, **changes)
        names = [parameter.name for parameter in training.make_loss(config, autoencoder).trainable_params()]
        assert names and all({"decoder", "post_quant_conv"} & set(name.split(".")) for name in names)
    with pytest.raises(UserError, match="latent_statistics changes the latents that freeze_encoder keeps"):
        training.train(settings(**shared, latent_statistics=4))


def test_perceptual_distances_are_part_of_the_loss_and_of_what_is_logged(settings, monkeypatch):
    changes = {"use_real_rec_loss": True, "perceptual_loss_weight": 0.5, "lpips_checkpoint": "vgg"}
    monkeypatch.setattr(training, "load_lpips", lambda path, net: LPIPS("vgg", (4, 4, 4, 4, 4)))
    config, autoencoder, clips = batch(settings, **changes)
    perceptual_loss = training.make_loss(config, autoencoder)
    lpips = perceptual_loss.lpips
    x = Tensor(np.repeat(np.repeat(normalise(clips.arrays["frames"]), 4, 3), 4, 4))
    noise = Tensor(np.zeros((2, 4, 3, 16, 16), np.float32))
    result = autoencoder(x, noise)[0]
    expected = frame_distances(lpips, x, result).asnumpy().mean()
    loss, parts = perceptual_loss(x, noise)
    without = VideoLoss(autoencoder, LossWeights(kl=0.01), True, True)(x, noise)[0]
    np.testing.assert_allclose(float(parts[3].asnumpy()), expected, rtol=1e-4)
    np.testing.assert_allclose(float((loss - without).asnumpy()), 0.5 * expected, rtol=1e-3)
    assert not any(p.requires_grad for p in lpips.get_parameters())


def test_perceptual_distances_compile_beside_the_autoencoder(settings, caplog):
    caplog.set_level("INFO")
    golden.use_mode("graph")
    changes = {"use_real_rec_loss": True, "lpips_random": True, "lpips_net": "alex", "image_size": 64}
    config = settings(vae_2d_only=True, freeze_vae_2d=False, **changes)
    training.train(config)
    found = re.findall(r"lpips ([\d.]+)", caplog.text)
    assert found and all(float(value) > 0 for value in found)


def test_what_cannot_be_done_is_refused(settings):
    with pytest.raises(UserError, match="perceptual_loss_weight=0.1 needs the weights of VGG-16 and LPIPS"):
        training.train(settings(use_real_rec_loss=True))
    with pytest.raises(UserError, match="random_crop=True is not supported by train_vae.py; leave it out"):
        training.train(settings(random_crop=True))
    with pytest.raises(UserError, match="held_out=6 leaves none of the 6 rows"):
        training.read_rows(settings(held_out=6).data)
