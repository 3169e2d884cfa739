"""The first release: its networks and compressions, trained and sampled by its own commands."""

import csv
import json

import numpy as np
import pytest
from older_world import CAPTIONS, losses

from mindone.checkpoint import save_model
from mindone.config import load
from mindone.data.video import probe
from mindone.data.write import write_video
from mindone.errors import UserError
from mindone.testing import golden
from opensora.cli import enter
from opensora.config.first import SampleFirstConfig, TrainFirstConfig
from opensora.families.v0_0 import FAMILY, OnVideos
from opensora.models.early_dit import EarlyDiT, EarlyDiTConfig
from opensora.models.vae_first import RawConfig, RawPixels, VQAutoencoder, VQAutoencoderConfig
from opensora.models.vqvae import VQVAEConfig
from opensora.networks import load_autoencoder
from opensora.older.first import sample_settings, train_settings
from opensora.toy.tiny_clip import write_tiny_clip

SMALL_VQ = VQVAEConfig(embedding_dim=4, n_codes=8, n_hiddens=8, n_res_layers=1, downsample=(2, 4, 4))
SIDE, FRAMES = 16, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three plain videos with two captions each, as the first release wants them, and small networks' folders."""
    root = tmp_path_factory.mktemp("first")
    entries = []
    for number, caption in enumerate(CAPTIONS):
        frames = np.full((FRAMES, SIDE, SIDE, 3), 60, np.uint8)
        frames[..., number] = 220
        write_video(root / "videos" / f"video{number}.mp4", frames, 8, crf=4)
        entries.append({"file": f"video{number}.mp4", "captions": [caption, caption.replace("a ", "the ")]})
    (root / "captions.json").write_text(json.dumps(entries))
    write_tiny_clip(root / "clip")
    config = VQAutoencoderConfig(vqvae=SMALL_VQ)
    save_model(root / "vqvae", VQAutoencoder(config).module, {"_class_name": "VQVAE", **vars(SMALL_VQ)})
    return root


def network_of(data, compressor, arch):
    flags = ["-m", "DiT/S-8" if compressor == "raw" else "DiT-S/2", "-x", arch, "-c", compressor]
    flags += ["--text_model", str(data / "clip")]
    return [*flags, "--compressor_path", str(data / compressor)] if compressor != "raw" else flags


def train_flags(data, folder, compressor="raw", arch="token-concat"):
    flags = [*network_of(data, compressor, arch), "-d", str(data / "captions.json"), "-v", str(data / "videos")]
    flags += ["--height", str(SIDE), "--width", str(SIDE), "--num_frames", str(FRAMES), "-b", "6", "--lr", "0.005"]
    return [*flags, "--checkpoint_dir", str(folder), "--num_parallel_workers", "0", "--device_target", "CPU"]


@pytest.fixture
def small(monkeypatch):
    """Every network has one thin block, and predicts the video."""
    from opensora.models import early_dit

    for name, config in early_dit.EARLY_DIT_PRESETS.items():
        sizes = {"text_embed_dim": 64, "hidden_size": 32, "depth": 1, "num_heads": 2, "predict_xstart": True}
        thin = EarlyDiTConfig(config.patch_size, **sizes)
        monkeypatch.setitem(early_dit.EARLY_DIT_PRESETS, name, thin)


@pytest.mark.parametrize(("compressor", "arch"), [("raw", "token-concat"), ("vqvae", "cross-attn")])
def test_its_own_commands_train_a_network_and_sample_a_video(data, tmp_path, small, compressor, arch, monkeypatch):
    golden.use_mode("graph")
    monkeypatch.chdir(tmp_path)
    steps = ["--train_steps", "24", "--save_interval", "24", "--ema_decay", "0.5"]
    enter("train-v0", [*train_flags(data, "run", compressor, arch), *steps])
    found = losses(tmp_path / "run")
    assert np.median(found[-7:]) < 0.8 * np.median(found[:3])
    told = [*network_of(data, compressor, arch), "--text", CAPTIONS[0], "--ckpt", "run/model", "--device_target", "CPU"]
    told += ["--height", str(SIDE), "--width", str(SIDE), "--fps", "8", "--sec", "0.5", "--num-sampling-steps", "2"]
    enter("sample-v0", [*told, "--disable-cfg", "--seed", "1"])
    info = probe(tmp_path / "sample.mp4")
    assert (info.num_frames, info.height, info.width, info.fps) == (FRAMES, SIDE, SIDE, 8)


def test_published_options_mean_what_they_meant(data):
    flags = ["-m", "DiT/XL-2", "--text", "a cat", "--ckpt", "w", "--height", "256", "--width", "256", "--fps", "10"]
    settings = sample_settings(load(SampleFirstConfig, [*flags, "--sec", "5", "--disable-cfg"]))
    assert settings.shape.num_frames == 50 and settings.sampler.guidance_scale == 1 and settings.sampler.fps == 10
    assert FAMILY.network_named(settings.denoiser.model_name) == "v0:DiT-XL/2"
    assert settings.denoiser.denoiser_config == {"in_channels": 3}
    with pytest.raises(UserError, match="DiT-M/2 is no network of model_version v0; use one of v0:DiT-XL/2"):
        FAMILY.network_named("DiT-M/2")


