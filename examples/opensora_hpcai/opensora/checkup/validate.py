"""``opensora validate``: would a recipe work here? Files, keys, weights, data and memory, before anything is loaded.

Weights are compared with the network by names and shapes; no tensor is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mindone import runtime
from mindone.config import check, load
from mindone.data.metadata import Metadata
from mindone.data.table import VideoRow
from mindone.errors import UserError
from opensora import networks
from opensora.checkup.doctor import memory_available
from opensora.checkup.findings import Report
from opensora.config import GenerateConfig, InferenceV2Config, TrainConfig, TrainVaeConfig
from opensora.data.cache import cache_path
from opensora.families import Family, settle
from opensora.generate.forecast import count, parameters_of, size
from opensora.model_folder import require_path
from opensora.start import start

if TYPE_CHECKING:
    from opensora.generate.plan import Plan
    from opensora.models.types import DenoiserConfig

# Rows of a table whose files are looked for.
LOOKED_AT = 5000
# Memory of an NPU if nothing says it.
NPU_BYTES = 64e9


@dataclass(frozen=True)
class Kind:
    """A command whose recipes can be validated."""

    schema: type
    check: Callable[[object, Report], None]


def validate(argv: Sequence[str], prog: str) -> None:
    """Checks the recipe and flags of a training or of sampling: ``--config RECIPE [--NAME VALUE ...]``.

    Raises:
        UserError: anything is wrong.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {prog} --config RECIPE.yaml [--NAME VALUE ...]\n\n{(validate.__doc__ or '').partition(':')[0]}.")
        return
    report = Report()
    command, config = read_config(argv)
    report.add("ok", "command", f"settings of opensora {command}")
    if report.check("settings", lambda: check(config)):
        KINDS[command].check(config, report)
    report.require_right("the recipe")


def read_config(argv: Sequence[str]) -> tuple[str, object]:
    """The command whose settings these are, and the settings.

    Raises:
        UserError: they are of no command; it is what the command says that gets furthest.
    """
    errors: dict[str, UserError] = {}
    logging.disable(logging.WARNING)
    try:
        for command, kind in KINDS.items():
            try:
                return command, load(kind.schema, argv)
            except UserError as error:
                errors[command] = error
    finally:
        logging.disable(logging.NOTSET)
    command, error = max(errors.items(), key=lambda item: _line(str(item[1])))
    raise UserError(f"as settings of opensora {command}: {error}") from error


def _line(message: str) -> int:
    """The line of a recipe that a message names: the reader that came furthest knew most of it."""
    place = message.partition(".yaml")[2]
    digits = "".join(letter if letter.isdigit() else " " for letter in place[:20]).split()
    return int(digits[0]) if digits else 0


# --- training --------------------------------------------------------------------------------------------------------


def check_training(config: TrainConfig, report: Report) -> None:
    """A training of a denoiser."""
    from opensora.costs.plan import network_of

    start(config.runtime)
    with report.about("version"):
        family, config = settle(
            config, config.model.model_version, config.model.model_name, config.autoencoder.vae_type
        )
        network = network_of(config, family, _existing(config.model.pretrained_model_path))
        report.add(
            "ok",
            "network",
            f"{family.denoiser_preset}: {count(network.parameters)} parameters, "
            f"{count(network.trained)} of them trained",
        )
        report.check("weights", lambda: _training_weights(config, network.config))
        report.check("autoencoder", lambda: _autoencoder_weights(config, family))
        report.check("text", lambda: _training_text(config, family, network.config))
        with report.about("data"):
            rows = _rows(config, report)
            report.check("data plan", lambda: _data_plan(config, family, rows))
        report.check("memory", lambda: _training_memory(config))


def _training_weights(config: TrainConfig, network: DenoiserConfig) -> str:
    from mindone.checkpoint import read_tensors
    from opensora.models.pretrained import image_model_of

    path = config.model.pretrained_model_path
    if not path:
        return "none given: the training begins with fresh ones"
    source = require_path(path, "the denoiser's weights", "pretrained_model_path")
    image_model = image_model_of(network, read_tensors(source))
    if image_model:
        return f"{source} is {image_model.name}: what the network has in common with it is taken over"
    return f"{networks.check_denoiser_weights(source, network)} tensors of {source} fit the network"


