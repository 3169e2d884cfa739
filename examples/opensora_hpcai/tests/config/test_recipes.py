"""Every shipped recipe fits its schema, and says what was published."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from mindone.config import check, load, to_yaml
from opensora import families
from opensora.config import (
    EmbedTextConfig,
    EmbedVideoConfig,
    GenerateConfig,
    InferenceV2Config,
    TrainConfig,
    TrainVaeConfig,
)

EXAMPLE = Path(__file__).parents[2]
CONFIGS = EXAMPLE / "configs"
# Those of configs/data are pipelines of verbs, and worlds are what toy clips show: not settings of one command.
RECIPES = sorted(
    path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "data" and not path.stem.startswith("world")
)
DATA = ["--csv_path", "videos.csv", "--video_folder", "videos"]
SCRIPTS = {
    GenerateConfig: "inference.py",
    TrainConfig: "train.py",
    TrainVaeConfig: "train_vae.py",
    EmbedTextConfig: "infer_t5.py",
    EmbedVideoConfig: "infer_vae.py",
    InferenceV2Config: "v2.0/inference_v2.py",
}


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


def settled(path: str):
    """A recipe's settings, after all checks that its command makes before it looks at any file."""
    config = shipped(path, *(DATA if schema_of(CONFIGS / path) is TrainConfig else []))
    check(config)
    version = (config.model if isinstance(config, TrainConfig) else config.denoiser).model_version
    return families.settle(config, version)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_fits_its_schema(path):
    config = load(schema_of(path), ["--config", str(path)])
    assert config != schema_of(path)()


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_begins_with_what_it_is_and_how_to_run_it(path, monkeypatch):
    monkeypatch.chdir(EXAMPLE)
    head = [line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())]
    assert not head[0].startswith(("Hardware:", "Command:"))
    assert any(line.startswith("Hardware: ") for line in head)
    command = next(i for i, line in enumerate(head) if line.startswith("Command: "))
    words = shlex.split(" ".join(line.rstrip("\\") for line in head[command:]).removeprefix("Command: "))
    script = next(i for i, word in enumerate(words) if word.endswith(".py"))
    assert words[script] == f"scripts/{SCRIPTS[schema_of(path)]}"
    assert words[words.index("--config") + 1] == f"configs/{name(path)}"
    load(schema_of(path), words[script + 1 :])


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_printed_and_read_again_is_the_same(path, tmp_path):
    schema = schema_of(path)
    config = load(schema, ["--config", str(path)])
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load(schema, ["--config", str(again)]) == config


VIDEO_RECIPES = [path for path in RECIPES if schema_of(path) in (GenerateConfig, TrainConfig)]


@pytest.mark.parametrize("path", VIDEO_RECIPES, ids=name)
def test_a_recipe_is_ready_to_run_and_its_size_can_be_encoded(path):
    family, config = settled(name(path))
    shape = config.shape
    if getattr(shape, "bucket_config", None) and not shape.is_fixed:
        assert len(family.bucket_rules(shape.bucket_config).buckets) > 1
        return
    frames, height, width = family.size(shape)
    assert min(frames, height, width) >= 1


def test_bucket_recipes_can_be_run_at_one_size():
    check(shipped("opensora-v1-2/train/train_stage2.yaml", *DATA, "--image_size", "256"))


# --- published values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "size", "training", "extra"),
    [
        ("256x256x16", ([256, 256], 16, 3, 2), (2e-5, 2000, 100, True), (0.5, None, "fp16", 1.0)),
        ("256x256x16_ms", ([256, 256], 16, 3, 3), (1e-4, 12000, 100, True), (0.5, None, "fp16", 5.0)),
        ("512x512x16", ([512, 512], 16, 2, 1), (2e-5, 2000, 100, False), (1.0, None, "fp16", 1.0)),
        ("512x512x64", ([512, 512], 64, 2, 1), (2e-5, 20000, 100, False), (1.0, 2 / 3, "fp16", 1.0)),
        ("512x512x64_ms", ([512, 512], 64, 2, 1), (2e-5, 20000, 50, False), (1.0, 2 / 3, "bf16", 1.0)),
    ],
)
def test_training_recipes_of_1_0_say_what_was_published(path, size, training, extra):
    _, config = settled(f"opensora/train/stdit_{path}.yaml")
    shape, model, optimizer = config.shape, config.model, config.optimizer
    assert (shape.image_size, shape.num_frames, config.data.frame_stride, config.train.batch_size) == size
    epochs = (config.train.epochs, config.train.ckpt_save_interval)
    assert (optimizer.start_learning_rate, *epochs, optimizer.use_ema) == training
    scale, time, dtype, norm = extra
    assert (model.space_scale, model.dtype, optimizer.max_grad_norm) == (scale, dtype, norm)
    assert model.time_scale == (time and pytest.approx(time))
    assert (optimizer.scheduler, optimizer.warmup_steps, optimizer.clip_grad) == ("constant", 0, True)
    assert (optimizer.optim_eps, optimizer.weight_decay, model.use_recompute) == (1e-8, 0.0, True)
    assert (config.autoencoder.sd_scale_factor, config.text.model_max_length) == (0.18215, 120)
    assert (config.autoencoder.vae_type, config.flow.noise_scheduler) == ("VideoAutoencoderKL", "ddpm")


