"""Videos from prompts: text, then latents, then pixels, with one network in memory at a time."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mindone import runtime
from mindone.data.write import slug, to_uint8, write_contact_sheet
from mindone.errors import UserError, guarded
from opensora.data.cache import prompt_files, read_text
from opensora.families import Family, PromptRules, VideoSize, get_family
from opensora.model_folder import require_path
from opensora.pipelines import outputs
from opensora.pipelines.sampler import Sampler, initial_noise
from opensora.pipelines.start import start
from opensora.text.prompts import collect_prompts

logger = logging.getLogger(__name__)

SHEET_COLUMNS = 6


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
class Texts:
    """N prompts as the networks see them: their cleaned text, embeddings (N, L, D) float32, mask (N, L), 1 = valid."""

    cleaned: list[str]
    embeddings: np.ndarray
    mask: np.ndarray


@dataclass
class Result:
    """What became of a job: latents (C, T, H, W), its files (None where not asked for), seconds per stage."""

    job: Job
    latents: np.ndarray
    video: Path | None = None
    latents_file: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is to be done, settled before any network is loaded."""

    config: Any
    family: Family
    size: VideoSize
    latent_shape: tuple[int, int, int, int]
    denoiser_config: Any
    prompts: list[Prompt]
    jobs: list[Job]
    folder: Path


@guarded
def main(argv: Sequence[str] | None = None) -> None:
    """Entry of ``scripts/inference.py``."""
    from mindone.config import parse
    from opensora.config import GenerateConfig

    generate_videos(parse(GenerateConfig, argv, description=__doc__))


def generate_videos(config: Any) -> list[Result]:
    """Generates, writes and reports the videos of ``config``; returns those of this rank.

    Raises:
        UserError: what in the configuration cannot work; found before a network is loaded where possible.
    """
    start(config)
    started = time.perf_counter()
    plan = make_plan(config)
    if not plan.jobs:
        return []
    texts = encode_texts(plan)
    results = denoise(plan, texts)
    if config.use_vae_decode:
        with _latents_kept_on_failure(plan, texts, results):
            decode(plan, texts, results)
    _report(plan, results, time.perf_counter() - started)
    return results


# --- plan ------------------------------------------------------------------------------------------------------------


def make_plan(config: Any) -> Plan:
    """Checks the configuration and lists this rank's jobs.

    The seed of job i is ``seed + i``: the seed that stands in a result's JSON file, with its prompt alone, gives the
    same video again.
    """
    from mindone.parallel.collectives import from_first_rank

    family = get_family(config.model_version)
    prompts = _prompts(config)
    _require_models(config)
    denoiser_config = family.denoiser_config(config.ckpt_path, {"model_max_length": config.model_max_length})
    autoencoder = family.autoencoder_skeleton(config.vae_checkpoint)
    size = family.video_size(
        config.num_frames,
        config.image_size,
        config.resolution,
        config.aspect_ratio,
        compression=autoencoder.spatial_compression,
    )
    latent_shape = (autoencoder.latent_channels, *autoencoder.latent_size(size))
    _say_if_rounded(size, latent_shape, autoencoder.spatial_compression)
    seed = from_first_rank(runtime.random_seed() if config.seed is None else config.seed)
    stamp = outputs.time_stamp(from_first_rank(int(time.time()))) if config.append_timestr else None
    prompts, jobs = _own_share(prompts, list_jobs(prompts, config.num_samples, seed))
    folder = outputs.make_run_folder(config.output_path, stamp)
    return Plan(config, family, size, latent_shape, denoiser_config, prompts, jobs, folder)


def list_jobs(prompts: Sequence[Prompt], num_samples: int, seed: int) -> list[Job]:
    """``num_samples`` jobs per prompt, with consecutive seeds."""
    jobs = []
    for row, prompt in enumerate(prompts):
        for repeat in range(num_samples):
            stem = prompt.stem if num_samples == 1 else f"{prompt.stem}-{repeat}"
            jobs.append(Job(row, seed + len(jobs), stem))
    return jobs


def _own_share(prompts: list[Prompt], jobs: list[Job]) -> tuple[list[Prompt], list[Job]]:
    """Every world_size-th job, and the prompts these jobs need."""
    current = runtime.current()
    jobs = jobs[current.rank :: current.world_size]
    rows = sorted({job.row for job in jobs})
    return [prompts[row] for row in rows], [replace(job, row=rows.index(job.row)) for job in jobs]


