"""Training 1.1 on videos of any shape as rows of patches (FiT), from videos and from caches."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from bucket_world import TOKENS, WIDTH, flags
from refusals import refused

from mindone.checkpoint import save_model
from mindone.data.write import write_video
from mindone.models.autoencoder_kl import AutoencoderKLConfig
from mindone.testing import golden
from opensora.cli import enter
from opensora.data.cache import read_latent, write_text
from opensora.models.vae_frames import FrameAutoencoderConfig, VideoAutoencoderKL

RECIPE = Path(__file__).parents[2] / "configs" / "opensora-v1-1" / "train" / "train_stage1_fit.yaml"
# Height and width of the videos, and of what is trained on within the area of 64x64.
SHAPES = {(32, 96): (32, 96), (96, 48): (80, 32), (64, 64): (64, 64), (128, 128): (64, 64)}
RATE = {"scheduler": "constant", "warmup_steps": 0, "start_learning_rate": 0.01, "add_datetime": False, "seed": 5}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Videos of several shapes with cached texts, and an image autoencoder whose latents are means."""
    root = tmp_path_factory.mktemp("world")
    golden.use_mode("graph")
    with open(root / "video_caption.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption"])
        for number, size in enumerate(SHAPES):
            rng = np.random.default_rng(number)
            write_video(root / f"{number}.mp4", rng.integers(0, 255, (4, *size, 3), np.uint8), fps=8)
            arrays = {"text_emb": rng.normal(size=(TOKENS, WIDTH)), "mask": np.ones(TOKENS), "tokens": np.zeros(TOKENS)}
            write_text(root / "text" / f"{number}.npz", arrays)
            writer.writerow([f"{number}.mp4", f"caption {number}"])
    image = AutoencoderKLConfig(block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2)
    config = FrameAutoencoderConfig(autoencoder_kl=image)
    save_model(root / "vae", VideoAutoencoderKL(config), config.to_dict())
    return root


def command(world, folder, **settings):
    own = {"vae_latent_folder": "", "video_folder": world, "vae_checkpoint": world / "vae", "output_path": folder}
    shape = {"image_size": 64, "num_frames": 4, "frame_stride": 1, "batch_size": 2, "train_steps": 4, "dtype": "fp32"}
    return ["--config", str(RECIPE), *flags(world, **{**own, **shape, **RATE, **settings})]


def losses(folder):
    return [float(line.split("\t")[1]) for line in (folder / "result.log").read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def trained(world):
    enter("train", command(world, world / "run"))
    return world / "run"


def test_the_published_recipe_trains_on_videos_of_several_shapes_in_one_batch(trained):
    assert len(losses(trained)) == 4 and all(map(math.isfinite, losses(trained)))


def test_caches_in_every_shape_give_the_same_losses(world, trained, tmp_path):
    tables = ["--csv_path", f"{world}/video_caption.csv", "--video_folder", f"{world}", "--image_size", "64"]
    model = ["--model_version", "v1.1", "--vae_type", "VideoAutoencoderKL", "--vae_checkpoint", f"{world}/vae"]
    enter("embed-video", [*tables, *model, "--resize_by_max_value", "True", "--output_path", f"{tmp_path}/latents"])
    for number, size in enumerate(SHAPES.values()):
        entry = read_latent(tmp_path / "latents" / f"{number}.npz")
        assert entry.size == size and entry.mean.shape == (4, 4, size[0] // 8, size[1] // 8)
    enter("train", command(world, tmp_path / "run", vae_latent_folder=tmp_path / "latents"))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(trained), rtol=1e-4)


def test_the_same_validation_loss_at_any_size_of_the_rows(world, tmp_path):
    found = []
    for side in (64, 96):
        own = {"val_csv_path": world / "video_caption.csv", "val_text_embed_folder": world / "text"}
        latents = {"val_video_folder": world, "num_eval_timesteps": 2, "validate": True}
        folder = tmp_path / str(side)
        enter("train", command(world, folder, start_learning_rate=0, train_steps=1, image_size=side, **own, **latents))
        (row,) = (folder / "validation.log").read_text().splitlines()[1:]
        found.append(row.split("\t"))
    assert found[0][1:3] == ["any size", "4"]
    # larger rows have room for larger frames, so that only the kind of the numbers is the same
    assert all(0 < float(number) < 10 for row in found for number in row[3:])


def test_what_cannot_work_is_refused_in_one_sentence(world, tmp_path, capsys):
    buckets = {"image_size": "None", "bucket_config": '{"256": {1: [1.0, 2]}}'}
    for changes, message in (
        ({"model_version": "v1.2"}, "pre_patchify=True is not supported by model_version v1.2; leave it out"),
        ({"pre_patchify": False, "max_image_size": 64}, "max_image_size belongs to pre_patchify; give image_size"),
        (buckets, "pre_patchify has sizes of its own; give image_size"),
        ({"max_image_size": 8}, "max_image_size=8 has to be at least 16"),
    ):
        assert message in refused(capsys, command(world, tmp_path, **changes))
