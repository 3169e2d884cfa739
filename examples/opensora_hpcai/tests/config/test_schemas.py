"""The settings of each command, against the published flags."""

import ast
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

import opensora.config
from mindone.config import leaves, load, parse
from mindone.errors import UserError
from mindone.train.optim import OPTIMIZER_NAMES
from opensora.cli import all_doors
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
from opensora.families.base import REFUSED

SCHEMAS = [getattr(opensora.config, name) for name in opensora.config.__all__]
PACKAGE = Path(opensora.config.__file__).parents[1]

PUBLISHED = {
    ConvertConfig: "src target",
    TrainConfig: """
        dataset_name csv_path video_column caption_column video_folder text_embed_folder vae_latent_folder filter_data
        output_path add_datetime model_version pretrained_model_path space_scale time_scale model_max_length
        freeze_y_embedder patchify manual_pad vae_type noise_scheduler sample_method use_timestep_transform debug
        device_target max_device_memory mode save_graphs use_parallel parallel_mode jit_level resume optim zero_stage
        betas optim_eps group_strategy weight_decay seed warmup_steps batch_size vae_micro_batch_size
        vae_micro_frame_size start_learning_rate end_learning_rate decay_steps scheduler pre_patchify max_image_size
        dataset_sink_mode sink_size video_backend epochs train_steps init_loss_scale loss_scale_factor scale_window
        gradient_accumulation_steps use_ema ema_decay clip_grad max_grad_norm use_recompute num_recompute_blocks
        drop_overflow_update loss_scaler_type ckpt_save_interval ckpt_save_steps ckpt_max_keep step_mode custom_train
        profile log_level log_interval dtype vae_dtype vae_keep_gn_fp32 global_bf16 vae_param_dtype amp_level
        vae_amp_level t5_model_name_or_path vae_checkpoint sd_scale_factor image_size resolution aspect_ratio num_frames
        frame_stride mask_ratios bucket_config num_parallel_workers num_workers_dataset num_workers_batch prefetch_size
        data_multiprocessing max_rowsize disable_flip enable_flash_attention enable_sequence_parallelism
        sequence_parallel_shards dsp validate val_interval num_eval_timesteps val_csv_path val_video_folder
        val_text_embed_folder val_vae_latent_folder val_batch_size val_bucket_config""",
    GenerateConfig: """
        model_version image_size resolution aspect_ratio num_frames num_samples ckpt_path t5_model_name_or_path
        vae_checkpoint sd_scale_factor vae_type vae_micro_batch_size vae_micro_frame_size jit_level sampling_steps
        guidance_scale guidance_channels frame_interval loop model_max_length condition_frame_length
        condition_frame_edit mask_strategy reference_path device_target mode use_parallel debug seed max_device_memory
        patchify enable_flash_attention enable_sequence_parallelism dsp dtype vae_dtype t5_dtype amp_level space_scale
        time_scale captions prompt_path output_path append_timestr save_format fps batch_size text_embed_folder
        save_latent use_vae_decode sampling pre_patchify max_image_size max_num_frames""",
    EmbedTextConfig: """
        csv_path prompt_path output_path caption_column t5_model_name_or_path model_max_length device_target mode
        use_parallel seed enable_flash_attention precision_mode use_recompute dtype captions batch_size""",
    EmbedVideoConfig: """
        csv_path output_path save_distribution video_column caption_column video_folder filter_data image_size
        dl_return_all_frames vae_checkpoint sd_scale_factor device_target mode use_parallel seed enable_flash_attention
        dtype precision_mode frame_stride transform_name vae_micro_batch_size use_recompute global_bf16 allow_overwrite
        batch_size resize_by_max_value""",
    DecodeConfig: """
        vae_checkpoint sd_scale_factor latent_folder output_path use_fp16 save_format fps device_target mode seed""",
    TrainVaeConfig: """
        random_crop flip model_type freeze_vae_2d use_discriminator perceptual_loss_weight kl_loss_weight
        use_real_rec_loss use_z_rec_loss use_image_identity_loss mixed_strategy mixed_image_ratio scale_lr optim
        weight_decay micro_batch_size micro_frame_size frame_stride image_size num_frames batch_size epochs dataset_name
        caption_column add_datetime optim_eps pre_patchify max_image_size train_steps num_recompute_blocks
        vae_param_dtype vae_amp_level sd_scale_factor mask_ratios bucket_config data_multiprocessing max_rowsize
        enable_flash_attention ckpt_save_steps step_mode sink_size csv_path video_folder use_parallel use_ema""",
    EvaluateVaeConfig: """
        ckpt_path csv_path video_folder output_path num_frames frame_stride image_size batch_size eval_loss save_vis
        use_temporal_vae encode_only video_column dtype mode model_config expand_dim_t num_parallel_workers
        mixed_strategy mixed_image_ratio save_z_dist device_target""",
}


@pytest.mark.parametrize("schema", PUBLISHED)
def test_every_published_flag_has_a_meaning_or_a_reason_why_not(schema):
    known = {*leaves(schema), *schema.aliases, *schema.accepted_but_unused}
    assert set(PUBLISHED[schema].split()) - known == set()


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
    assert {*REFUSED, *get_family(version).refused} <= names


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
READ_BY_ITS_SCHEMA = {"use_t2i2v", "token"}
# Handed on whole to the configs of the networks, which refuse those that they do not have.
SIZES_OF_2_0 = {field.name for group in (Mmdit, VideoAutoencoder, ImageAutoencoder) for field in fields(group)}
REFUSED_BY_ALL = set.intersection(*({*REFUSED, *get_family(version).refused} for version in MODULES))
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
        (TrainConfig, [*TRAIN, "--model_version", "v1.3"], "has to be one of v1, v1.1, v1.2, v2.0"),
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


@pytest.mark.parametrize("version", MODULES)
@pytest.mark.parametrize(
    ("schema", "argv", "name", "instead"),
    [
        (TrainConfig, [*TRAIN, "--zero_stage", "2"], "zero_stage=2", "use 0"),
    ],
)
def test_what_no_version_can_do_is_refused_in_one_sentence_that_says_what_to_use(version, schema, argv, name, instead):
    with pytest.raises(UserError) as refusal:
        settle(parse(schema, argv), version)
    assert str(refusal.value).startswith(f"{name} is not supported by model_version {version}; {instead}")
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
