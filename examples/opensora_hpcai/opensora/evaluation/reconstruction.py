"""How well an autoencoder reconstructs videos: PSNR, SSIM and LPIPS, with originals and results side by side."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mindspore import Tensor, nn

from mindone.checkpoint.atomic import atomic_write
from mindone.data.errors import BadSample
from mindone.data.table import read_video_table
from mindone.data.transforms import ResizeCrop, normalise
from mindone.data.video import read_video
from mindone.data.write import to_uint8
from mindone.errors import UserError
from mindone.folders import make_run_folder
from mindone.metrics.image import psnr, ssim
from mindone.models.lpips import LPIPS, load_lpips
from mindone.progress import progress_bar
from opensora import networks, outputs
from opensora.config import EvaluateVaeConfig
from opensora.data.aspect import parse_num_frames
from opensora.start import start

if TYPE_CHECKING:
    from opensora.models.autoencoder import Autoencoder

logger = logging.getLogger(__name__)

SCORES = "scores.json"


def evaluate(config: EvaluateVaeConfig) -> dict[str, float]:
    """Encodes and decodes the clips of a table; writes their scores and returns the means over all clips.

    Raises:
        UserError: something is missing, or no clip can be read.
    """
    start(config.runtime)
    data, settings = config.data, config.autoencoder
    autoencoder = networks.load_autoencoder(
        settings.vae_checkpoint,
        dtype=settings.vae_dtype,
        micro_batch_size=settings.vae_micro_batch_size,
        micro_frame_size=settings.vae_micro_frame_size,
        sd_scale_factor=settings.sd_scale_factor,
    )
    if not data.use_temporal_vae:
        autoencoder = _spatial_part(autoencoder)
    lpips = _MeanDistance(load_lpips(data.lpips_checkpoint, "alex")) if data.eval_loss else None
    folder = make_run_folder(data.output_path, None)
    scores: dict[str, dict[str, float]] = {}
    for name, frames in _clips(config):
        x = normalise(frames)[None]
        latents = autoencoder.encode(x)
        stem = Path(name).with_suffix("").as_posix().replace("/", "_")
        if data.encode_only:
            outputs.write_array(folder / f"{stem}.npy", latents.asnumpy())
            continue
        video = np.clip(autoencoder.decode(latents, x.shape[2]).asnumpy(), -1, 1)
        scores[name] = _scores(x[0], video[0])
        if lpips is not None:
            scores[name]["lpips"] = _distance(lpips, x[0], video[0])
        if data.save_vis:
            both = np.concatenate([frames, to_uint8(video[0])], 2)
            outputs.write_clip(folder, stem, both, "mp4", 8)
    if data.encode_only:
        logger.info("the latents are in %s", folder)
        return {}
    kinds = ("psnr", "ssim", "lpips")[: 2 if lpips is None else 3]
    means = {key: float(np.mean([each[key] for each in scores.values()])) for key in kinds}
    with atomic_write(folder / SCORES) as file:
        file.write(json.dumps({"mean": means, "clips": scores}, indent=2).encode() + b"\n")
    text = f"PSNR {means['psnr']:.2f} dB, SSIM {means['ssim']:.4f}"
    text += f", LPIPS {means['lpips']:.4f}" if lpips is not None else ""
    logger.info("%d clips: %s: %s", len(scores), text, folder / SCORES)
    return means


def _spatial_part(autoencoder: Autoencoder) -> Autoencoder:
    if not hasattr(autoencoder, "spatial_vae"):
        raise UserError("use_temporal_vae=False needs an autoencoder with a 2D part: that of Open-Sora 1.2")
    return autoencoder.spatial_vae


def _clips(config: EvaluateVaeConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Names and frames (T, H, W, 3) uint8; clips that cannot be read are reported."""
    data = config.data
    sides = [data.image_size] if isinstance(data.image_size, int) else data.image_size
    transform = ResizeCrop(sides[0], sides[-1])
    rows = read_video_table(data.csv_path, data.video_folder, data.video_column, None)
    read = 0
    for row in progress_bar("reconstruct", rows):
        try:
            frames = read_video(row.file, parse_num_frames(data.num_frames), 0, data.frame_stride, data.video_backend)
        except BadSample as error:
            logger.warning("left out: %s", error)
            continue
        read += 1
        yield row.relative, transform.clip(frames)
    if not read:
        raise UserError(f"none of the {len(rows)} videos of {data.csv_path} can be read")


def _scores(x: np.ndarray, video: np.ndarray) -> dict[str, float]:
    """Means over the frames of (3, T, H, W) in [-1, 1]."""
    first, second = ((clip.transpose(1, 0, 2, 3) + 1) / 2 for clip in (x, video))
    return {"psnr": float(psnr(first, second).mean()), "ssim": float(ssim(first, second).mean())}


class _MeanDistance(nn.Cell):
    """The mean of LPIPS over the pixels of a picture, as Open-Sora's evaluation takes it."""

    def __init__(self, lpips: LPIPS):
        super().__init__(auto_prefix=False)
        self.lpips = lpips

    def construct(self, first: Tensor, second: Tensor) -> Tensor:
        return self.lpips.spatial(first, second)[0].mean()


def _distance(lpips: _MeanDistance, x: np.ndarray, video: np.ndarray) -> float:
    """Mean over the frames of (3, T, H, W) in [-1, 1], one at a time."""
    pairs = zip(*(np.ascontiguousarray(clip.transpose(1, 0, 2, 3), np.float32) for clip in (x, video)))
    return float(np.mean([lpips(Tensor(a[None]), Tensor(b[None])).asnumpy() for a, b in pairs]))
