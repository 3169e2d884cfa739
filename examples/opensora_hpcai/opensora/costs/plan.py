"""``opensora plan``: what a recipe's training needs of its cards, how long an update takes, and how to spread it.

Nothing is loaded and no weight is made: sizes come from configurations alone.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindone import runtime
from mindone.adapters import LoraConfig
from mindone.errors import UserError
from mindone.nn.layers import Linear
from opensora import networks
from opensora.config.plan import PlanConfig
from opensora.config.train import TrainConfig
from opensora.costs.device import DEVICES, Device
from opensora.costs.memory import FLOAT, activation_bytes, encoder_bytes
from opensora.costs.step import Forecast, Job, Spread, denoiser_rate, fits, forecast, forecasts
from opensora.costs.work import MicroBatch, Network, encoder_flops, training_flops
from opensora.data.buckets import Bucket
from opensora.families import Family, settle
from opensora.generate.forecast import count, parameters_of, size
from opensora.models.autoencoder import Autoencoder
from opensora.start import start
from opensora.training.contents import Contents
from opensora.training.denoiser import read_rows
from opensora.training.planning import make_buckets, plan_of_buckets

logger = logging.getLogger(__name__)

# Ways to spread a training that are listed.
LISTED = 8
ALONE = Spread(1, 1, 0)


@dataclass(frozen=True)
class Planned:
    """A recipe as the model of costs sees it."""

    config: TrainConfig
    family: Family
    job: Job
    names: Sequence[tuple[str, ...]]
    """resolution, frames and samples, per bucket"""
    source: str
    """where the shares of the buckets are from, in words"""


def plan(config: PlanConfig) -> Forecast:
    """Prints what the training takes, and returns the fastest way to spread it that fits and can be run.

    Raises:
        UserError: no way fits; it says what the smallest one needs.
    """
    start(config.runtime)
    planned = read_plan(config)
    device, memory = DEVICES[config.on.card], config.on.memory * 1e9
    print("\n".join(describe(planned, device)))
    ways = forecasts(planned.job, config.on.cards, device)
    fitting = [way for way in ways if fits(way, memory)]
    if not fitting:
        least = min(ways, key=lambda way: way.memory.peak)
        raise UserError(
            f"nothing fits into {config.on.memory:g} GB on {config.on.cards} cards; the smallest way "
            f"({_settings(least)}) needs {size(least.memory.peak)} of each; use more cards, smaller batches or buckets"
        )
    print()
    print("\n".join(_table(list(_ways(planned, fitting[:LISTED])))))
    print()
    return _choice(planned, fitting)


def _choice(planned: Planned, fitting: Sequence[Forecast]) -> Forecast:
    """The fastest way that this version can run; says so if a faster one is not there yet."""
    runs = next((way for way in fitting if can_run(planned.config, planned.family, way.spread)), None)
    if runs is not fitting[0]:
        print(f"the fastest, {_settings(fitting[0])}, is not supported by model_version {planned.family.name} yet")
    if runs is None:
        raise UserError("of the ways that fit none can be run yet; use more memory, smaller batches or buckets")
    print(f"fastest: {_settings(runs)}: {runs.samples_per_second:.3g} samples per second")
    return runs


def can_run(config: TrainConfig, family: Family, spread: Spread) -> bool:
    """Whether the version takes the settings of a way to spread the work."""
    parallel = dataclasses.replace(
        config.parallel,
        zero_stage=spread.stage,
        enable_sequence_parallelism=spread.sequence > 1,
        sequence_parallel_shards=spread.sequence,
    )
    try:
        family.check(dataclasses.replace(config, parallel=parallel))
    except UserError:
        return False
    return True


# --- reading ---------------------------------------------------------------------------------------------------------


def read_plan(config: TrainConfig) -> Planned:
    """The networks and buckets of a recipe.

    Raises:
        UserError: parts of it do not fit each other.
    """
    family, config = settle(config, config.model.model_version, config.model.model_name, config.autoencoder.vae_type)
    weights, pretrained = config.autoencoder.vae_checkpoint, config.model.pretrained_model_path
    settings = config.autoencoder
    autoencoder = networks.autoencoder_skeleton(
        family.autoencoder_preset, _existing(weights), micro_batch_size=settings.vae_micro_batch_size
    )
    network = network_of(config, family, _existing(pretrained))
    buckets, shares, source = _buckets(config, family, autoencoder)
    text_tokens = config.text.model_max_length or family.model_max_length
    cached = bool(config.data.vae_latent_folder)
    batches = [
        MicroBatch(
            autoencoder.latent_size(bucket.size),
            text_tokens,
            bucket.batch_size,
            0.0 if cached else encoder_flops(autoencoder, bucket.size),
        )
        for bucket in buckets
    ]
    encoders = [0.0 if cached else _encoder_bytes(config, autoencoder, bucket) for bucket in buckets]
    model = config.model
    recomputed = network.config.recomputed_share(model.num_recompute_blocks) if model.use_recompute else 0.0
    half = model.dtype != "fp32"
    names = [(bucket.resolution, str(bucket.size[0]), str(bucket.batch_size)) for bucket in buckets]
    job = Job(network, batches, shares, encoders, config.optimizer, recomputed, half)
    return Planned(config, family, job, names, source)


def _existing(path: str | Path | None) -> str | Path | None:
    """A path whose config.json may be asked; presets stand for models that are not there yet."""
    return path if path and Path(path).exists() else None


def network_of(config: TrainConfig, family: Family, pretrained: str | Path | None) -> Network:
    """The denoiser's config and its numbers of parameters; no weight has memory."""
    changes = {**config.model.denoiser, "space_scale": config.model.space_scale, "time_scale": config.model.time_scale}
    if not family.drops_text:
        changes["freeze_y_embedder"] = config.model.freeze_y_embedder
    denoiser = networks.denoiser_config(family.denoiser_preset, pretrained, changes, "model.denoiser")
    with runtime.lazy_parameters():
        built = networks.denoiser_class(denoiser)(denoiser, None)
    parameters = parameters_of(built)
    if config.lora.lora_rank:
        rank = config.lora.lora_rank
        lora = LoraConfig(rank, rank, tuple(config.lora.lora_target))
        linears = [cell for path, cell in built.cells_and_names() if isinstance(cell, Linear) and lora.wants(path)]
        return Network(denoiser, parameters, sum(rank * sum(linear.weight.shape) for linear in linears))
    trained = sum(math.prod(parameter.shape) for parameter in built.trainable_params())
    return Network(denoiser, parameters, trained)


