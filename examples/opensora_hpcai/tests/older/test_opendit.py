"""OpenDiT's commands for Open-Sora 1.0."""

import csv

import pytest

from mindone.config import check, load
from mindone.errors import UserError
from opensora.cli import enter
from opensora.config.opendit import SampleOpenDiTConfig, TrainOpenDiTConfig
from opensora.older.opendit import sample_settings, train_settings

PATHS = ["--model_pretrained_path", "m", "--vae_pretrained_path", "v", "--text_pretrained_path", "t"]


def table(folder, *columns):
    path = folder / "demo.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, ["a.mp4", "a cat"]])
    return str(path)


def test_the_published_command_of_sampling_is_that_of_1_0():
    flags = ["--model_time_scale", "1", "--model_space_scale", "1", "--image_size", "512", "512", "--num_frames", "16"]
    flags += ["--fps", "8", "--dtype", "fp16", "--captions", "a cat", *PATHS]
    settings = sample_settings(load(SampleOpenDiTConfig, flags))
    check(settings)
    assert (settings.denoiser.model_version, settings.denoiser.ckpt_path, settings.denoiser.dtype) == (
        "v1",
        "m",
        "fp16",
    )
    assert (settings.denoiser.space_scale, settings.denoiser.time_scale) == (1, 1)
    assert (settings.shape.image_size, settings.shape.num_frames, settings.sampler.fps) == ([512, 512], 16, 8)
    assert (settings.sampler.sampling_steps, settings.sampler.guidance_scale) == (100, 7)
    assert (settings.autoencoder.vae_checkpoint, settings.text.t5_model_name_or_path) == ("v", "t")
    assert settings.text.model_max_length == 120 and not settings.denoiser.dsp


def test_the_published_command_of_training_is_that_of_1_0(tmp_path):
    flags = ["--batch_size", "2", "--mixed_precision", "bf16", "--lr", "1e-4", "--grad_checkpoint", *PATHS]
    given = load(TrainOpenDiTConfig, [*flags, "--data_path", table(tmp_path, "path", "text"), "--load", "run"])
    settings = train_settings(given)
    check(settings)
    assert (settings.data.video_column, settings.data.caption_column) == ("path", "text")
    assert settings.data.video_folder == str(tmp_path)
    assert (settings.model.pretrained_model_path, settings.model.use_recompute) == ("m", True)
    assert (settings.optimizer.start_learning_rate, settings.train.batch_size) == (1e-4, 2)
    assert settings.train.resume == "run"


def test_devices_that_share_a_video_do_so_by_dsp(tmp_path):
    flags = ["--sequence_parallel_size", "4", *PATHS]
    train = train_settings(load(TrainOpenDiTConfig, [*flags, "--data_path", table(tmp_path, "video", "caption")]))
    assert (train.parallel.dsp, train.parallel.sequence_parallel_shards) == (True, 4)
    assert sample_settings(load(SampleOpenDiTConfig, flags)).denoiser.dsp


def test_speed_ups_without_a_meaning_here_are_accepted_with_a_sentence(caplog):
    flags = ["--enable_layernorm_kernel", "--enable_flashattn", "--enable_modulate_kernel", "--text_speedup"]
    load(TrainOpenDiTConfig, [*flags, "--plugin", "zero2"])
    assert len(caplog.messages) == 5 and all("best form of the device" in line for line in caplog.messages[:4])


def test_a_table_without_videos_and_captions_is_refused(tmp_path):
    with pytest.raises(UserError, match="has the columns name, words; it needs path and text, or video and caption"):
        train_settings(load(TrainOpenDiTConfig, [*PATHS, "--data_path", table(tmp_path, "name", "words")]))


def test_missing_weights_are_named_by_the_option_of_the_command(capsys):
    with pytest.raises(SystemExit) as ended:
        enter("sample-opendit", ["--captions", "a cat"])
    assert ended.value.code == 2 and "--model_pretrained_path" in capsys.readouterr().err
