"""Every shipped recipe fits its schema, and says what was published."""

from pathlib import Path

import pytest
import yaml

from mindone.config import check, load, to_yaml
from mindone.errors import UserError
from opensora.config import (
    EmbedTextConfig,
    EmbedVideoConfig,
    GenerateConfig,
    InferenceV2Config,
    TrainConfig,
    TrainVaeConfig,
)

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(CONFIGS.rglob("*.yaml"))
DATA = ["--csv_path", "videos.csv", "--video_folder", "videos"]


def schema_of(path: Path) -> type:
    """By folder, and by file name in ``configs/tiny``, where all commands are together."""
    if "vae" in (path.parent.parent.name, path.parent.name) or "vae" in path.stem and "train" in path.stem:
        return TrainVaeConfig
    if "t5" in path.stem or "text" in path.stem:
        return EmbedTextConfig
    if "latent" in path.stem or "embed" in path.stem:
        return EmbedVideoConfig
    if "inference" in path.parts and "opensora-v2-0" in path.parts:
        return InferenceV2Config
    return GenerateConfig if "inference" in path.parts or "sample" in path.stem else TrainConfig


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def shipped(path: str, *flags: str):
    path = CONFIGS / path
    return load(schema_of(path), ["--config", str(path), *flags])


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_fits_its_schema(path):
    config = load(schema_of(path), ["--config", str(path)])
    assert config != schema_of(path)()


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_begins_with_what_it_is_and_how_to_run_it(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert path.read_text().startswith("# ")
    assert any("Command:" in line for line in head)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_printed_and_read_again_is_the_same(path, tmp_path):
    schema = schema_of(path)
    config = load(schema, ["--config", str(path)])
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load(schema, ["--config", str(again)]) == config


@pytest.mark.parametrize("stage", ["train_stage1", "train_stage1_ms", "train_stage1_small", "train_stage2"])
def test_bucket_recipes_are_refused_until_there_are_buckets(stage):
    path = f"opensora-v1-2/train/{stage}.yaml"
    with pytest.raises(UserError, match="bucket_config is not supported yet; give image_size"):
        check(shipped(path, *DATA))
    check(shipped(path, *DATA, "--image_size", "256"))


def test_recipe_of_fixed_size_says_what_was_published():
    config = shipped("opensora-v1-2/train/train_720x1280x51.yaml", *DATA)
    check(config)
    assert (config.image_size, config.num_frames, config.batch_size) == ([720, 1280], 51, 1)
    assert (config.start_learning_rate, config.optim_eps, config.weight_decay) == (1e-4, 1e-15, 0.0)
    assert (config.sample_method, config.noise_scheduler, config.use_timestep_transform) == (
        "logit-normal",
        "rflow",
        True,
    )
    assert (config.ema_decay, config.max_grad_norm, config.model_max_length) == (0.99, 1.0, 300)
    assert all([config.freeze_y_embedder, config.use_recompute, config.use_ema, config.clip_grad])
    assert config.use_timestep_transform


def test_published_buckets_have_typed_keys():
    buckets = shipped("opensora-v1-2/train/train_stage2.yaml").bucket_config
    assert buckets["144p"][102] == [[1.0, 0.33], 27]
    assert list(buckets["256"]) == [1, 51, 102, 204, 408]


@pytest.mark.parametrize("path", sorted((CONFIGS / "opensora-v1-2" / "train").glob("*.yaml")), ids=name)
def test_mask_ratios_of_recipes_add_up_to_one(path):
    assert sum(yaml.safe_load(path.read_text())["flow"]["mask_ratios"].values()) == pytest.approx(1)


def test_text_to_video_recipe_is_ready_to_run():
    config = shipped("opensora-v1-2/inference/sample_t2v.yaml")
    check(config)
    assert (config.resolution, config.aspect_ratio, config.num_frames) == ("720p", "9:16", "4s")
    assert (config.sampling_steps, config.guidance_scale, config.fps) == (30, 7.0, 24)


def test_picture_to_video_recipe_is_refused_until_references_work():
    with pytest.raises(UserError, match="reference_path=.* is not supported yet"):
        check(shipped("opensora-v1-2/inference/sample_iv2v.yaml"))
