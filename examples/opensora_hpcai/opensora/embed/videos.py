"""Caches of latents: what ``infer_vae.py`` does."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindone.checkpoint.digest import weights_digest
from mindone.config import about
from mindone.data.loader import Loader
from mindone.data.plan import FixedPlan
from mindone.data.table import VideoRow, read_video_table, shard
from mindone.data.transforms import ResizeCrop, ResizeWithin, Transform, normalise
from opensora import networks
from opensora.conditions.visual import End, given_ends, given_frames
from opensora.data import cache
from opensora.data.aspect import parse_num_frames
from opensora.data.dataset import WholeVideoDataset
from opensora.embed.shared import Counts, Progress, finish, left_to_do, rank_suffix, save_settings
from opensora.failures import within_memory
from opensora.families import Family, settle
from opensora.model_folder import require_path
from opensora.start import start

if TYPE_CHECKING:
    from opensora.config import EmbedVideoConfig
    from opensora.config.embed import Videos
    from opensora.models.autoencoder import Autoencoder

logger = logging.getLogger(__name__)

# Frames that are normalised and handed to the autoencoder at once, rounded to whole chunks of it.
FRAMES_AT_ONCE = 64


@dataclass(frozen=True)
class Video:
    """A row of the table and the cache file of its latents; ``made_from`` says the video, settings and autoencoder."""

    path: Path
    row: VideoRow
    made_from: Mapping[str, Any]


def embed_videos(config: EmbedVideoConfig) -> Counts:
    """Writes mean and standard deviation of the latents of a table's videos, one file each.

    Videos that cannot be read are reported, counted, and listed in ``bad_samples.csv``.

    Raises:
        UserError: a size that the autoencoder cannot encode, something missing, files that were made from something
            else, or too many bad videos.
    """
    current = start(config.runtime)
    family, config = settle(config, config.model.model_version, vae_type=config.autoencoder.vae_type)
    folder = config.cache.output_path
    weights, shape = config.autoencoder.vae_checkpoint, config.shape
    require_path(weights, "the autoencoder's weights", "vae_checkpoint")
    skeleton = networks.autoencoder_skeleton(family.autoencoder_preset, weights)
    compression = skeleton.spatial_compression
    _, *size = family.size(replace(shape, num_frames=shape.num_frames or 1), compression)
    # a named size that the compression does not divide is rounded down, as in sampling
    height, width = (side // compression * compression for side in size)
    settings = _settings(config, height, width, skeleton.chunk_frames)
    rows = shard(_rows(config.data), current.rank, current.world_size)
    transform: Transform = ResizeCrop(height, width)
    if config.data.resize_by_max_value:
        transform = ResizeWithin(max(size))
        settings |= {"height": f"within {transform.side}", "width": f"within {transform.side}"}
    videos = [Video(cache.cache_path(folder, row.relative), row, _source(row) | settings) for row in rows]
    todo = left_to_do(videos, _latent_keys(config), config.cache)
    save_settings(config, folder, "embed_video.yaml")
    counts = Counts(skipped=len(videos) - len(todo))
    if todo:
        _encode_videos(config, family, todo, transform, counts)
    return finish(counts, folder)


def _latent_keys(config: EmbedVideoConfig) -> tuple[str, ...]:
    parts = ("mean", "std") if config.cache.save_distribution else ("mean",)
    return tuple(f"{name}_{part}" for name in ("latent", *(end.name for end in _ends(config))) for part in parts)


def _ends(config: EmbedVideoConfig) -> list[End]:
    """What conditions give and is encoded by itself."""
    with about("condition_kinds"):
        return given_ends(config.cache.condition_kinds or (), causal=True)


def _settings(config: EmbedVideoConfig, height: int, width: int, own_chunk: int | None) -> dict[str, Any]:
    """Whatever changes the latents of a video."""
    chunk = config.autoencoder.vae_micro_frame_size
    return {
        "height": height,
        "width": width,
        "num_frames": _num_frames(config),
        "frame_stride": config.data.frame_stride,
        "dtype": config.autoencoder.vae_dtype,
        "micro_frame_size": own_chunk if chunk is None else chunk,
        "weights": weights_digest(config.autoencoder.vae_checkpoint),
    }


def _num_frames(config: EmbedVideoConfig) -> int | None:
    return parse_num_frames(config.shape.num_frames) if config.shape.num_frames else None


def _source(row: VideoRow) -> dict[str, Any]:
    """Which video it is; its size tells whether another one took its name, and is left out once it is gone."""
    try:
        return {"video": row.relative, "bytes": row.file.stat().st_size}
    except OSError:
        return {"video": row.relative}


def _rows(data: Videos) -> list[VideoRow]:
    """The rows of the table, each video once."""
    rows = read_video_table(data.csv_path, data.video_folder, data.video_column, None)
    if data.filter_data:
        there = [row for row in rows if row.file.is_file()]
        if len(there) < len(rows):
            logger.warning("%d of %d videos are missing and left out", len(rows) - len(there), len(rows))
        rows = there
    cache.require_distinct(rows, data.csv_path)
    return list({row.relative: row for row in rows}.values())


def _require_room(config: EmbedVideoConfig, latent_frames: int) -> None:
    """Refuses conditions that videos of this length cannot have."""
    with about("condition_kinds"):
        for kind in config.cache.condition_kinds or ():
            given_frames(kind, True, latent_frames)


def _encode_videos(
    config: EmbedVideoConfig, family: Family, videos: Sequence[Video], transform: Transform, counts: Counts
) -> None:
    dataset = WholeVideoDataset(
        [video.row for video in videos],
        transform,
        num_frames=_num_frames(config),
        frame_stride=config.data.frame_stride,
        backend=config.data.video_backend,
    )
    loader = Loader(
        dataset,
        FixedPlan(len(videos), config.data.batch_size, shuffle=False, drop_last=False),
        num_workers=min(config.data.num_parallel_workers, len(videos)),
        replace_bad=False,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    settings = config.autoencoder
    autoencoder = networks.load_autoencoder(
        settings.vae_checkpoint,
        family.autoencoder_preset,
        settings.vae_dtype,
        micro_batch_size=settings.vae_micro_batch_size,
        micro_frame_size=settings.vae_micro_frame_size,
        sd_scale_factor=settings.sd_scale_factor,
    )
    try:
        with loader, Progress("encode videos", len(videos), counts) as progress:
            for batch in loader.epoch(0):
                for group in _of_equal_shape(batch.samples):
                    for path in _write_latents(videos, group, autoencoder, config):
                        progress.wrote(path)
                progress.left_out(len(loader.bad_samples) - counts.bad)
                counts.bad = len(loader.bad_samples)
    finally:
        counts.bad = len(loader.bad_samples)
        if loader.bad_samples:
            loader.bad_samples.save(Path(config.cache.output_path) / f"bad_samples{rank_suffix()}.csv")


def _of_equal_shape(samples: Sequence[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """The samples of a batch, grouped by the shape of their frames."""
    groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(sample["frames"].shape, []).append(sample)
    return groups.values()


def _write_latents(
    videos: Sequence[Video], group: list[dict[str, Any]], autoencoder: Autoencoder, config: EmbedVideoConfig
) -> Iterable[Path]:
    """Encodes videos of one shape and yields their cache files as these are written."""
    frames = np.stack([sample["frames"] for sample in group])
    count, length = frames.shape[:2]
    remedy = "use a smaller batch_size or vae_micro_batch_size, or smaller videos"
    with within_memory(f"encoding {count} videos of {length} frames at once", remedy):
        mean, std = _frames_first(encode_frames(autoencoder, frames))
        _require_room(config, autoencoder.latent_size(frames.shape[1:4])[0])
        ends = {
            end.name: _frames_first(encode_frames(autoencoder, frames[:, end.frames(autoencoder.time_compression)]))
            for end in _ends(config)
        }
    for row, sample in enumerate(group):
        entry = cache.LatentEntry(
            mean[row],
            std[row],
            sample["fps"],
            sample["ori_size"],
            num_frames=frames.shape[1],
            size=frames.shape[2:4],
            ends={name: (mean_of_end[row], std_of_end[row]) for name, (mean_of_end, std_of_end) in ends.items()},
        )
        video = videos[sample["index"]]
        cache.write_latent(video.path, entry, config.cache.save_distribution, video.made_from)
        yield video.path


def _frames_first(parts: Iterable[np.ndarray]) -> list[np.ndarray]:
    return [part.swapaxes(1, 2) for part in parts]


def encode_frames(autoencoder: Autoencoder, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (B, C, T', h, w) of the unscaled latents of frames (B, T, H, W, 3) uint8.

    Frames go through in runs of whole chunks, which the autoencoder encodes independently anyway; so the size of a
    video in float32 does not matter.
    """
    chunk = autoencoder.chunk_frames or frames.shape[1]
    run = max(1, FRAMES_AT_ONCE // chunk) * chunk
    means, stds = [], []
    for first in range(0, frames.shape[1], run):
        video = normalise(frames[:, first : first + run])
        mean, std = autoencoder.posterior(video)
        means.append(mean.asnumpy())
        stds.append(std.asnumpy())
    return np.concatenate(means, axis=2), np.concatenate(stds, axis=2)