def _buckets(config: TrainConfig, family: Family, autoencoder: Autoencoder) -> tuple[list[Bucket], list[float], str]:
    """One bucket per resolution and length, its largest; how often each comes; and how that is known."""
    compression = autoencoder.spatial_compression
    if config.shape.is_fixed:
        video = family.size(config.shape, compression)
        return [Bucket(f"{video[1]}x{video[2]}", "", video, config.train.batch_size)], [1.0], ""
    if config.data.csv_path and Path(config.data.csv_path).is_file():
        rows = read_rows(config.data)
        made = make_buckets(config, family, rows, compression)
        rules = made.rules
        epoch = plan_of_buckets(made, config.runtime.seed or 0, 1, Contents(rows).digest).epoch(0)
        counts, source = np.bincount(epoch.steps, minlength=len(rules.buckets)), f"as in {config.data.csv_path}"
    else:
        rules = family.bucket_rules(config.shape.bucket_config, compression)
        counts, source = np.ones(len(rules.buckets)), "taken as equal: there is no table to count them in"
    found: dict[tuple[str, int], tuple[Bucket, float]] = {}
    for bucket, number in zip(rules.buckets, counts):
        key = (bucket.resolution, bucket.size[0])
        largest, total = found.get(key, (bucket, 0.0))
        found[key] = (max(bucket, largest, key=lambda each: math.prod(each.size)), total + float(number))
    kept = [(bucket, number) for bucket, number in found.values() if number and bucket.batch_size]
    whole = sum(number for _, number in kept)
    return [bucket for bucket, _ in kept], [number / whole for _, number in kept], source