@pytest.mark.parametrize(
    ("path", "published"),
    [
        ("stdit2_512x512x64", ([512, 512], 64, 2, 10000, 200)),
        ("stdit2_576x1024x24", ([576, 1024], 24, 3, 12000, 50)),
    ],
)
def test_training_recipes_of_1_1_say_what_was_published(path, published):
    _, config = settled(f"opensora-v1-1/train/{path}.yaml")
    epochs = (config.train.epochs, config.train.ckpt_save_interval)
    assert (config.shape.image_size, config.shape.num_frames, config.data.frame_stride, *epochs) == published
    assert (config.optimizer.start_learning_rate, config.optimizer.scheduler) == (2e-5, "constant")
    assert (config.model.dtype, config.autoencoder.vae_dtype, config.text.model_max_length) == ("bf16", "bf16", 200)
    assert (config.runtime.jit_level, config.train.batch_size, config.optimizer.use_ema) == ("O1", 1, False)


def test_training_recipe_of_1_2_of_fixed_size_says_what_was_published():
    _, config = settled("opensora-v1-2/train/train_720x1280x51.yaml")
    model, flow, optimizer = config.model, config.flow, config.optimizer
    assert (config.shape.image_size, config.shape.num_frames, config.train.batch_size) == ([720, 1280], 51, 1)
    assert (optimizer.start_learning_rate, optimizer.optim_eps, optimizer.weight_decay) == (1e-4, 1e-15, 0.0)
    assert (flow.sample_method, flow.noise_scheduler, flow.use_timestep_transform) == ("logit-normal", "rflow", True)
    assert (optimizer.ema_decay, optimizer.max_grad_norm, config.text.model_max_length) == (0.99, 1.0, 300)
    assert all([model.freeze_y_embedder, model.use_recompute, optimizer.use_ema, optimizer.clip_grad])


def test_published_buckets_have_typed_keys():
    buckets = shipped("opensora-v1-2/train/train_stage2.yaml").shape.bucket_config
    assert buckets["144p"][102] == [[1.0, 0.33], 27]
    assert list(buckets["256"]) == [1, 51, 102, 204, 408]
    assert shipped("opensora-v1-1/train/train_stage1.yaml").shape.bucket_config["256"][64] == [0.0, 0]


MASKED = [path for path in RECIPES if "mask_ratios" in path.read_text()]


@pytest.mark.parametrize("path", MASKED, ids=name)
def test_mask_ratios_of_recipes_add_up_to_one(path):
    assert sum(yaml.safe_load(path.read_text())["flow"]["mask_ratios"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("path", "size", "sampling"),
    [
        ("opensora/inference/stdit_256x256x16.yaml", (16, 256, 256), ("ddpm", 100, 7.0, 8)),
        ("opensora/inference/stdit_512x512x16.yaml", (16, 512, 512), ("ddpm", 100, 7.0, 8)),
        ("opensora/inference/stdit_512x512x64.yaml", (64, 512, 512), ("ddpm", 100, 7.0, 8)),
        ("opensora-v1-1/inference/sample_t2v.yaml", (16, 640, 360), ("ddpm", 100, 7.0, 24)),
        ("opensora-v1-2/inference/sample_t2v.yaml", (102, 720, 1280), ("rflow", 30, 7.0, 24)),
    ],
)
def test_text_to_video_recipes_say_what_was_published(path, size, sampling):
    family, config = settled(path)
    assert family.size(config.shape) == size
    sampler = config.sampler
    assert (sampler.sampling, sampler.sampling_steps, sampler.guidance_scale, sampler.fps) == sampling


def test_every_recipe_that_is_named_somewhere_is_there():
    for path in [*RECIPES, *EXAMPLE.glob("*.md"), *EXAMPLE.glob("docs/*.md")]:
        for named in re.findall(r"configs/[\w./-]+\.yaml", path.read_text()):
            assert (EXAMPLE / named).is_file(), f"{path} names {named}"


def test_picture_to_video_recipe_begins_with_the_picture():
    config = shipped("opensora-v1-2/inference/sample_iv2v.yaml")
    check(config)
    assert (config.conditions.mask_strategy, config.conditions.condition_frame_length) == (["0"], 17)
