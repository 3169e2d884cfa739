"""Videos from latents in files: what ``infer_vae_decode.py`` does.

``.npz`` files are caches of ``infer_vae.py`` (their mean is decoded), ``.npy`` files are normalised latents
(1, C, T', h, w) of ``inference.py --save_latent``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mindone.checkpoint.atomic import UNFINISHED
from mindone.data.arrays import read_npy
from mindone.data.errors import BadSample
from mindone.data.table import shard
from mindone.data.write import to_uint8
from mindone.errors import UserError
from mindone.folders import make_run_folder
from mindone.parallel.heartbeat import beat
from mindone.progress import progress_bar
from opensora import networks, outputs
from opensora.data.aspect import parse_num_frames
from opensora.data.cache import read_latent
from opensora.failures import within_memory
from opensora.families import settle
from opensora.model_folder import require_path
from opensora.start import start

if TYPE_CHECKING:
    from opensora.config import DecodeConfig
    from opensora.models.autoencoder import Autoencoder

logger = logging.getLogger(__name__)

SUFFIXES = (".npy", ".npz")


class Latents(NamedTuple):
    """Latents (1, C, T', h, w) float32, whether they are normalised, and the number of their frames if it is known."""

    values: np.ndarray
    normalised: bool
    num_frames: int | None


def decode_files(config: DecodeConfig) -> list[Path]:
    """Decodes every file of the folders; returns the videos of this rank. Files that cannot be read are reported.

    Raises:
        UserError: no latents, or none that can be read.
    """
    current = start(config.runtime)
    family, config = settle(config, config.model.model_version, vae_type=config.autoencoder.vae_type)
    require_path(config.autoencoder.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint")
    files = shard(find_latents(config.latents.latent_folder), current.rank, current.world_size)
    settings = config.autoencoder
    autoencoder = networks.load_autoencoder(
        settings.vae_checkpoint,
        family.autoencoder_preset,
        settings.vae_dtype,
        micro_batch_size=settings.vae_micro_batch_size,
        micro_frame_size=settings.vae_micro_frame_size,
        sd_scale_factor=settings.sd_scale_factor,
    )
    asked_frames = parse_num_frames(config.latents.num_frames) if config.latents.num_frames else None
    videos, bad = [], []
    for file, relative in progress_bar("decode", files, shown=current.is_main):
        beat(f"decoding {relative}")
        try:
            frames = _decode(autoencoder, file, asked_frames)
        except BadSample as error:
            bad.append(error)
            logger.warning("left out: %s", error)
            continue
        folder = make_run_folder(config.latents.output_path, str(relative.parent))
        stem = outputs.free_stem(folder, relative.stem)
        videos.append(outputs.write_clip(folder, stem, frames, config.latents.save_format, config.latents.fps))
    logger.info("%s: %d videos written, %d files left out", config.latents.output_path, len(videos), len(bad))
    if bad and not videos:
        raise UserError(f"none of {len(files)} files could be decoded; the first: {bad[0]}")
    return videos


def find_latents(folders: str | Sequence[str]) -> list[tuple[Path, Path]]:
    """The latents' files below some folders, and their paths relative to these."""
    found = []
    for folder in [folders] if isinstance(folders, str) else folders:
        if not Path(folder).is_dir():
            raise UserError(f"latent_folder={folder} is not a folder; give the folder of the latents")
        files = sorted(file for file in Path(folder).rglob("*") if file.suffix in SUFFIXES and _is_whole(file))
        found += [(file, file.relative_to(folder)) for file in files]
    if not found:
        raise UserError(f"latent_folder={folders} has no .npy or .npz files; make some with infer_vae.py")
    return found


def _is_whole(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(UNFINISHED)


def read_latents(file: Path) -> Latents:
    """Latents of either kind.

    Raises:
        BadSample: damaged, or not latents.
    """
    if file.suffix == ".npz":
        entry = read_latent(file)
        return Latents(entry.mean.transpose(1, 0, 2, 3)[None], False, entry.num_frames)
    values = read_npy(file)
    values = values[None] if values.ndim == 4 else values
    if values.ndim != 5 or values.size == 0 or len(values) != 1:
        raise BadSample(f"{file} holds no latents of one video (1, C, T, h, w): its shape is {values.shape}")
    if values.dtype.kind != "f":
        raise BadSample(f"{file} holds numbers of {values.dtype}; latents are floats")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise BadSample(f"{file} has numbers that are not finite (NaN or infinite); sample these latents again")
    return Latents(values, True, _recorded_frames(file))


def _recorded_frames(file: Path) -> int | None:
    """The frame count in the JSON file beside latents that ``inference.py`` saved."""
    record = file.with_suffix(".json")
    try:
        count = json.loads(record.read_text(encoding="utf-8"))["num_frames"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSample(f"{record} does not say num_frames, the length of the video of {file.name}") from error
    if type(count) is not int or not 1 <= count < 1 << 31:
        raise BadSample(f"{record}: num_frames={str(count)[:40]} is not a number of frames")
    return count


def _decode(autoencoder: Autoencoder, file: Path, asked_frames: int | None) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of the video in a file."""
    latents = read_latents(file)
    if latents.values.shape[1] != autoencoder.latent_channels:
        raise BadSample(
            f"{file} has {latents.values.shape[1]} latent channels, the autoencoder {autoencoder.latent_channels}"
        )
    values = latents.values if latents.normalised else _normalised(autoencoder, latents.values)
    try:
        frames = asked_frames or latents.num_frames or autoencoder.frames_of(latents.values.shape[2])
        with within_memory(f"decoding {file}", "use a smaller vae_micro_batch_size"):
            video = autoencoder.decode(values, frames).asnumpy()[0]
    except UserError as error:
        raise BadSample(f"{file}: {error}") from error
    if not np.isfinite(video).all():
        raise BadSample(f"{file}: the decoded video has numbers that are not finite; try vae_dtype fp32")
    return to_uint8(video)


def _normalised(autoencoder: Autoencoder, values: np.ndarray) -> np.ndarray:
    import mindspore as ms

    return autoencoder.normalize(ms.Tensor(values, ms.float32)).asnumpy()
