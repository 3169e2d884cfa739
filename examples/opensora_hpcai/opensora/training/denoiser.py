"""Trains a denoiser on videos and captions, or on their caches."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mindspore import nn

from mindone.checkpoint import read_tensors
from mindone.config import naming_sources
from mindone.data.plan import FixedPlan, Plan
from mindone.data.table import VideoRow, read_video_table
from mindone.data.transforms import ResizeWithin
from mindone.errors import UserError
from mindone.parallel.collectives import broadcast_parameters
from mindone.parallel.mesh import Mesh
from mindone.parallel.sequence import NoParallel
from mindone.parallel.zero import spread
from mindone.train.band import BandWatch
from mindone.train.loop import Every, Training
from opensora.conditions.visual import drawn_ends
from opensora.config.generate import Sampler as SamplerSettings
from opensora.config.train import Data, TrainConfig
from opensora.data.cache import cache_path, latent_folders, require_distinct
from opensora.data.dataset import LatentTextDataset, VideoTextDataset
from opensora.data.masks import MaskGenerator
from opensora.families import Family, settle, with_defaults
from opensora.families.base import Arrays, Objective, PromptRules
from opensora.families.packed import Packing, packing_of
from opensora.model_folder import require_path
from opensora.models.autoencoder import Autoencoder
from opensora.models.pretrained import image_model_of, initialize_from_image_model
from opensora.networks import (
    WITHOUT_WEIGHTS,
    autoencoder_skeleton,
    build_denoiser,
    denoiser_config,
    denoiser_presets,
    load_autoencoder,
    load_denoiser,
    own_tensors,
)
from opensora.sequence import shared_by, shared_mesh
from opensora.sizes import VideoSize
from opensora.start import start
from opensora.training.adapter import Trained, adapt
from opensora.training.contents import Contents
from opensora.training.inputs import Captions, DenoiserInputs
from opensora.training.planning import Buckets, make_buckets, plan_of_buckets, require_shares
from opensora.training.run import (
    Run,
    cache_bytes,
    existing_rows,
    make_loader,
    make_step,
    make_training,
    open_run,
    run_length,
    run_training,
)
from opensora.training.samples import Samples, frame_rate
from opensora.training.validation import (
    SizedBatch,
    Validation,
    ValidationLoss,
    batches_of_buckets,
    batches_of_one_size,
    validation_settings,
)

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig

logger = logging.getLogger(__name__)

# Captions of the training data that are sampled if no prompts are given.
SAMPLED_CAPTIONS = 4


@dataclass(frozen=True)
class Setting:
    """What is trained on what.

    The autoencoder has its weights if videos are encoded or decoded, and only knows its sizes and scale otherwise.
    """

    config: TrainConfig
    """with the family's values where settings were left open"""
    family: Family
    denoiser_config: DenoiserConfig
    autoencoder: Autoencoder
    size: VideoSize | None
    """of all samples; None: that of their buckets"""
    rows: list[VideoRow]
    buckets: Buckets | None = None
    packing: Packing | None = None
    """rows of patches, which videos of any shape become; None: there are none"""

    @property
    def planned_size(self) -> VideoSize | None:
        """What the data set is asked for; None: its own transform, or what is cached."""
        return None if self.packing else self.size


def train(config: TrainConfig) -> Path:
    """Trains a denoiser, or an adapter of one, and returns its model folder.

    Raises:
        UserError: what in the configuration cannot work; found before training where possible.
        SystemExit: a signal ended the run early; its state is saved.
    """
    start(config.runtime)
    mesh = shared_mesh(config.parallel)
    setting = make_setting(config, mesh)
    with open_run(config, mesh) as run:
        training, trained = prepare(config, setting, run)
        run_training(run, training)
        folder = training.checkpoints.export(step=training.state.step)
        logger.info("the %s is in %s", trained.name, folder)
    return folder