def _autoencoder_weights(config: TrainConfig, family: Family) -> str:
    settings = config.autoencoder
    if config.data.vae_latent_folder and not config.samples.sample_every and not settings.vae_checkpoint:
        return "not needed: latents are cached"
    if family.autoencoder_preset in networks.WITHOUT_WEIGHTS:
        return f"{family.autoencoder_preset} has no weights"
    source = require_path(settings.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint")
    return _fitting_autoencoder(source, family.autoencoder_preset)


def _fitting_autoencoder(source: Path, preset: str) -> str:
    autoencoder = networks.autoencoder_skeleton(preset, source)
    return f"{networks.check_autoencoder_weights(autoencoder, source)} tensors of {source} fit {preset}"


def _training_text(config: TrainConfig, family: Family, network: DenoiserConfig) -> str:
    if config.data.text_embed_folder and not family.drops_text:
        if not Path(config.data.text_embed_folder).is_dir():
            raise UserError(
                f"text_embed_folder={config.data.text_embed_folder} is not there; make it with opensora embed-text"
            )
        return "not needed: text embeddings are cached"
    return _encoders(config.text, family, network)


def _encoders(text: object, family: Family, network: DenoiserConfig) -> str:
    """The text encoders that a family needs."""
    from opensora.text.encoder import check_text_encoder

    length = text.model_max_length or family.model_max_length
    said = []
    for option in family.encoders_of(network):
        is_clip = option.startswith("clip")
        width = getattr(network, "caption_channels", None) or (
            network.vec_in_dim if is_clip else network.context_in_dim
        )
        folder = getattr(text, option)
        found = check_text_encoder(folder, 77 if is_clip else length, width, option)
        said.append(f"{found} tensors of {folder} fit")
    return ", ".join(said) or "not needed: the network is told classes"


def _rows(config: TrainConfig | TrainVaeConfig, report: Report) -> list[VideoRow]:
    """The rows of the table; files that are not there are a finding."""
    from opensora.training.denoiser import read_rows

    data = config.data
    rows = read_rows(data)
    report.add("ok", "table", f"{len(rows)} rows in {data.csv_path}")
    folders = {"text_embed_folder": data.text_embed_folder}
    seen = rows[:: max(1, len(rows) // LOOKED_AT)]
    if not data.vae_latent_folder:
        _look_for([row.file for row in seen], len(rows), f"video_folder={data.video_folder}", report)
    for option, folder in folders.items():
        if folder:
            _look_for([cache_path(folder, row.relative) for row in seen], len(rows), f"{option}={folder}", report)
    return rows


def _look_for(files: Sequence[Path], total: int, where: str, report: Report) -> None:
    missing = [file for file in files if not file.is_file()]
    looked = f"{len(files)} of {total} files" if len(files) < total else f"{total} files"
    if missing:
        report.add(
            "wrong",
            "files",
            f"{len(missing)} of {looked} are not there, such as {missing[0]}; check {where}, or give filter_data",
        )
    else:
        report.add("ok", "files", f"{looked} of {where} are there")


def _data_plan(config: TrainConfig, family: Family, rows: list[VideoRow]) -> str:
    """The batches of an epoch, as far as the table tells them."""
    from opensora.training.contents import Contents
    from opensora.training.planning import make_buckets, plan_of_buckets

    per_update = config.optimizer.gradient_accumulation_steps
    if config.shape.is_fixed:
        batches = len(rows) // config.train.batch_size
        if batches < 1:
            raise UserError(
                f"{len(rows)} rows make no batch of batch_size={config.train.batch_size}; use a smaller one"
            )
        return f"{batches} batches in an epoch, {batches // per_update} updates"
    if len(Metadata.of_rows(rows).lacking(config.shape.fps_max is not None)):
        return (
            "the table does not say all sizes; the videos are looked at when training starts (add num_frames, "
            "height, width and fps to have it faster)"
        )
    compression = networks.autoencoder_skeleton(family.autoencoder_preset).spatial_compression
    buckets = make_buckets(config, family, rows, compression)
    plan = plan_of_buckets(buckets, config.runtime.seed or 0, 1, Contents(rows).digest)
    epoch = plan.epoch(0)
    return (
        f"{len(epoch)} batches of {epoch.shapes()} shapes in an epoch, with {epoch.samples} of {len(rows)} samples; "
        "opensora plan-data says which"
    )


def _training_memory(config: TrainConfig) -> str:
    """Whether one card holds the training.

    Raises:
        UserError: it does not.
    """
    from opensora.costs.device import DEVICES
    from opensora.costs.plan import ALONE, read_plan
    from opensora.costs.step import forecast

    on_cpu = runtime.current().device == "CPU"
    job = read_plan(config).job
    found = forecast(job, ALONE, job.recomputed, DEVICES["cpu" if on_cpu else "ascend"])
    return _within(found.memory.peak, on_cpu, "use a smaller batch_size or buckets, use_recompute or cached latents")


def _within(needed: float, on_cpu: bool, remedy: str) -> str:
    there = memory_available() if on_cpu else NPU_BYTES
    said = f"about {size(needed)} of {size(there)}"
    if needed > there:
        raise UserError(f"{said} are needed at the peak; {remedy}; opensora plan says what fits")
    return f"{said} at the peak"


# --- sampling --------------------------------------------------------------------------------------------------------


def check_sampling(config: GenerateConfig, report: Report) -> None:
    """Videos from prompts."""
    from opensora.generate.plan import checked_plan

    start(config.runtime)
    denoiser = config.denoiser
    with report.about("plan"):
        family, config = settle(config, denoiser.model_version, denoiser.model_name, config.autoencoder.vae_type)
        plan = checked_plan(config, family)
        report.add("ok", "plan", f"{len(plan.jobs)} videos of {family.denoiser_preset}, {_sizes(plan)}")
        report.check("weights", lambda: _sampling_weights(plan))
        if config.output.use_vae_decode or config.autoencoder.vae_checkpoint:
            report.check("autoencoder", lambda: _sampling_autoencoder(plan))
        if not config.prompts.text_embed_folder:
            report.check("text", lambda: _encoders(config.text, family, plan.denoiser_config))
        report.check("memory", lambda: _sampling_memory(plan))


def check_sampling_v2(config: InferenceV2Config, report: Report) -> None:
    """Videos of 2.0, and the pictures that they begin with."""
    from opensora.generate.v2 import picture_settings, video_settings

    start(config.env)
    settings = [video_settings(config), *([picture_settings(config)] if config.makes_picture else [])]
    for each in settings:
        if report.check("settings", lambda each=each: check(each)):
            check_sampling(each, report)


def _sizes(plan: Plan) -> str:
    found = sorted({"x".join(map(str, request.size)) for request in plan.requests})
    return ", ".join(found[:3]) + (" and more" if len(found) > 3 else "")


def _sampling_weights(plan: Plan) -> str | None:
    denoiser = plan.config.denoiser
    if not denoiser.ckpt_path:
        return "none given: allow_random_weights"
    source = require_path(denoiser.ckpt_path, "the denoiser's weights", "ckpt_path")
    found = networks.check_denoiser_weights(source, plan.denoiser_config, denoiser.loras)
    return f"{found} tensors of {source} fit the network"


def _sampling_autoencoder(plan: Plan) -> str | None:
    settings = plan.config.autoencoder
    if plan.family.autoencoder_preset in networks.WITHOUT_WEIGHTS:
        return f"{plan.family.autoencoder_preset} has no weights"
    if not settings.vae_checkpoint and plan.config.denoiser.allow_random_weights:
        return "none given: allow_random_weights"
    source = require_path(settings.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint")
    found = networks.check_autoencoder_weights(plan.autoencoder, source)
    return f"{found} tensors of {source} fit {plan.family.autoencoder_preset}"


def _sampling_memory(plan: Plan) -> str:
    from opensora.generate.forecast import needed

    stage = max(needed(plan), key=lambda stage: stage.peak_bytes)
    on_cpu = runtime.current().device == "CPU"
    remedy = f"the {stage.name} needs most: use a smaller batch_size, fewer frames, a smaller size or bf16"
    return f"{_within(stage.peak_bytes, on_cpu, remedy)}, of the {stage.name}"


# --- autoencoders ----------------------------------------------------------------------------------------------------


def check_autoencoder_training(config: TrainVaeConfig, report: Report) -> None:
    """A training of an autoencoder."""
    start(config.runtime)
    report.check("weights", lambda: _autoencoder_to_train(config))
    with report.about("data"):
        rows = read_vae_rows(config, report)
        batches = (len(rows) - config.data.held_out) // config.train.batch_size
        if batches < 1:
            raise UserError(
                f"{len(rows)} rows make no batch of batch_size={config.train.batch_size}; use a smaller one"
            )
        report.add("ok", "data plan", f"{batches} batches in an epoch")


def _autoencoder_to_train(config: TrainVaeConfig) -> str:
    from opensora.training.autoencoder import config_of

    model = config.model
    with runtime.lazy_parameters():
        autoencoder = networks.build_autoencoder(config_of(model))
    parameters = f"{model.network}: {count(parameters_of(autoencoder))} parameters"
    if model.vae2d_checkpoint:
        require_path(model.vae2d_checkpoint, "the weights of an image autoencoder", "vae2d_checkpoint")
    if not model.pretrained_model_path:
        return f"{parameters}, fresh ones"
    found = networks.check_autoencoder_weights(autoencoder, model.pretrained_model_path)
    return f"{parameters}, {found} tensors of {model.pretrained_model_path} fit"


def read_vae_rows(config: TrainVaeConfig, report: Report) -> list[VideoRow]:
    """The rows of the table, whose files are looked for."""
    from opensora.training.autoencoder import read_rows

    rows = read_rows(config.data)
    report.add("ok", "table", f"{len(rows)} rows in {config.data.csv_path}")
    seen = rows[:: max(1, len(rows) // LOOKED_AT)]
    _look_for([row.file for row in seen], len(rows), f"video_folder={config.data.video_folder}", report)
    return rows


def _existing(path: str | None) -> str | None:
    return path if path and Path(path).exists() else None


KINDS: dict[str, Kind] = {
    "train": Kind(TrainConfig, check_training),
    "generate": Kind(GenerateConfig, check_sampling),
    "generate-v2": Kind(InferenceV2Config, check_sampling_v2),
    "train-vae": Kind(TrainVaeConfig, check_autoencoder_training),
}