def _encoder_bytes(config: TrainConfig, autoencoder: Autoencoder, bucket: Bucket) -> float:
    frames, height, width = bucket.size
    at_once = min(frames, getattr(autoencoder.config, "micro_batch_size", None) or frames)
    number = FLOAT if config.autoencoder.vae_dtype == "fp32" else 2
    return encoder_bytes(parameters_of(autoencoder), at_once, height, width, number)


# --- the report ------------------------------------------------------------------------------------------------------


def describe(planned: Planned, device: Device) -> Iterator[str]:
    """The recipe on one card: its states, and each bucket."""
    config, job = planned.config, planned.job
    network = job.network
    yield (
        f"{planned.family.denoiser_preset}: {count(network.parameters)} parameters, {count(network.trained)} of them "
        f"trained with {job.optim.optim}; {config.model.dtype}, {denoiser_rate(network, device) / 1e12:.3g} TFLOP/s"
    )
    largest = forecast(job, ALONE, job.recomputed, device).memory
    yield (
        f"on one card: weights {size(largest.weights)}, gradients {size(largest.gradients)}, "
        f"optimizer {size(largest.optimizer)}; at the peak {size(largest.peak)}"
    )
    if planned.source:
        yield f"how often buckets come is {planned.source}"
    yield ""
    yield from _table(list(_bucket_lines(planned, device)))


BUCKET_COLUMNS = ("size", "frames", "batch", "tokens", "TFLOPs", "encoding", "kept", "recomputed", "seconds", "of all")


def _bucket_lines(planned: Planned, device: Device) -> Iterator[tuple[str, ...]]:
    yield BUCKET_COLUMNS
    job = planned.job
    config, width = job.network.config, device.activation_bytes if job.half else FLOAT
    alone = forecast(job, ALONE, job.recomputed, device)
    for name, batch, seconds, share in zip(planned.names, job.batches, alone.seconds, job.shares):
        yield (
            *name,
            str(config.block_tokens(batch.latent_size, batch.text_tokens)),
            f"{training_flops(job.network, batch, job.recomputed) / 1e12:.3g}",
            f"{batch.samples * batch.encoder_flops / 1e12:.3g}",
            size(activation_bytes(job.network, batch, 0.0, width, device)),
            size(activation_bytes(job.network, batch, 1.0, width, device)),
            f"{seconds:.3g}",
            f"{share:.1%}",
        )


WAY_COLUMNS = ("way", "recompute", "of a card", "states", "activations", "seconds", "samples/s", "runs")


def _ways(planned: Planned, ways: Sequence[Forecast]) -> Iterator[tuple[str, ...]]:
    yield WAY_COLUMNS
    for way in ways:
        memory = way.memory
        yield (
            str(way.spread),
            f"{way.recomputed:.0%}",
            *map(size, (memory.peak, memory.states, memory.activations)),
            f"{way.mean_seconds:.3g}",
            f"{way.samples_per_second:.3g}",
            "yes" if can_run(planned.config, planned.family, way.spread) else "not yet",
        )


def _table(lines: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines)]
    for name, *numbers in lines:
        yield "  ".join([name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])])


def _settings(way: Forecast) -> str:
    """As flags of a training."""
    flags = [f"--use_recompute {way.recomputed > 0}"]
    if way.spread.cards > 1:
        flags.append("--use_parallel True")
    if way.spread.sequence > 1:
        flags.append(f"--enable_sequence_parallelism True --sequence_parallel_shards {way.spread.sequence}")
    if way.spread.stage:
        flags.append(f"--zero_stage {way.spread.stage}")
    return f"{way.spread} ({' '.join(flags)})"