def test_captions_become_a_row_each_and_a_table_stays_as_it_is(data, tmp_path):
    settings = train_settings(load(TrainFirstConfig, train_flags(data, tmp_path)))
    with open(settings.data.csv_path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:3] == [["video", "caption"], ["video0.mp4", CAPTIONS[0]], ["video0.mp4", "the red circle moves left"]]
    assert len(rows) == 7
    again = train_settings(load(TrainFirstConfig, [*train_flags(data, "elsewhere"), "-d", settings.data.csv_path]))
    assert again.data.csv_path == settings.data.csv_path


def test_rows_with_a_problem_are_left_out_of_a_folder_that_was_preprocessed(data, tmp_path):
    (tmp_path / "videos.csv").write_text("video,caption,problem\nvideo0.mp4,a cat,\ngone.mp4,a dog,missing\n")
    settings = train_settings(load(TrainFirstConfig, [*train_flags(data, tmp_path / "run"), "-d", str(tmp_path)]))
    with open(settings.data.csv_path, newline="") as file:
        assert list(csv.reader(file)) == [["video", "caption"], ["video0.mp4", "a cat"]]


def test_an_arrow_data_set_without_captions_is_refused(data, tmp_path):
    (tmp_path / "data.arrow").write_bytes(b"")
    with pytest.raises(UserError, match="has no video_caption.csv or videos.csv; give a captions file"):
        train_settings(load(TrainFirstConfig, [*train_flags(data, tmp_path / "run"), "-d", str(tmp_path)]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sp_size", "2"], "sp_size=2 has to be 1"),
        (["-c", "vqvae"], "compressor_path=None has to be the weights of compressor=vqvae"),
        (["--text_model", "None"], "text_model is not set; give --text_model"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(data, tmp_path, flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        enter("train-v0", [*train_flags(data, tmp_path / "run"), *flags])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_without_a_meaning_here_are_accepted_with_a_sentence(data, tmp_path, caplog):
    load(TrainFirstConfig, [*train_flags(data, tmp_path), "--sp_mode", "fastseq", "--tensorboard_dir", "runs"])
    assert len(caplog.messages) == 2 and "sp_mode" in caplog.messages[0]


@pytest.mark.parametrize("arch", ["adaln", "cross-attn", "token-concat"])
def test_a_network_of_patches_sees_videos_frame_by_frame_and_row_by_row(arch):
    from mindspore import Tensor

    from opensora.data.patches import attention_mask, to_patches

    golden.use_mode("pynative")
    config = EarlyDiTConfig(2, 3, text_embed_dim=8, hidden_size=16, depth=1, num_heads=2, model_arch=arch)
    network = EarlyDiT(config)
    rng = np.random.default_rng(0)
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(rng.normal(size=parameter.shape).astype(np.float32)))
    video = rng.normal(size=(1, 3, 2, 4, 6)).astype(np.float32)
    text = rng.normal(size=(1, 1, 1 if arch == "adaln" else 5, 8)).astype(np.float32)
    valid = np.array([[1, 1, 1, 0, 0]], np.int32)[:, : text.shape[2]]
    found = OnVideos(network)(Tensor(video), Tensor([7]), Tensor(text), Tensor(valid)).asnumpy()
    patches = to_patches(video[0].transpose(1, 2, 3, 0), 2)[None]
    mask = Tensor(attention_mask(np.ones(patches.shape[:2], np.int64), valid, arch))
    told = text[:, 0, 0] if arch == "adaln" else text[:, 0]
    expected = network(Tensor(patches), Tensor([7]), Tensor(told), mask).asnumpy()
    assert found.shape == (1, 6, 2, 4, 6)
    np.testing.assert_allclose(to_patches(found[0].transpose(1, 2, 3, 0), 2), expected[0], atol=1e-5)


def test_raw_pixels_are_in_half_the_range_and_come_back():
    video = np.linspace(-1, 1, 3 * 2 * 4 * 4).reshape(1, 3, 2, 4, 4).astype(np.float32)
    raw = RawPixels(RawConfig())
    latents = raw.encode(video).asnumpy()
    assert abs(latents).max() == 0.5 and raw.latent_size((2, 4, 4)) == (2, 4, 4)
    np.testing.assert_allclose(raw.decode(latents, 2).asnumpy(), video, atol=1e-6)


def test_a_published_vq_vae_loads_and_gives_rows_of_its_codebook(data):
    golden.use_mode("pynative")
    autoencoder = load_autoencoder(data / "vqvae", "VQ-VAE")
    assert (autoencoder.latent_channels, autoencoder.latent_size((5, 16, 18))) == (4, (2, 4, 4))
    latents = autoencoder.encode(np.zeros((1, 3, 4, 16, 16), np.float32)).asnumpy()
    rows = latents.transpose(0, 2, 3, 4, 1).reshape(-1, 4)
    table = autoencoder.module.codebook.embeddings.asnumpy()
    assert all(np.abs(table - row).max(1).min() < 1e-6 for row in rows)
    assert autoencoder.decode(latents, 4).shape == (1, 3, 4, 16, 16)
    with pytest.raises(UserError, match="too small for the VQ-VAE"):
        autoencoder.posterior(np.zeros((1, 3, 1, 16, 16), np.float32))
