"""Caches of text embeddings and of latents: what ``infer_t5.py`` and ``infer_vae.py`` do.

Both work through a list of files to make, skip those that are complete already (so a stopped run can be repeated),
share the rest among the ranks, and count what they did.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from mindone import runtime
from mindone.config import parse, save_config
from mindone.data.loader import Loader
from mindone.data.table import VideoRow, read_video_table, shard
from mindone.data.transforms import ResizeCrop, normalise
from mindone.errors import UserError, guarded
from opensora.data import cache
from opensora.data.aspect import parse_num_frames
from opensora.data.dataset import WholeVideoDataset
from opensora.families import Family, PromptRules, get_family
from opensora.model_folder import require_path
from opensora.pipelines.start import start
from opensora.text.prompts import collect_prompts

logger = logging.getLogger(__name__)

# Frames that are normalised and handed to the autoencoder at once, rounded to whole chunks of it.
FRAMES_AT_ONCE = 64

Task = TypeVar("Task")


@dataclass
class Counts:
    """What a run did: files written, files that were there already, files that could not be made."""

    written: int = 0
    skipped: int = 0
    bad: int = 0

    def __str__(self) -> str:
        return f"{self.written} written, {self.skipped} there already, {self.bad} bad"


@guarded
def text_main(argv: Sequence[str] | None = None) -> Counts:
    """Entry of ``scripts/infer_t5.py``."""
    from opensora.config import EmbedTextConfig

    return embed_texts(parse(EmbedTextConfig, argv))


@guarded
def video_main(argv: Sequence[str] | None = None) -> Counts:
    """Entry of ``scripts/infer_vae.py``."""
    from opensora.config import EmbedVideoConfig

    return embed_videos(parse(EmbedVideoConfig, argv))


# --- text ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caption:
    """A text and the cache file of its embeddings; a prompt's arrays have a batch dimension, a table's have none."""

    path: Path
    text: str
    batch_dim: bool


def embed_texts(config: Any) -> Counts:
    """Writes the text embeddings of a table's captions or of prompts, one file each.

    Raises:
        UserError: nothing to encode, or something is missing; found before the encoder is loaded where possible.
    """
    current = start(config)
    family = get_family(config.model_version)
    require_path(config.t5_model_name_or_path, "the text encoder's files", "t5_model_name_or_path")
    captions = shard(_captions(config), current.rank, current.world_size)
    counts, captions = _left_to_do(captions, cache.TEXT_KEYS, config, "embed_text.yaml")
    if captions:
        _encode_captions(config, family, captions, counts)
    return _finish(counts, config)


def _captions(config: Any) -> list[Caption]:
    """What is to be encoded, in the order of the table or of the list."""
    folder = Path(config.output_path)
    if not config.csv_path:
        prompts = collect_prompts(config.captions, config.prompt_path)
        return [Caption(cache.prompt_path(folder, i, prompt), prompt, True) for i, prompt in enumerate(prompts)]
    if config.captions or config.prompt_path:
        raise UserError("csv_path and prompts are given; a cache is made of either a table or prompts")
    rows = read_video_table(config.csv_path, None, config.video_column, config.caption_column)
    captions = {row.relative: row.caption for row in reversed(rows)}
    if len(captions) < len(rows):
        logger.warning("%d rows name a video again; its first caption is taken", len(rows) - len(captions))
    return [Caption(cache.cache_path(folder, row), text, False) for row, text in reversed(captions.items())]


def _encode_captions(config: Any, family: Family, captions: list[Caption], counts: Counts) -> None:
    """Encodes every different text once and writes it to all the files that want it."""
    rules = PromptRules(cleaning=config.caption_cleaning)
    wanted: dict[str, list[Caption]] = {}
    for caption in captions:
        wanted.setdefault(family.prepare_prompt(caption.text, rules), []).append(caption)
    batch_size = min(config.batch_size, len(wanted))
    encoder = family.load_text_encoder(
        config.t5_model_name_or_path, config.model_max_length, config.t5_dtype, batch_size
    )
    with _progress("encode texts", len(captions)) as bar:
        for texts in _in_batches(list(wanted), batch_size):
            for text, *arrays in zip(texts, *encoder.encode(texts)[:3]):
                for caption in wanted[text]:
                    cache.write_text(caption.path, *arrays, batch_dim=caption.batch_dim)
                counts.written += len(wanted[text])
                bar.update(len(wanted[text]))


# --- video -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Video:
    """A row of the table and the cache file of its latents."""

    path: Path
    row: VideoRow


def embed_videos(config: Any) -> Counts:
    """Writes mean and standard deviation of the latents of a table's videos, one file each.

    Videos that cannot be read are reported, counted, and listed in ``bad_samples.csv``.

    Raises:
        UserError: a size that the autoencoder cannot encode, something missing, or too many bad videos.
    """
    current = start(config)
    family = get_family(config.model_version)
    require_path(config.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint")
    compression = family.autoencoder_skeleton(config.vae_checkpoint).spatial_compression
    _, *size = family.video_size(
        config.num_frames or 1, config.image_size, config.resolution, config.aspect_ratio, compression
    )
    videos = shard(_videos(config), current.rank, current.world_size)
    counts, videos = _left_to_do(videos, _latent_keys(config), config, "embed_video.yaml")
    if videos:
        # a named size that the compression does not divide is rounded down, as in sampling
        height, width = (side // compression * compression for side in size)
        _encode_videos(config, family, videos, ResizeCrop(height, width), counts)
    return _finish(counts, config)


def _latent_keys(config: Any) -> tuple[str, ...]:
    return (*cache.LATENT_KEYS, "latent_std") if config.save_distribution else cache.LATENT_KEYS


def _videos(config: Any) -> list[Video]:
    rows = read_video_table(config.csv_path, config.video_folder, config.video_column, None)
    if config.filter_data:
        there = [row for row in rows if row.file.is_file()]
        if len(there) < len(rows):
            logger.warning("%d of %d videos are missing and left out", len(rows) - len(there), len(rows))
        rows = there
    unique = {row.relative: row for row in rows}
    return [Video(cache.cache_path(config.output_path, name), row) for name, row in unique.items()]


def _encode_videos(config: Any, family: Family, videos: list[Video], transform: ResizeCrop, counts: Counts) -> None:
    dataset = WholeVideoDataset(
        [video.row for video in videos],
        transform,
        num_frames=parse_num_frames(config.num_frames) if config.num_frames else None,
        frame_stride=config.frame_stride,
        backend=config.video_backend,
    )
    loader = Loader(
        dataset,
        config.batch_size,
        shuffle=False,
        drop_last=False,
        num_workers=min(config.num_parallel_workers, len(videos)),
        replace_bad=False,
        max_bad_fraction=config.max_bad_fraction,
        collate=False,
    )
    autoencoder = family.load_autoencoder(
        config.vae_checkpoint, config.vae_dtype, config.vae_micro_batch_size, config.vae_micro_frame_size
    )
    try:
        with loader, _progress("encode videos", len(videos)) as bar:
            for samples in loader.epoch(0):
                for group in _of_equal_shape(samples):
                    _write_latents(videos, group, autoencoder, config.save_distribution)
                    counts.written += len(group)
                bar.update(counts.written + len(loader.bad_samples) - bar.n)
    finally:
        counts.bad = len(loader.bad_samples)
        if loader.bad_samples:
            loader.save_bad_samples(Path(config.output_path) / f"bad_samples{_rank_suffix()}.csv")


def _of_equal_shape(samples: Sequence[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """The samples of a batch, grouped by the shape of their frames."""
    groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(sample["frames"].shape, []).append(sample)
    return groups.values()


def _write_latents(videos: list[Video], group: list[dict[str, Any]], autoencoder: Any, with_std: bool) -> None:
    frames = np.stack([sample["frames"] for sample in group])
    mean, std = encode_frames(autoencoder, frames)
    for sample, one_mean, one_std in zip(group, mean, std):
        entry = cache.LatentEntry(
            one_mean.transpose(1, 0, 2, 3),
            one_std.transpose(1, 0, 2, 3),
            sample["fps"],
            sample["ori_size"],
            num_frames=frames.shape[1],
            size=frames.shape[2:4],
        )
        cache.write_latent(videos[sample["index"]].path, entry, with_std)


def encode_frames(autoencoder: Any, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (B, C, T', h, w) of the unscaled latents of frames (B, T, H, W, 3) uint8.

    Frames go through in runs of whole chunks, which the autoencoder encodes independently anyway; so the size of a
    video in float32 does not matter.
    """
    chunk = getattr(autoencoder.config, "micro_frame_size", 1) or frames.shape[1]
    run = max(1, FRAMES_AT_ONCE // chunk) * chunk
    means, stds = [], []
    for first in range(0, frames.shape[1], run):
        video = np.stack([normalise(clip[first : first + run]) for clip in frames])
        mean, std = autoencoder.posterior(video)
        means.append(mean.asnumpy())
        stds.append(std.asnumpy())
    return np.concatenate(means, axis=2), np.concatenate(stds, axis=2)


# --- shared ----------------------------------------------------------------------------------------------------------


def _left_to_do(tasks: list[Task], keys: Sequence[str], config: Any, recipe: str) -> tuple[Counts, list[Task]]:
    """The tasks whose files are not there yet; the settings are saved beside them."""
    if runtime.current().is_main:
        save_config(config, Path(config.output_path) / recipe)
    missing = [task for task in tasks if config.allow_overwrite or not cache.is_complete(task.path, keys)]
    return Counts(skipped=len(tasks) - len(missing)), missing


def _in_batches(items: Sequence[Task], size: int) -> Iterator[Sequence[Task]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _progress(what: str, total: int) -> tqdm:
    return tqdm(total=total, desc=what, disable=not runtime.current().is_main)


def _rank_suffix() -> str:
    current = runtime.current()
    return f"_rank{current.rank}" if current.world_size > 1 else ""


def _finish(counts: Counts, config: Any) -> Counts:
    rank = _rank_suffix().replace("_rank", "rank ")
    logger.info("%s%s: %s", f"{rank}: " if rank else "", config.output_path, counts)
    return counts