def _require_models(config: Any) -> None:
    """Refuses missing model files before anything is loaded."""
    if not config.allow_random_weights:
        require_path(config.ckpt_path, "the denoiser's weights", "ckpt_path")
        if config.use_vae_decode:
            require_path(config.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint")
    if not config.text_embed_folder:
        require_path(config.t5_model_name_or_path, "the text encoder's files", "t5_model_name_or_path")


def _prompts(config: Any) -> list[Prompt]:
    """The prompts of the command line or a file; with an embedding cache, one per file of it."""
    asked = collect_prompts(config.captions, config.prompt_path) if config.captions or config.prompt_path else []
    if not config.text_embed_folder:
        asked = asked or collect_prompts(None, None)
        return [Prompt(text, f"{index:03d}-{slug(text)}") for index, text in enumerate(asked)]
    files = prompt_files(config.text_embed_folder)
    if asked and len(asked) != len(files):
        logger.warning(
            "text_embed_folder has %d embeddings for %d prompts; the embeddings count", len(files), len(asked)
        )
        asked = []
    return [Prompt(text, file.stem, file) for text, file in zip(asked or [file.stem for file in files], files)]


def _say_if_rounded(size: VideoSize, latent_shape: Sequence[int], compression: int) -> None:
    height, width = latent_shape[2] * compression, latent_shape[3] * compression
    if (height, width) != size[1:]:
        logger.warning("%dx%d is rounded down to %dx%d by the autoencoder", size[1], size[2], height, width)


# --- text ------------------------------------------------------------------------------------------------------------


def encode_texts(plan: Plan) -> Texts:
    """Embeddings of all prompts, from the cache or from the text encoder, which is dropped again afterwards."""
    config = plan.config
    length, dim = plan.denoiser_config.model_max_length, plan.denoiser_config.caption_channels
    asked = [prompt.text for prompt in plan.prompts]
    if config.text_embed_folder:
        return Texts(asked, *_cached_embeddings([prompt.cache for prompt in plan.prompts], length, dim))
    rules = PromptRules(config.aesthetic_score, config.motion_score, config.camera_motion, config.caption_cleaning)
    cleaned = [plan.family.prepare_prompt(text, rules) for text in asked]
    batch_size = min(config.batch_size, len(cleaned))
    encoder = plan.family.load_text_encoder(config.t5_model_name_or_path, length, config.t5_dtype, batch_size, dim)
    encoded = encoder.encode(cleaned)
    del encoder
    gc.collect()
    return Texts(cleaned, encoded.embeddings, encoded.mask)


def _cached_embeddings(files: Sequence[Path], length: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    embeddings = np.zeros((len(files), length, dim), np.float32)
    mask = np.zeros((len(files), length), np.uint8)
    for row, path in enumerate(files):
        entry = read_text(path)
        if entry.text_emb.shape[1] != dim:
            raise UserError(f"{path} has embeddings of width {entry.text_emb.shape[1]}; the denoiser takes {dim}")
        if entry.mask[length:].any():
            raise UserError(f"{path} has {int(entry.mask.sum())} tokens; the denoiser takes {length}")
        count = min(length, len(entry.mask))
        embeddings[row, :count], mask[row, :count] = entry.text_emb[:count], entry.mask[:count]
    return embeddings, mask


# --- latents ---------------------------------------------------------------------------------------------------------


def denoise(plan: Plan, texts: Texts) -> list[Result]:
    """Latents of all jobs, batch by batch; saved at once if asked for. The denoiser is dropped afterwards."""
    config = plan.config
    denoiser = plan.family.load_denoiser(
        config.ckpt_path,
        {"model_max_length": config.model_max_length},
        dtype=config.dtype,
        allow_random=config.allow_random_weights,
    )
    flow = plan.family.flow(
        num_sampling_steps=config.sampling_steps,
        cfg_scale=config.guidance_scale,
        use_timestep_transform=config.use_timestep_transform,
    )
    sampler = Sampler(plan.family, denoiser, flow, plan.size, config.fps)
    batches = [plan.jobs[i : i + config.batch_size] for i in range(0, len(plan.jobs), config.batch_size)]
    results = []
    with _progress("denoise", len(batches) * flow.config.num_sampling_steps) as bar:
        for jobs in batches:
            done = _denoise_batch(plan, sampler, texts, jobs, bar.update)
            if config.save_latent:
                _save_latents(plan, texts, done)
            results += done
    del denoiser, sampler
    gc.collect()
    return results


def _denoise_batch(
    plan: Plan, sampler: Sampler, texts: Texts, jobs: list[Job], tick: Callable[[], Any]
) -> list[Result]:
    """One batch, filled up with copies of its last job if it is a smaller one, so that it needs no graph of its own."""
    started = time.perf_counter()
    width = min(plan.config.batch_size, len(plan.jobs))
    filled = jobs + [jobs[-1]] * (width - len(jobs))
    rows = [job.row for job in filled]
    latents = initial_noise([job.seed for job in filled], plan.latent_shape)
    for step in sampler.steps(latents, texts.embeddings[rows], texts.mask[rows]):
        latents = step
        tick()
    seconds = (time.perf_counter() - started) / len(jobs)
    return [Result(job, latents[i], seconds={"denoise": seconds}) for i, job in enumerate(jobs)]


def _save_latents(plan: Plan, texts: Texts, results: list[Result]) -> None:
    """``denoised_latents/STEM.npy``, (1, C, T, H, W) float32, for decoding later."""
    folder = outputs.make_run_folder(plan.folder, "denoised_latents")
    for result in results:
        stem = outputs.free_stem(folder, result.job.stem)
        result.latents_file = folder / f"{stem}.npy"
        outputs.write_array(result.latents_file, result.latents[None])
        outputs.write_json(folder / f"{stem}.json", _record(plan, texts, result))


@contextlib.contextmanager
def _latents_kept_on_failure(plan: Plan, texts: Texts, results: list[Result]) -> Iterator[None]:
    """Denoising is the expensive part: if what follows fails or is stopped, its result is saved for decoding later."""
    try:
        yield
    except BaseException:
        undone = [result for result in results if not result.video and not result.latents_file]
        _save_latents(plan, texts, undone)
        if undone:
            logger.error("decoding stopped; the latents are in %s", undone[0].latents_file.parent)
        raise


# --- pixels ----------------------------------------------------------------------------------------------------------


def decode(plan: Plan, texts: Texts, results: list[Result]) -> None:
    """Decodes and writes one video after the other, and a contact sheet of them all."""
    config = plan.config
    autoencoder = plan.family.load_autoencoder(
        config.vae_checkpoint,
        config.vae_dtype,
        config.vae_micro_batch_size,
        config.vae_micro_frame_size,
        allow_random=config.allow_random_weights,
    )
    clips = []
    for result in _progress("decode", results):
        started = time.perf_counter()
        video = autoencoder.decode(result.latents[None], plan.size[0]).asnumpy()[0]
        frames = to_uint8(video)
        stem = outputs.free_stem(plan.folder, result.job.stem)
        result.video = outputs.write_clip(
            plan.folder, stem, frames, config.save_format, config.fps / config.frame_interval
        )
        result.seconds["decode"] = time.perf_counter() - started
        outputs.write_json(plan.folder / f"{stem}.json", _record(plan, texts, result))
        clips.append(frames[np.linspace(0, len(frames) - 1, min(SHEET_COLUMNS, len(frames))).round().astype(int)])
    sheet = plan.folder / f"{outputs.free_stem(plan.folder, _sheet_name())}.png"
    captions = [f"{plan.prompts[result.job.row].text}\nseed {result.job.seed}" for result in results]
    write_contact_sheet(sheet, clips, captions, columns=SHEET_COLUMNS)


def _sheet_name() -> str:
    current = runtime.current()
    return "contact_sheet" if current.world_size == 1 else f"contact_sheet_rank{current.rank}"


# --- records ---------------------------------------------------------------------------------------------------------


def _record(plan: Plan, texts: Texts, result: Result) -> dict[str, Any]:
    """What made a result, for the JSON file beside it."""
    job = result.job
    return {
        "prompt": plan.prompts[job.row].text,
        "encoded_text": texts.cleaned[job.row],
        "seed": job.seed,
        "video": result.video and result.video.name,
        "latents": result.latents_file and result.latents_file.name,
        "model_version": plan.family.name,
        "num_frames": plan.size[0],
        "height": plan.size[1],
        "width": plan.size[2],
        "latent_shape": plan.latent_shape,
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "device": runtime.current(),
        "versions": outputs.versions(),
        "settings": plan.config,
    }


def _report(plan: Plan, results: list[Result], seconds: float) -> None:
    kind = ("video" if plan.config.use_vae_decode else "latents file") + ("s" if len(results) > 1 else "")
    seeds = sorted({results[0].job.seed, results[-1].job.seed})
    logger.info("%d %s, seed %s, in %.0f s: %s", len(results), kind, "...".join(map(str, seeds)), seconds, plan.folder)


def _progress(title: str, work: int | Sequence) -> tqdm:
    total, items = (work, None) if isinstance(work, int) else (len(work), work)
    return tqdm(items, total=total, desc=title, disable=not runtime.current().is_main, leave=True)
