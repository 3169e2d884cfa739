"""Training 2.0 in buckets: pictures and videos of several sizes and lengths, as files, with given frames."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from tiny_v2 import save_networks

from mindone.config import check, load
from mindone.data.write import write_png, write_video
from opensora import families
from opensora.cli import enter
from opensora.config import TrainConfig
from opensora.training import denoiser as training

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "opensora-v2-0" / "train").glob("*.yaml"))
BUCKETS = "{48px: {1: [1.0, 2], 5: [1.0, 1], 9: [1.0, 1]}, 64px: {5: [1.0, 1]}}"
# frames, rate and side of the films
FILMS = ((9, 12, 48), (18, 24, 48), (10, 24, 48), (6, 12, 64), (6, 12, 64))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny networks of 2.0, films and pictures, and a table that says nothing but their captions."""
    root = tmp_path_factory.mktemp("world")
    save_networks(root)
    rng = np.random.default_rng(0)
    names = [f"{number}.mp4" for number in range(len(FILMS))] + ["a.png", "b.png"]
    for name, (frames, fps, side) in zip(names, FILMS):
        write_video(root / name, rng.integers(0, 255, (frames, side, side, 3), np.uint8), fps=fps)
    for name in names[-2:]:
        write_png(root / name, rng.integers(0, 255, (1, 48, 48, 3), np.uint8))
    with open(root / "video_caption.csv", "w", newline="") as file:
        csv.writer(file).writerows([["video", "caption"], *([name, "a red circle moves left"] for name in names)])
    return root


def command(world, output, *more):
    encoders = ["--t5_model_name_or_path", f"{world}/t5", "--clip_model_name_or_path", f"{world}/clip"]
    data = ["--csv_path", f"{world}/video_caption.csv", "--video_folder", f"{world}", "--num_parallel_workers", "0"]
    network = ["--model_version", "v2.0", "--pretrained_model_path", f"{world}/denoiser", "--model_max_length", "8"]
    place = ["--vae_checkpoint", f"{world}/vae", "--output_path", f"{output}", "--add_datetime", "False"]
    rate = ["--scheduler", "constant", "--warmup_steps", "0"]
    return [
        *encoders,
        *data,
        *network,
        *place,
        "--bucket_config",
        BUCKETS,
        "--fps_max",
        "12",
        *rate,
        "--seed",
        "1",
        *more,
    ]


def test_films_and_pictures_train_at_the_size_of_their_bucket_with_given_frames(world, tmp_path, caplog):
    caplog.set_level("INFO")
    kinds = ["--condition_config", "{t2v: 1, i2v_head: 5, i2v_tail: 1, i2v_loop: 1}", "--mode", "1"]
    enter("train", command(world, tmp_path, *kinds, "--train_steps", "6"))
    rows = [line.split("\t") for line in (tmp_path / "result.log").read_text().splitlines()[1:]]
    assert len(rows) == 6 and all(math.isfinite(float(row[1])) for row in rows)
    assert "7 samples, 6 batches in the first epoch" in caplog.text
    assert "the batches of the first epoch have 4 shapes" in caplog.text


def test_captions_say_the_rate_and_the_motion_that_a_film_is_trained_with(world, tmp_path):
    table = (world / "video_caption.csv").read_text().splitlines()
    scores = ["score_vmafmotion", "3.2", "0", "", "", "", "", ""]
    told = tmp_path / "told.csv"
    told.write_text("\n".join(f"{line},{score}" for line, score in zip(table, scores)) + "\n")
    given = command(world, tmp_path, "--csv_path", f"{told}", "--video_folder", f"{world}")
    setting = training.make_setting(load(TrainConfig, given))
    captions = [row.caption.removeprefix("a red circle moves left") for row in training.described_rows(setting)]
    at_the_limit, faster, without = " 12 FPS, 3 motion score.", " 12 FPS, 0 motion score.", ""
    assert captions == [at_the_limit, faster, " 12 FPS.", " 12 FPS.", " 12 FPS.", without, without]
    # The dataset has them, and the table as it is remembered does not change.
    assert training.make_dataset(setting, (5, 48, 48)).rows[0].caption.endswith(at_the_limit)
    assert setting.rows[0].caption == "a red circle moves left"


def test_frames_are_taken_so_that_no_film_is_faster_than_the_limit(world, tmp_path):
    prepared = training.make_setting(load(TrainConfig, command(world, tmp_path)))
    plan = training.make_plan(prepared, 1, 1, "table")
    sizes = {index: plan.buckets[number].size for index, number in enumerate(plan.assigned(0))}
    assert sizes == {
        0: (9, 48, 48),
        1: (9, 48, 48),
        2: (5, 48, 48),
        3: (5, 64, 64),
        4: (5, 64, 64),
        5: (1, 48, 48),
        6: (1, 48, 48),
    }
    dataset = training.make_dataset(prepared, plan.epoch(0).usual_size())
    for index, size in sizes.items():
        item = dataset.get(index, np.random.default_rng(0), size)
        assert item["frames"].shape[:3] == size
        assert (item["num_frames"], item["height"], item["width"]) == size
        assert item["fps"] == (120 if size[0] == 1 else 12)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_published_recipe_says_what_was_published(recipe):
    config = load(TrainConfig, ["--config", str(recipe), "--csv_path", "a.csv", "--video_folder", "v"])
    check(config)
    family, config = families.settle(config, config.model.model_version)
    buckets = {
        (bucket.resolution, bucket.size[0]): bucket.batch_size
        for bucket in family.bucket_rules(config.shape.bucket_config).buckets
    }
    rate = {"stage1": 5e-5, "stage2": 5e-5, "high_compression": 3e-5}.get(recipe.stem, 1e-5)
    assert config.optimizer.start_learning_rate == rate
    assert (config.optimizer.optim_eps, config.optimizer.warmup_steps, config.model.dtype) == (1e-15, 0, "bf16")
    if recipe.stem == "high_compression":
        assert buckets["768px", 128] and config.autoencoder.vae_type == "Video-DC-AE"
        return
    expected = {
        "image": {1: 45},
        "stage1": {1: 45, 5: 12, 33: 12, 37: 6, 65: 6, 69: 4, 97: 4, 101: 3, 129: 3},
        "stage2": {1: 130, 5: 14, 33: 14, 37: 10, 65: 10, 69: 7, 97: 7, 101: 6, 129: 6},
    }[recipe.stem.removesuffix("_i2v")]
    assert {frames: buckets["256px", frames] for frames in expected} == expected