def prepare(config: TrainConfig, setting: Setting, run: Run) -> tuple[Training, Trained]:
    """All that a run of the loop needs, and what it trains; ``config`` as it was given.

    Raises:
        UserError: as for `train`.
    """
    contents = Contents(setting.rows, setting.buckets.metadata if setting.buckets else None)
    plan = make_plan(setting, run.seed, run.mesh.data, contents.digest, run.planned_ranks)
    dataset = make_dataset(setting, plan.epoch(0).usual_size())
    loader = make_loader(dataset, config.data, plan, run)
    denoiser = make_denoiser(setting, run.seed, shared_by(config.parallel, setting.denoiser_config, run.mesh))
    trained = make_trained(setting, denoiser, run.seed)
    inputs = make_inputs(setting)
    objective = inputs.objective
    loss = trained.loss(objective.loss_cell(denoiser))
    stage = config.parallel.stage
    if stage == 3 and run.mesh.world_size > 1:
        broadcast_parameters(list(denoiser.get_parameters()), run.mesh)
        spread(denoiser, run.mesh)
    step = make_step(config.optimizer, config.model.dtype, denoiser, loss, run.mesh, zero_stage=stage)
    training = make_training(
        config,
        run,
        trained.saved,
        trained.config,
        step,
        loader,
        trained.inputs(inputs),
        contents,
        objective.part_names,
        trained.layout,
        trained.digest,
    )
    training.hooks = [*training.hooks, *make_hooks(setting, run, training, denoiser, inputs)]
    if run.mesh.is_main:
        trained_before = bool(config.model.pretrained_model_path) or run.found is not None
        training.trackers.trackers.append(BandWatch(objective.band, trained_before))
    return training, trained


# --- what is trained on what -----------------------------------------------------------------------------------------


def make_setting(config: TrainConfig, mesh: Mesh | None = None) -> Setting:
    """Checks the configuration and finds out all sizes.

    Raises:
        UserError: parts of it do not fit each other.
    """
    given = config
    family, config = settle(config, config.model.model_version, config.model.model_name, config.autoencoder.vae_type)
    autoencoder = make_autoencoder(config, family)
    size = family.size(config.shape, autoencoder.spatial_compression) if config.shape.is_fixed else None
    # The length that was asked for, not the family's: weights and their config.json may have been made with another.
    learns_null_caption = not family.drops_text
    freeze = config.model.freeze_y_embedder
    if not hasattr(denoiser_presets()[family.denoiser_preset], "freeze_y_embedder"):
        freeze = freeze or None
    overrides = {
        **config.model.denoiser,
        "freeze_y_embedder": freeze if learns_null_caption else None,
        "space_scale": config.model.space_scale,
        "time_scale": config.model.time_scale,
    }
    if given.text.model_max_length and learns_null_caption:
        overrides["model_max_length"] = given.text.model_max_length
    with naming_sources(given):
        pretrained = config.model.pretrained_model_path
        network = denoiser_config(family.denoiser_preset, pretrained, overrides, "model.denoiser")
    _require_text(config, family.encoders_of(network), family.drops_text)
    _require_conditions(config, network, autoencoder)
    channels = getattr(network, "latent_channels", network.in_channels)
    if autoencoder.latent_channels != channels:
        raise UserError(
            f"the autoencoder has {autoencoder.latent_channels} latent channels, the denoiser in_channels="
            f"{channels}; they have to be equal"
        )
    rows = read_rows(config.data)
    buckets = None if size else make_buckets(config, family, rows, autoencoder.spatial_compression, mesh)
    packing = None
    if config.model.pre_patchify:
        # As given: what the family fills in is for sampling.
        packing = packing_of(network, given.model.max_image_size or max(size[1:]))
    return Setting(config, family, network, autoencoder, size, rows, buckets, packing)


def _require_text(config: TrainConfig, encoders: Sequence[str], drops_text: bool) -> None:
    """Refuses missing files of what encodes captions, or what stands for dropped ones."""
    for option in encoders if drops_text or not config.data.text_embed_folder else ():
        both = option if config.data.text_embed_folder or drops_text else f"text_embed_folder or --{option}"
        require_path(getattr(config.text, option), "text embeddings", both)


