"""Training in buckets: pictures and videos of several sizes and lengths in one run."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from bucket_world import flags, write_world
from refusals import refused

from mindone.checkpoint import read_tensors, save_model
from mindone.config import load
from mindone.data.metadata import cache_file
from mindone.data.write import write_png, write_video
from mindone.errors import UserError
from mindone.models.autoencoder_kl import AutoencoderKLConfig
from mindone.testing import golden
from opensora.cli import enter
from opensora.config import TrainConfig
from opensora.models.vae_frames import FrameAutoencoderConfig, VideoAutoencoderKL
from opensora.toy.tiny_t5 import write_tiny_t5
from opensora.training import denoiser as training

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted([*CONFIGS.glob("opensora-v1-1/train/train_stage?.yaml"), *CONFIGS.glob("opensora-v1-2/train/*.yaml")])
RECIPES = [path for path in RECIPES if "bucket_config" in path.read_text()]
BUCKETS = '{"256": {1: [1.0, 2], 51: [1.0, 1]}, "144p": {1: [1.0, 4], 51: [1.0, 2], 102: [1.0, 1]}}'
STEPS = 12  # a pass over the 11 batches, and one more
RATE = {"scheduler": "constant", "warmup_steps": 0, "start_learning_rate": 0.01, "add_datetime": False, "seed": 5}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_world(root)
    return root


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """The same with an autoencoder that works frame by frame."""
    root = tmp_path_factory.mktemp("frames")
    write_world(root, frame_by_frame=True)
    return root


def losses(folder):
    return [line.split("\t")[1] for line in (folder / "result.log").read_text().splitlines()[1:]]


def command(world, folder, **settings):
    own = {"bucket_config": BUCKETS, "train_steps": STEPS, "output_path": folder}
    return flags(world, **{**own, **RATE, **settings})


@pytest.fixture(scope="module")
def graphs():
    """The compiled updates of `whole`."""
    return []


@pytest.fixture(scope="module")
def whole(world, graphs, tmp_path_factory):
    golden.use_mode("graph")
    folder = tmp_path_factory.mktemp("run")
    make_step = training.make_step
    root = logging.getLogger()
    level = root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training, "make_step", lambda *given, **more: graphs.append(make_step(*given, **more)) or graphs[-1]
        )
        root.setLevel(logging.INFO)
        enter("train", command(world, folder, ckpt_save_steps=4))
        root.setLevel(level)
    return folder


def test_two_sizes_two_lengths_and_pictures_train_in_one_run(whole):
    assert len(losses(whole)) == STEPS
    assert np.isfinite([float(loss) for loss in losses(whole)]).all()


def test_a_resumed_run_ends_with_the_very_numbers_of_an_uninterrupted_one(world, tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    enter("train", command(world, whole, ckpt_save_steps=4, mode=1))
    shutil.copytree(whole, half)
    for name in ("ckpt/step-00000012", "model"):
        shutil.rmtree(half / name)
    enter("train", command(world, half, ckpt_save_steps=4, mode=1, resume=True))
    assert losses(half) == losses(whole)
    a, b = read_tensors(half / "model"), read_tensors(whole / "model")
    assert all(np.array_equal(np.asarray(a[name]), np.asarray(b[name])) for name in a)


def test_another_table_is_refused_with_the_difference(world, whole, tmp_path, capsys):
    table = (world / "video_caption.csv").read_text()
    (tmp_path / "other.csv").write_text(table.replace("3.mp4,caption 3,1,", "3.mp4,caption 3,2,", 1))
    other = command(world, whole, csv_path=tmp_path / "other.csv", resume=True, train_steps=STEPS + 1)
    message = refused(capsys, other)
    assert "1 row is new or changed, the first in line 5 (3.mp4); 1 row is gone" in message


def setting(world, **settings):
    config = load(TrainConfig, command(world, world / "unused", **settings))
    return training.make_setting(config)


def test_a_run_that_goes_on_with_another_number_of_ranks_keeps_its_batches(world):
    prepared = setting(world)

    def indices(ranks, planned_ranks=None):
        epoch = training.make_plan(prepared, 5, ranks, "table", planned_ranks).epoch(0)
        return [epoch[number].indices for number in range(len(epoch))]

    assert indices(1, 2) == indices(2) != indices(1)
    with pytest.raises(UserError, match="which 3 ranks cannot share; go on with 1, 2 ranks"):
        indices(3, 2)


def test_samples_of_sizes_that_are_not_cached_are_left_out(world, tmp_path):
    shutil.copytree(world / "latents" / "latent_144x256", tmp_path / "latents" / "latent_144x256")
    plan = training.make_plan(setting(world, vae_latent_folder=tmp_path / "latents"), 5, 1, "table")
    assert {plan.buckets[number].size[1:] for number in plan.epoch(0).steps} == {(144, 256)}


def test_what_buckets_need_is_refused_when_it_is_not_there(world, tmp_path, capsys):
    (tmp_path / "bare.csv").write_text("video,caption\n0.mp4,caption 0\n")
    bare = command(world, tmp_path / "run", csv_path=tmp_path / "bare.csv")
    assert "does not say num_frames, height and width of 1 of 1 samples, which buckets need" in refused(capsys, bare)
    one_size = command(world, tmp_path / "run", vae_latent_folder=world / "latents" / "latent_144x256")
    assert "has no subfolders latent_HEIGHTxWIDTH, which buckets need" in refused(capsys, one_size)
    large = BUCKETS.replace("], ", "0], ").replace("]}", "0]}")
    lacking = refused(capsys, command(world, tmp_path / "run", bucket_config=large))
    assert "no bucket has enough samples for one batch: " in lacking
    assert "144p, 51 frames, 144x256 has 4 of 20 samples and lacks 16" in lacking


def small(config):
    """A published bucket config with batches of one or two samples."""
    return {
        name: {frames: [chance, min(2, batch or 0)] for frames, (chance, batch) in lengths.items()}
        for name, lengths in config.items()
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_every_published_recipe_of_several_sizes_trains_at_toy_size(world, frames, tmp_path, recipe):
    """Its buckets and probabilities, flow, masks and optimizer, with small batches and a small network."""
    root = frames if "v1-1" in str(recipe) else world
    buckets = small(load(TrainConfig, ["--config", str(recipe)]).shape.bucket_config)
    # of the longest videos one resolution is enough, at a smaller size
    buckets = buckets if "144p" in buckets else {"144p": buckets["720p"]}
    once = {"train_steps": 3, "mode": 1, "add_datetime": False, "output_path": tmp_path, "seed": 5}
    enter("train", ["--config", str(recipe), *flags(root, bucket_config=json.dumps(buckets), **once)])
    assert np.isfinite([float(loss) for loss in losses(tmp_path)]).all()
    assert len(losses(tmp_path)) == 3


def test_films_and_pictures_of_a_table_that_says_nothing_of_them_train_in_buckets(tmp_path, caplog):
    """Looked at once, decoded and encoded on the way, also at sizes that no patch or latent divides (1.1)."""
    caplog.set_level("INFO")
    rng = np.random.default_rng(0)
    sizes = [(18, 144, 256)] * 2 + [(18, 120, 320)] * 2 + [(1, 160, 284)] * 2
    rows = [["video", "caption"]]
    for number, (frames, *size) in enumerate(sizes):
        name = f"{number}.png" if frames == 1 else f"{number}.mp4"
        pixels = rng.integers(0, 255, (frames, *size, 3), np.uint8)
        write_png(tmp_path / name, pixels) if frames == 1 else write_video(tmp_path / name, pixels, fps=8)
        rows.append([name, f"caption {number}"])
    (tmp_path / "table.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    image = AutoencoderKLConfig(**levels, block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2)
    autoencoder = VideoAutoencoderKL(FrameAutoencoderConfig(autoencoder_kl=image))
    save_model(tmp_path / "vae", autoencoder, autoencoder.config.to_dict())
    write_tiny_t5(tmp_path / "t5")
    given = {
        "csv_path": tmp_path / "table.csv",
        "video_folder": tmp_path,
        "vae_latent_folder": "",
        "text_embed_folder": "",
        "vae_checkpoint": tmp_path / "vae",
        "t5_model_name_or_path": tmp_path / "t5",
        "model_version": "v1.1",
        "denoiser": json.dumps({"hidden_size": 24, "depth": 1, "num_heads": 2, "caption_channels": 64}),
        "bucket_config": '{"144p": {1: [1.0, 2], 16: [1.0, 1]}}',
        "mask_ratios": '{"image_head": 0.5}',
        "mode": 1,
        "train_steps": 5,
    }
    enter("train", command(tmp_path, tmp_path / "run", **given))
    assert np.isfinite([float(loss) for loss in losses(tmp_path / "run")]).all()
    assert "6 samples, 5 batches in the first epoch" in caplog.text
    assert "the batches of the first epoch have 3 shapes" in caplog.text
    assert cache_file(tmp_path / "table.csv").is_file()


def test_the_graph_of_a_shape_is_compiled_once(whole, graphs):
    said = (whole / "log_0.txt").read_text()
    assert "18 samples, 11 batches in the first epoch" in said
    assert "the batches of the first epoch have 5 shapes" in said
    assert len(graphs) == 1 and len(graphs[0].graph.compile_cache) == 5
