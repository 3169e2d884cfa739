"""The settings of each command, against the published flags."""

import ast
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml

import opensora.config
from mindone.config import Names, leaves, load, parse
from mindone.errors import UserError
from mindone.train.optim import OPTIMIZER_NAMES
from opensora.cli import all_doors
from opensora.cli import load as load_object
from opensora.config import (
    ConvertConfig,
    DecodeConfig,
    EmbedTextConfig,
    EmbedVideoConfig,
    EvaluateVaeConfig,
    GenerateConfig,
    TrainConfig,
    TrainVaeConfig,
)
from opensora.config.train import Optimizer
from opensora.config.v2 import ImageAutoencoder, Mmdit, VideoAutoencoder
from opensora.families import MODULES, get_family, settle

SCHEMAS = [getattr(opensora.config, name) for name in opensora.config.__all__]
PACKAGE = Path(opensora.config.__file__).parents[1]

PUBLISHED = yaml.safe_load((PACKAGE.parent / "docs" / "published_flags.yaml").read_text())["mindspore_port"]


@pytest.mark.parametrize("script", PUBLISHED, ids=lambda script: script["command"])
def test_every_published_flag_has_a_meaning_or_a_reason_why_not(script):
    names = Names(load_object(all_doors()[script["command"]].schema))
    assert len(script["flags"]) > 8
    assert [flag for flag in script["flags"] if not names.lookup(flag) and not names.reason(flag)] == []


def test_the_names_of_published_conversions_are_understood():
    assert set(leaves(ConvertConfig)) >= {"src", "target"}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_no_name_means_two_things(schema):
    names = [*leaves(schema), *schema.aliases, *schema.accepted_but_unused]
    assert len(names) == len(set(names))
    assert set(schema.aliases.values()) <= set(leaves(schema))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_help_explains_every_setting(schema, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(schema, ["--help"])
    assert leaving.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    following = [f"--{name} " for name in leaves(schema)]
    for flag in following:
        words = text.split(flag, 1)[1].split(" --", 1)[0].split()
        assert len(words) > 2, f"{flag} has no explanation"


def test_settings_are_read_without_importing_mindspore():
    code = (
        "import sys; from opensora.config import TrainConfig; from mindone.config import load;"
        "load(TrainConfig, ['--image_size', '32']); sys.exit('mindspore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("version", MODULES)
def test_what_a_version_refuses_stands_in_some_schema(version):
    names = {leaf.name for schema in SCHEMAS for leaf in leaves(schema).values()}
    assert set(get_family(version).refused) <= names


VERSIONED = [schema for schema in SCHEMAS if any(leaf.name == "model_version" for leaf in leaves(schema).values())]


@pytest.mark.parametrize("version", MODULES)
@pytest.mark.parametrize("schema", VERSIONED)
def test_defaults_ask_for_nothing_that_a_version_refuses_and_leave_nothing_open_that_it_decides(schema, version):
    family, config = settle(load(schema, []), version)
    decided = {leaf.name for leaf in leaves(schema).values()} & set(family.defaults())
    assert [name for name in decided if getattr(config, name) is None] == []


# Only what is refused as a whole would read them.
PARTS_OF_WHAT_IS_REFUSED = {
    "loop": ("condition_frame_length", "condition_frame_edit"),
}
READ_BY_ITS_SCHEMA = {"use_t2i2v", "token", "zero_stage", "parallel_mode", "sp_size"}
# Handed on whole to the configs of the networks, which refuse those that they do not have.
SIZES_OF_2_0 = {field.name for group in (Mmdit, VideoAutoencoder, ImageAutoencoder) for field in fields(group)}
REFUSED_BY_ALL = set.intersection(*(set(get_family(version).refused) for version in MODULES))
# Commands that start others, which read their settings.
STARTED = {"opensora.proof.prove": ["opensora.training.denoiser"]}
COMMANDS = {door.schema.split(":")[1]: door.function.split(":")[0] for door in all_doors().values() if door.schema}


def source_of(module: str) -> Path | None:
    path = PACKAGE.parent / module.replace(".", "/")
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def parsed(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text())))


def modules_of(command: str) -> set[Path]:
    """The files of ``opensora`` that a command's module imports, directly or not, without the schemas."""
    found, left = set(), [command, *STARTED.get(command, ())]
    by_name = {"opensora.families": list(MODULES.values())}
    while left:
        module = left.pop()
        file = source_of(module)
        if not file or file in found or file.parent.name == "config":
            continue
        found.add(file)
        left += by_name.get(module, ())
        for node in parsed(file):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opensora"):
                left += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    return found