def _require_conditions(config: TrainConfig, network: DenoiserConfig, autoencoder: Autoencoder) -> None:
    """Refuses conditions that the network is not told, or that the autoencoder does not encode by themselves."""
    if not config.flow.condition_config:
        return
    if not autoencoder.is_causal:
        raise UserError("condition_config needs a causal autoencoder, such as Hunyuan-VAE; leave it out")
    if not network.cond_embed:
        raise UserError("this denoiser takes no conditions (cond_embed is false); leave condition_config out")


def make_autoencoder(config: TrainConfig, family: Family) -> Autoencoder:
    """The autoencoder with its weights; of cached latents that are not decoded, one that knows what they are."""
    settings, preset = config.autoencoder, family.autoencoder_preset
    if not config.data.vae_latent_folder or config.samples.sample_every:
        pieces = {
            "micro_batch_size": settings.vae_micro_batch_size,
            "micro_frame_size": settings.vae_micro_frame_size,
            "sd_scale_factor": settings.sd_scale_factor,
        }
        return load_autoencoder(settings.vae_checkpoint, preset, settings.vae_dtype, **pieces)
    if not settings.vae_checkpoint:
        if preset not in WITHOUT_WEIGHTS:
            logger.warning("vae_checkpoint is not set: the cached latents are scaled as published")
        return autoencoder_skeleton(preset, sd_scale_factor=settings.sd_scale_factor)
    source = require_path(settings.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint")
    autoencoder = autoencoder_skeleton(preset, source, sd_scale_factor=settings.sd_scale_factor)
    autoencoder.load_statistics(own_tensors(source))
    return autoencoder


def read_rows(data: Data) -> list[VideoRow]:
    """The table's rows; with ``filter_data`` those that have a caption and whose files are there.

    Raises:
        UserError: the table cannot be used, or two of its videos would have the same cache file.
    """
    rows = read_video_table(data.csv_path, data.video_folder, data.video_column, data.caption_column, data.filter_data)
    if data.vae_latent_folder or data.text_embed_folder:
        require_distinct(rows, data.csv_path)
    return existing_rows(rows, lambda row: _files(data, row), data.csv_path) if data.filter_data else rows


def _files(data: Data, row: VideoRow) -> list[Path]:
    """What a sample is made of; of latents in several sizes the first is enough."""
    files = [row.file]
    if data.vae_latent_folder:
        candidates = [cache_path(folder, row.relative) for folder in latent_folders(data.vae_latent_folder)]
        files = [next((path for path in candidates if path.is_file()), candidates[0])]
    return files + ([cache_path(data.text_embed_folder, row.relative)] if data.text_embed_folder else [])


def make_denoiser(setting: Setting, seed: int, parallel: NoParallel | None = None) -> nn.Cell:
    """The denoiser: with the weights to start from, or fresh ones that depend on ``seed``.

    Of an image model (PixArt, DiT) it takes what it has in common with it; the rest is fresh. ``parallel`` says how
    ranks share its tokens.
    """
    model, path = setting.config.model, setting.config.model.pretrained_model_path
    recompute = (model.num_recompute_blocks or True) if model.use_recompute else False
    source = require_path(path, "the denoiser's weights", "pretrained_model_path") if path else None
    adapted = bool(setting.config.lora.lora_rank)
    image_model = image_model_of(setting.denoiser_config, read_tensors(source)) if source else None
    if source and not image_model:
        option = "pretrained_model_path"
        return load_denoiser(
            source,
            setting.denoiser_config,
            model.dtype,
            recompute,
            parallel=parallel,
            option=option,
            trained=not adapted,
        )
    if adapted:
        raise UserError(f"lora_rank adapts a denoiser, but {source} is an image model ({image_model.name})")
    denoiser = build_denoiser(setting.denoiser_config, model.dtype, recompute, parallel)
    denoiser.initialize_weights(seed)
    if image_model:
        report = initialize_from_image_model(denoiser, source)
        logger.info(
            "training starts from %s: %d parameters are its own, %d are new",
            image_model.name,
            len(report.loaded),
            len(report.missing),
        )
    return denoiser


def make_plan(setting: Setting, seed: int, ranks: int, contents: str, planned_ranks: int | None = None) -> Plan:
    """The batches of a run. One that goes on keeps the batches that it had, whatever the number of ranks is now.

    Args:
        contents: tells the table from any other.
        planned_ranks: how many ranks the run had when it began, if it goes on.
    Raises:
        UserError: there is no batch, or ranks cannot share them.
    """
    if setting.size:
        return FixedPlan(len(setting.rows), setting.config.train.batch_size, ranks, seed, size=setting.planned_size)
    plan = plan_of_buckets(setting.buckets, seed, planned_ranks or ranks, contents)
    require_shares(plan, ranks)
    return plan


def make_trained(setting: Setting, denoiser: nn.Cell, seed: int) -> Trained:
    """The denoiser itself, or an adapter of it."""
    if setting.config.lora.lora_rank:
        return adapt(denoiser, setting.config.lora, setting.config.model.pretrained_model_path, seed)
    return Trained(denoiser, dataclasses.asdict(setting.denoiser_config))


def make_dataset(setting: Setting, usual_size: VideoSize | None = None) -> LatentTextDataset | VideoTextDataset:
    """Cached latents if there are any, else videos; of ``usual_size`` where no other one is asked for."""
    data, (frames, height, width), autoencoder = setting.config.data, usual_size or setting.size, setting.autoencoder
    rows = described_rows(setting)
    latent_frames: int | dict[int, int] = autoencoder.latent_size((frames, height, width))[0]
    if setting.buckets:
        lengths = setting.buckets.lengths
        latent_frames = {length: autoencoder.latent_size((length, height, width))[0] for length in lengths}
    if data.vae_latent_folder:
        return LatentTextDataset(
            rows,
            data.vae_latent_folder,
            data.text_embed_folder,
            latent_frames=latent_frames,
            latent_align=autoencoder.chunk_latents,
            spatial_compression=autoencoder.spatial_compression,
            cache_bytes=cache_bytes(data),
            ends=partial(drawn_ends, setting.config.flow.condition_config or {}),
        )
    return VideoTextDataset(
        rows,
        frames,
        ResizeWithin(setting.packing.max_image_size) if setting.packing else (height, width),
        setting.buckets.interval if setting.buckets else data.frame_stride,
        data.text_embed_folder,
        flip=not data.disable_flip,
        backend=data.video_backend,
        cache_bytes=cache_bytes(data),
    )


def described_rows(setting: Setting) -> Sequence[VideoRow]:
    """The rows with captions that say what the family says of training videos; those of a text cache as they are."""
    if setting.config.data.text_embed_folder:
        return setting.rows
    rates = setting.buckets.metadata.fps if setting.buckets else None
    return setting.family.described(setting.rows, rates, setting.config.shape.fps_max)


def make_captions(setting: Setting) -> Captions:
    """What turns captions, or their caches, into what the denoiser is told."""
    family = setting.family
    conditioner = family.conditioner(setting.config.text, setting.denoiser_config)
    return Captions(conditioner, lambda caption: family.prepare_prompt(caption, PromptRules()))


def make_inputs(setting: Setting) -> DenoiserInputs:
    """What turns samples into what the loss takes, which it holds as its ``objective``."""
    flow, captions = setting.config.flow, make_captions(setting)
    objective = make_objective(setting, make_null_text(setting, captions))
    masks = MaskGenerator(flow.mask_ratios) if flow.mask_ratios else None
    return DenoiserInputs(objective, setting.autoencoder, captions, masks, flow.condition_config, setting.packing)


def make_objective(setting: Setting, null_text: Arrays | None) -> Objective:
    """The training loss of the family, on rows of patches if there are any."""
    objective = setting.family.objective(setting.config.flow, setting.denoiser_config, null_text)
    return dataclasses.replace(objective, packing=setting.packing) if setting.packing else objective


def make_null_text(setting: Setting, captions: Captions) -> Arrays | None:
    """The encoded empty prompt, one row, for families that train with dropped texts."""
    if not setting.family.drops_text:
        return None
    null = captions.of_captions([""])
    if setting.config.data.text_embed_folder:
        captions.conditioner.release()
    return null


def make_hooks(
    setting: Setting, run: Run, training: Training, denoiser: nn.Cell, inputs: DenoiserInputs
) -> list[Every]:
    """What the settings want done every few updates."""
    hooks = []
    if setting.config.validation.validate:
        hooks.append(make_validation(setting, run, training, denoiser, inputs))
    if setting.config.samples.sample_every:
        hooks.append(make_samples(setting, run, training, denoiser, inputs))
    return hooks


def make_validation(setting: Setting, run: Run, training: Training, denoiser: nn.Cell, inputs: DenoiserInputs) -> Every:
    """The loss on the validation videos, which are encoded by the autoencoder of the training or are cached.

    Raises:
        UserError: they cannot be used.
    """
    config, family = validation_settings(setting.config), setting.family
    given = setting.config.validation
    _require_text(config, family.encoders_of(setting.denoiser_config), family.drops_text)
    is_encoded = bool(config.data.vae_latent_folder) or not setting.config.data.vae_latent_folder
    autoencoder = setting.autoencoder if is_encoded else make_autoencoder(config, family)
    rows = read_rows(config.data)
    buckets = None if setting.size else make_buckets(config, family, rows, autoencoder.spatial_compression, run.mesh)
    own = dataclasses.replace(setting, config=config, autoencoder=autoencoder, rows=rows, buckets=buckets)
    loss, batches = make_validation_loss(own, denoiser, inputs.with_autoencoder(autoencoder))
    validation = Validation(
        loss,
        batches,
        training.step.ema,
        run.folder,
        training.trackers,
        run.mesh,
        training.state.step,
        config.parallel.stage == 3,
    )
    return Every(run_length(setting.config, len(training.loader)).of(given, "val_interval", "epochs"), validation)


def make_validation_loss(
    setting: Setting, denoiser: nn.Cell, inputs: DenoiserInputs
) -> tuple[ValidationLoss, list[SizedBatch]]:
    """The loss at equidistant timesteps on the rows of ``setting``, and the batches that it is taken on.

    Raises:
        UserError: no row falls into a bucket.
    """
    given = setting.config.validation
    if setting.buckets:
        batches = batches_of_buckets(setting.buckets, given.val_batch_size)
    else:
        batches = batches_of_one_size(len(setting.rows), setting.planned_size, given.val_batch_size)
    dataset = make_dataset(setting, batches[0].size)
    return ValidationLoss(inputs.objective, denoiser, inputs, dataset, given.num_eval_timesteps), batches


def make_samples(setting: Setting, run: Run, training: Training, denoiser: nn.Cell, inputs: DenoiserInputs) -> Every:
    """Sampling every few updates: of the given prompts, or of the first different captions of the data."""
    config, family, captions = setting.config, setting.family, inputs.captions
    prompts = config.samples.sample_prompts
    if prompts:
        text = captions.of_captions(prompts)
    else:
        rows = list({row.caption: row for row in reversed(setting.rows)}.values())[::-1][:SAMPLED_CAPTIONS]
        prompts, text = [row.caption for row in rows], captions.of_rows(rows, config.data.text_embed_folder)
    settings = SamplerSettings(use_timestep_transform=config.flow.use_timestep_transform)
    samples = Samples(
        family.sampler(denoiser, with_defaults(settings, family)),
        setting.autoencoder,
        training.step.ema,
        prompts,
        text,
        training.loader.plan.epoch(0).usual_size() or setting.size,
        frame_rate(training.loader.dataset),
        run.folder,
        training.trackers,
        run.mesh,
        inputs.objective.negative_of(text),
        config.parallel.stage > 0,
    )
    every = run_length(config, len(training.loader)).of(config.samples, "sample_every")
    return Every(every, samples)
