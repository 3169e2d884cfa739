"""Training MMDiT (2.0): from videos with conditions, from caches, and what is refused."""

import csv
import math

import numpy as np
import pytest
from refusals import refused
from tiny_v2 import save_networks

from mindone.checkpoint import read_tensors
from mindone.data.write import write_video
from opensora.cli import enter

STEPS = 3
KINDS = ["--condition_config", "{t2v: 1, i2v_head: 5, i2v_tail: 1, i2v_loop: 1}"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny networks of 2.0, and four clips of 9 frames with captions."""
    root = tmp_path_factory.mktemp("world")
    save_networks(root)
    with open(root / "video_caption.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption"])
        for number in range(4):
            frames = np.random.default_rng(number).integers(0, 255, (9, 32, 32, 3), np.uint8)
            write_video(root / f"{number}.mp4", frames, fps=24)
            writer.writerow([f"{number}.mp4", "a red circle moves left"])
    return root


@pytest.fixture(scope="module")
def trained(world):
    """A run on videos and captions, without conditions."""
    enter("train", command(world, world / "run"))
    return world / "run"


def command(world, output, *more):
    encoders = ["--t5_model_name_or_path", f"{world}/t5", "--clip_model_name_or_path", f"{world}/clip"]
    data = ["--csv_path", f"{world}/video_caption.csv", "--video_folder", f"{world}", "--num_parallel_workers", "0"]
    network = ["--model_version", "v2.0", "--pretrained_model_path", f"{world}/denoiser", "--model_max_length", "8"]
    shape = ["--image_size", "32", "--num_frames", "9", "--batch_size", "2", "--train_steps", str(STEPS)]
    rate = ["--scheduler", "constant", "--warmup_steps", "0", "--start_learning_rate", "1e-3"]
    place = ["--vae_checkpoint", f"{world}/vae", "--output_path", f"{output}", "--add_datetime", "False"]
    return [*encoders, *data, *network, *shape, *rate, *place, *more]


def cached(world, folder, *more):
    """Caches of the texts and of the videos, as arguments of a training."""
    text = ["--model_version", "v2.0", "--csv_path", f"{world}/video_caption.csv", "--model_max_length", "8"]
    encoders = ["--t5_model_name_or_path", f"{world}/t5", "--clip_model_name_or_path", f"{world}/clip"]
    enter("embed-text", [*text, *encoders, "--output_path", f"{folder}/text"])
    latents = ["--model_version", "v2.0", "--vae_checkpoint", f"{world}/vae", "--image_size", "32", "32"]
    tables = ["--csv_path", f"{world}/video_caption.csv", "--video_folder", f"{world}"]
    enter("embed-video", [*latents, *tables, "--output_path", f"{folder}/latents", *more])
    return ["--text_embed_folder", f"{folder}/text", "--vae_latent_folder", f"{folder}/latents"]


def losses(folder):
    with open(folder / "result.log") as file:
        rows = [line.split() for line in file]
    return [float(row[1]) for row in rows[1:]]


def test_it_trains_on_videos_with_every_kind_of_condition_they_can_have(world, tmp_path):
    kinds = ["--condition_config", "{t2v: 1, i2v_head: 5, i2v_tail: 1, i2v_loop: 1, v2v_head: 3}"]
    enter("train", command(world, tmp_path, *kinds, "--sample_every", f"{STEPS}"))
    assert len(list(tmp_path.glob("samples/step-*/*.mp4"))) >= 1
    assert len(losses(tmp_path)) == STEPS and all(map(math.isfinite, losses(tmp_path)))
    before, after = read_tensors(world / "denoiser"), read_tensors(tmp_path / "model")
    assert sorted(before) == sorted(after)
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_what_it_trained_generates(world, trained, tmp_path):
    flags = ["--model_version", "v2.0", "--ckpt_path", f"{trained}/model", "--vae_checkpoint", f"{world}/vae"]
    text = ["--t5_model_name_or_path", f"{world}/t5", "--clip_model_name_or_path", f"{world}/clip"]
    shape = ["--image_size", "32", "32", "--num_frames", "5", "--sampling_steps", "2", "--model_max_length", "8"]
    output = ["--output_path", f"{tmp_path}/samples", "--append_timestr", "False", "--captions", "a red circle"]
    (result,) = enter("generate", [*flags, *text, *shape, *output])
    assert result.video.is_file()


def test_caches_give_the_same_losses_as_videos_and_captions(world, trained, tmp_path):
    caches = cached(world, tmp_path)
    enter("train", command(world, tmp_path / "caches", *caches))
    np.testing.assert_allclose(losses(tmp_path / "caches"), losses(trained), rtol=1e-4)


def test_caches_hold_what_conditions_give(world, tmp_path):
    caches = cached(world, tmp_path, "--condition_kinds", "i2v_head", "i2v_loop")
    enter("train", command(world, tmp_path / "videos", *KINDS))
    enter("train", command(world, tmp_path / "caches", *caches, *KINDS))
    np.testing.assert_allclose(losses(tmp_path / "caches"), losses(tmp_path / "videos"), rtol=1e-4)


def test_caches_that_lack_what_conditions_give_say_how_to_make_them(world, tmp_path, capsys):
    caches = cached(world, tmp_path, "--condition_kinds", "i2v_head")
    message = refused(capsys, command(world, tmp_path / "run", *caches, *KINDS))
    assert "lacks tail_1, which condition_config needs; cache the latents again with --condition_kinds" in message


def test_what_cannot_work_is_refused_in_one_sentence(world, tmp_path, capsys):
    kinds = ["--condition_config", "{i2v_head: 1}"]
    for more, message in (
        (["--condition_config", "{i2v_front: 1}"], "condition_config has no kind i2v_front; use t2v, i2v_head"),
        (["--condition_config", "{i2v_head: 0}"], "condition_config.i2v_head=0.0 has to be more than 0"),
        (["--freeze_y_embedder", "True"], "freeze_y_embedder=True is not supported by model_version v2.0"),
        (["--clip_model_name_or_path", "None"], "clip_model_name_or_path is not set"),
        (["--model_version", "v1.2", *kinds], "condition_config={'i2v_head': 1.0} is not supported"),
    ):
        assert message in refused(capsys, command(world, tmp_path, *more))