def names_read_by(command: str) -> set[str]:
    """Names that the command's code takes from some object, or says as text; families name what they only decide."""
    names = set()
    for file in modules_of(command):
        texts = () if file.parent.name == "families" else (ast.Constant,)
        names |= {node.attr for node in parsed(file) if isinstance(node, ast.Attribute)}
        names |= {node.value for node in parsed(file) if isinstance(node, texts) and isinstance(node.value, str)}
    return names


@pytest.mark.parametrize("schema", [name for name in COMMANDS if source_of(COMMANDS[name])])
def test_every_setting_is_read_by_its_command_or_refused(schema):
    """A setting that nobody reads would be silently ignored."""
    settings = leaves(getattr(opensora.config, schema)).values()
    parts = {part for parts in PARTS_OF_WHAT_IS_REFUSED.values() for part in parts}
    unread = {leaf.name for leaf in settings} - names_read_by(COMMANDS[schema])
    assert unread - REFUSED_BY_ALL - parts - READ_BY_ITS_SCHEMA - SIZES_OF_2_0 == set()


TRAIN = ["--csv_path", "a.csv", "--video_folder", "v", "--image_size", "64"]
BUCKETS = ["--bucket_config", "{256: {1: [1.0, 2]}}"]
GENERATE = ["--captions", "a red circle", "--image_size", "64"]
VAE = ["--csv_path", "a.csv", "--video_folder", "v", "--use_z_rec_loss", "True"]


