"""What is to be generated, settled before any network is loaded: prompts, sizes, seeds, files."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindone import runtime
from mindone.data.write import slug
from mindone.errors import UserError
from mindone.parallel.collectives import from_first_rank
from opensora import networks, outputs
from opensora.config import GenerateConfig
from opensora.data.cache import prompt_files
from opensora.families import Family
from opensora.model_folder import require_path
from opensora.sizes import VideoSize
from opensora.text.prompts import collect_prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """What a user asks for, the stem of its files, and its file in an embedding cache if it comes from one."""

    text: str
    stem: str
    cache: Path | None = None


@dataclass(frozen=True)
class Job:
    """One video to make: ``row`` is its prompt's place in `Plan.prompts`, ``stem`` the name of its files."""

    row: int
    seed: int
    stem: str


@dataclass(frozen=True)
class Plan:
    """What this rank has to do.

    ``denoiser_config`` is the config dataclass of the family's network.
    """

    config: GenerateConfig
    family: Family
    size: VideoSize
    latent_shape: tuple[int, int, int, int]
    denoiser_config: Any
    prompts: list[Prompt]
    jobs: list[Job]
    folder: Path


def make_plan(config: GenerateConfig, family: Family) -> Plan:
    """Checks the settings and lists this rank's jobs.

    The seed of job i is ``seed + i``: the seed that stands in a result's JSON file, with its prompt alone, gives the
    same video again.

    Raises:
        UserError: a size that cannot be, missing files, no prompt.
    """
    prompts = _prompts(config)
    _require_models(config)
    denoiser_config = networks.denoiser_config(
        family.denoiser_preset, config.denoiser.ckpt_path, denoiser_changes(config, family)
    )
    autoencoder = networks.autoencoder_skeleton(
        family.autoencoder_preset, config.autoencoder.vae_checkpoint, **autoencoder_changes(config)
    )
    _require_same_latents(denoiser_config, autoencoder)
    size = family.size(config.shape, autoencoder.spatial_compression)
    latent_shape = (autoencoder.latent_channels, *autoencoder.latent_size(size))
    _say_if_rounded(size, latent_shape, autoencoder.spatial_compression)
    seed = from_first_rank(runtime.random_seed() if config.runtime.seed is None else config.runtime.seed)
    stamp = outputs.time_stamp(from_first_rank(int(time.time()))) if config.output.append_timestr else None
    numbered = config.output.file_names == "number"
    prompts, jobs = own_share(prompts, list_jobs(prompts, config.sampler.num_samples, seed, numbered))
    folder = outputs.make_run_folder(config.output.output_path, stamp)
    return Plan(config, family, size, latent_shape, denoiser_config, prompts, jobs, folder)


def denoiser_changes(config: GenerateConfig, family: Family) -> dict[str, Any]:
    """The settings that change what a denoiser's config.json says."""
    changes = dict(config.denoiser.denoiser_config)
    if hasattr(networks.denoiser_config(family.denoiser_preset), "model_max_length"):
        changes.setdefault("model_max_length", config.text.model_max_length)
    return changes


def autoencoder_changes(config: GenerateConfig) -> dict[str, Any]:
    """The settings that change what an autoencoder's config.json says."""
    settings = config.autoencoder
    chunks = {"micro_batch_size": settings.vae_micro_batch_size, "micro_frame_size": settings.vae_micro_frame_size}
    return {**chunks, **settings.vae_config}


def _require_same_latents(denoiser_config: Any, autoencoder: Any) -> None:
    channels = getattr(denoiser_config, "latent_channels", denoiser_config.in_channels)
    if channels != autoencoder.latent_channels:
        raise UserError(
            f"the denoiser takes latents of {channels} channels, but the autoencoder's have "
            f"{autoencoder.latent_channels}; use the vae_type that belongs to it"
        )


def list_jobs(prompts: Sequence[Prompt], num_samples: int, seed: int, numbered: bool = False) -> list[Job]:
    """``num_samples`` jobs per prompt, with consecutive seeds; ``numbered`` calls them 00000, 00001 and so on."""
    jobs = []
    for row, prompt in enumerate(prompts):
        for repeat in range(num_samples):
            stem = prompt.stem if num_samples == 1 else f"{prompt.stem}-{repeat}"
            jobs.append(Job(row, seed + len(jobs), f"{len(jobs):05d}" if numbered else stem))
    return jobs


def own_share(prompts: list[Prompt], jobs: list[Job]) -> tuple[list[Prompt], list[Job]]:
    """Every world_size-th job, and the prompts these jobs need."""
    current = runtime.current()
    jobs = jobs[current.rank :: current.world_size]
    rows = sorted({job.row for job in jobs})
    return [prompts[row] for row in rows], [replace(job, row=rows.index(job.row)) for job in jobs]


def _require_models(config: GenerateConfig) -> None:
    """Refuses missing model files before anything is loaded."""
    if not config.denoiser.allow_random_weights:
        require_path(config.denoiser.ckpt_path, "the denoiser's weights", "ckpt_path")
        if config.output.use_vae_decode:
            require_path(config.autoencoder.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint")
    if not config.prompts.text_embed_folder:
        require_path(config.text.t5_model_name_or_path, "the text encoder's files", "t5_model_name_or_path")


def _prompts(config: GenerateConfig) -> list[Prompt]:
    """The prompts of the command line or a file; with an embedding cache, one per file of it."""
    given = config.prompts
    asked = collect_prompts(given.captions, given.prompt_path) if given.captions or given.prompt_path else []
    if not given.text_embed_folder:
        asked = asked or collect_prompts(None, None)
        return [Prompt(text, f"{index:03d}-{slug(text)}") for index, text in enumerate(asked)]
    files = prompt_files(given.text_embed_folder)
    if asked and len(asked) != len(files):
        raise UserError(
            f"text_embed_folder={given.text_embed_folder} has {len(files)} embeddings for {len(asked)} prompts; "
            "leave out the prompts, or encode exactly these"
        )
    return [Prompt(text, file.stem, file) for text, file in zip(asked or [file.stem for file in files], files)]


def _say_if_rounded(size: VideoSize, latent_shape: Sequence[int], compression: int) -> None:
    height, width = latent_shape[2] * compression, latent_shape[3] * compression
    if (height, width) != size[1:]:
        logger.warning("%dx%d is rounded down to %dx%d by the autoencoder", size[1], size[2], height, width)