@pytest.mark.parametrize(
    "schema, argv, message",
    [
        (TrainConfig, [*TRAIN, "--model_version", "v1.3"], "has to be one of v0, v1, v1.1, v1.2, v2.0"),
        (TrainConfig, TRAIN[2:], "csv_path is not set; give the table"),
        (TrainConfig, [*TRAIN[:2], *TRAIN[4:]], "video_folder is not set"),
        (TrainConfig, TRAIN[:4], "the videos have no size; give image_size"),
        (TrainConfig, [*TRAIN[:4], "--resolution", "720p"], "resolution and aspect_ratio belong together"),
        (TrainConfig, [*TRAIN, "--image_size", "0"], "image_size=0"),
        (TrainConfig, [*TRAIN, "--image_size", "1", "2", "3"], "image_size=[1, 2, 3]"),
        (TrainConfig, [*TRAIN, "--batch_size", "0"], "batch_size=0 has to be at least 1"),
        (TrainConfig, [*TRAIN, "--ema_decay", "1.5"], "ema_decay=1.5"),
        (TrainConfig, [*TRAIN, "--max_bad_fraction", "2"], "max_bad_fraction=2.0 has to be between 0 and 1"),
        (TrainConfig, [*TRAIN, "--fps_max", "24"], "fps_max belongs to bucket_config; use frame_stride with a fixed"),
        (TrainConfig, [*TRAIN[:4], *BUCKETS, "--fps_max", "0"], "fps_max=0.0 has to be more than 0"),
        (GenerateConfig, GENERATE[:2], "the video has no size"),
        (GenerateConfig, [*GENERATE, "--sd_scale_factor", "0"], "sd_scale_factor=0.0 has to be larger than 0"),
        (GenerateConfig, ["--num_frames", "0"], "num_frames=0 has to be at least 1"),
        (TrainConfig, [*TRAIN, "--num_frames", "0"], "num_frames=0 has to be at least 1"),
        (GenerateConfig, [*GENERATE, "--sampling_steps", "0"], "sampling_steps=0 has to be at least 1"),
        (GenerateConfig, [*GENERATE, "--use_vae_decode", "False"], "would write nothing"),
        (GenerateConfig, [*GENERATE, "--camera_motion", "pan lef"], "did you mean pan left?"),
        (EmbedTextConfig, ["--output_path", "o"], "there is nothing to encode"),
        (EmbedTextConfig, ["--captions", "a"], "output_path is not set"),
        (EmbedVideoConfig, ["--csv_path", "a.csv"], "video_folder is not set"),
        (EmbedVideoConfig, [*TRAIN[:4], "--output_path", "o"], "the videos have no size"),
        (ConvertConfig, ["--src", "a.pth"], "target is not set"),
        (DecodeConfig, [], "latent_folder is not set"),
        (TrainVaeConfig, VAE[:4], "there is no reconstruction loss"),
        (EvaluateVaeConfig, [], "csv_path is not set"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(schema, argv, message):
    with pytest.raises(UserError) as refusal:
        parse(schema, argv)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("version", "schema", "argv", "message"),
    [
        ("v1", GenerateConfig, ["--sampling", "rflow"], "sampling=rflow is not supported by model_version v1; use"),
        ("v1", GenerateConfig, ["--aes", "6.5"], "aesthetic_score=6.5 is not supported by model_version v1; use"),
        ("v1", GenerateConfig, ["--reference_path", "a.png"], "reference_path=['a.png'] is not supported"),
        ("v1", GenerateConfig, ["--loop", "2"], "loop=2 is not supported by model_version v1"),
        ("v2.0", GenerateConfig, ["--loop", "2"], "loop=2 is not supported by model_version v2.0; use 1, and --task"),
        ("v1", TrainConfig, ["--mask_ratios.random", "0.1"], "mask_ratios={'random': 0.1} is not supported"),
        ("v1.2", TrainConfig, [*BUCKETS, "--image_size", "None", "--fps_max", "8"], "fps_max=8.0 is not supported"),
        ("v1", TrainConfig, [*BUCKETS, "--image_size", "None"], "bucket_config is not supported by model_version v1;"),
        ("v1.1", TrainConfig, ["--vae_type", "OpenSora-VAE-v1.2"], "vae_type=OpenSora-VAE-v1.2 is not supported"),
        ("v1.1", TrainConfig, ["--noise_scheduler", "rflow"], "noise_scheduler=rflow is not supported"),
        ("v1.2", GenerateConfig, ["--sampling", "ddim"], "sampling=ddim is not supported by model_version v1.2; use"),
        ("v1.2", GenerateConfig, ["--vae_type", "Hunyuan-VAE"], "vae_type=Hunyuan-VAE is not supported"),
        ("v2.0", GenerateConfig, ["--sampling", "ddpm"], "sampling=ddpm is not supported by model_version v2.0; use"),
        ("v2.0", TrainConfig, ["--mask_ratios.random", "0.1"], "mask_ratios={'random': 0.1} is not supported"),
    ],
)
def test_what_one_version_cannot_do_is_refused_by_it(version, schema, argv, message):
    with pytest.raises(UserError) as refusal:
        settle(parse(schema, [*(TRAIN if schema is TrainConfig else GENERATE), *argv]), version)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "schema, argv",
    [
        (TrainConfig, TRAIN),
        (TrainConfig, [*TRAIN, "--vae_type", "OpenSoraVAE_V1_2", "--resume", "True", "--mask_ratios.random", "0.1"]),
        (GenerateConfig, [*GENERATE, "--reference_path", "", "--num_frames", "4s"]),
        (GenerateConfig, ["--prompt", "a", "--resolution", "240p", "--aspect-ratio", "9:16", "--aes", "6.5"]),
        (EmbedTextConfig, ["--csv_path", "a.csv", "--output_path", "o", "--dtype", "fp16"]),
        (EmbedVideoConfig, [*TRAIN, "--output_path", "o", "--dl_return_all_frames", "True"]),
        (ConvertConfig, ["--src", "a.pth", "--target", "a.ckpt"]),
        (DecodeConfig, ["--latent_folder", "a", "b"]),
        (TrainVaeConfig, VAE),
    ],
)
def test_what_can_work_is_accepted(schema, argv):
    parse(schema, argv)


def test_the_choice_of_optimizers_is_that_of_the_library():
    assert get_args(Optimizer) == OPTIMIZER_NAMES


@pytest.mark.parametrize("value", ["often", "0", "1.5"])
def test_an_interval_that_is_none_is_refused_with_its_setting(value):
    with pytest.raises(UserError, match=f"log_interval={value}"):
        parse(TrainConfig, [*TRAIN, "--log_interval", value])


def test_intervals_are_updates_epochs_or_percent():
    config = parse(TrainConfig, [*TRAIN, "--ckpt_save_steps", "2 epochs", "--warmup_steps", "5%"])
    assert (config.train.ckpt_save_steps, config.optimizer.warmup_steps, config.train.log_interval) == (
        "2 epochs",
        "5%",
        1,
    )
