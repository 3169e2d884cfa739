"""OpenDiT's ``train_opensora.py`` and ``sample_opensora.py``: their settings become those of ours, for version v1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mindone.config import check
from mindone.data.table import read_header
from mindone.errors import UserError
from opensora.config.common import Autoencoder, Shape, Text
from opensora.config.generate import Denoiser as SampledDenoiser
from opensora.config.generate import GenerateAutoencoder, GenerateConfig, Output, Prompts, Sampler
from opensora.config.train import Data, Denoiser, Loop, Optim, Parallel, TrainConfig, TrainShape
from opensora.generate.run import generate
from opensora.model_folder import require_path
from opensora.older.shared import training_runtime
from opensora.training.denoiser import train

if TYPE_CHECKING:
    from opensora.config.opendit import SampleOpenDiTConfig, TrainOpenDiTConfig, Weights
    from opensora.generate.results import Result

VERSION = "v1"
# Columns of videos and captions: those of Open-Sora, and ours.
COLUMNS = (("path", "text"), ("video", "caption"))


def sample_opendit(config: SampleOpenDiTConfig) -> list[Result]:
    """Makes and writes the videos; returns those of this rank.

    Raises:
        UserError: what in the settings cannot work.
    """
    _require(config.weights, "model_pretrained_path")
    settings = sample_settings(config)
    check(settings)
    return generate(settings)


def sample_settings(config: SampleOpenDiTConfig) -> GenerateConfig:
    """The settings of ``inference.py`` for it."""
    weights, video = config.weights, config.video
    return GenerateConfig(
        prompts=Prompts(captions=video.captions, prompt_path=video.prompt_path, caption_cleaning="full"),
        shape=Shape(video.image_size, num_frames=video.num_frames),
        denoiser=SampledDenoiser(
            VERSION,
            ckpt_path=weights.model_pretrained_path,
            dtype=video.dtype,
            space_scale=weights.model_space_scale,
            time_scale=weights.model_time_scale,
            **_sharing(weights),
        ),
        autoencoder=GenerateAutoencoder(weights.vae_pretrained_path),
        text=Text(weights.text_pretrained_path, model_max_length=weights.text_max_length),
        sampler=Sampler(
            sampling_steps=video.scheduler_num_sampling_steps,
            guidance_scale=video.scheduler_cfg_scale,
            batch_size=video.batch_size,
            fps=video.fps,
        ),
        output=Output(video.outputs),
        runtime=config.runtime,
    )


def train_opendit(config: TrainOpenDiTConfig) -> Path:
    """Trains and returns the model folder.

    Raises:
        UserError: what in the settings cannot work.
    """
    _require(config.weights)
    settings = train_settings(config)
    check(settings)
    return train(settings)


def train_settings(config: TrainOpenDiTConfig) -> TrainConfig:
    """The settings of ``train.py`` for it.

    Raises:
        UserError: a table without the columns of videos and captions.
    """
    weights, given = config.weights, config.training
    video, caption = _columns(given.data_path)
    return TrainConfig(
        data=Data(
            csv_path=given.data_path,
            video_folder=given.video_folder or str(Path(given.data_path).parent),
            video_column=video,
            caption_column=caption,
            frame_stride=given.frame_interval,
            num_parallel_workers=given.num_workers,
        ),
        shape=TrainShape(given.image_size, num_frames=given.num_frames),
        model=Denoiser(
            VERSION,
            pretrained_model_path=weights.model_pretrained_path,
            space_scale=weights.model_space_scale,
            time_scale=weights.model_time_scale,
            dtype=given.mixed_precision,
            use_recompute=given.grad_checkpoint,
        ),
        autoencoder=Autoencoder(weights.vae_pretrained_path),
        text=Text(weights.text_pretrained_path, model_max_length=weights.text_max_length),
        optimizer=Optim(
            start_learning_rate=given.lr,
            scheduler="constant",
            warmup_steps=0,
            weight_decay=0.0,
            clip_grad=True,
            use_ema=True,
        ),
        train=Loop(
            batch_size=given.batch_size,
            epochs=given.epochs,
            train_steps=given.train_steps,
            ckpt_save_steps=given.ckpt_every,
            log_interval=given.log_every,
            resume=given.load or False,
            output_path=given.outputs,
        ),
        parallel=Parallel(**_sharing(weights)),
        runtime=training_runtime(config.runtime),
    )


def _sharing(weights: Weights) -> dict[str, bool | int | None]:
    """How devices share a video."""
    count = weights.sequence_parallel_size
    return {"dsp": count > 1, "sequence_parallel_shards": count if count > 1 else None}


def _columns(table: str) -> tuple[str, str]:
    header = read_header(table)
    for names in COLUMNS:
        if set(names) <= set(header):
            return names
    raise UserError(f"{table} has the columns {', '.join(header)}; it needs path and text, or video and caption")


def _require(weights: Weights, *more: str) -> None:
    """Refuses missing files by the names of these commands."""
    what = {
        "model_pretrained_path": "the network's weights",
        "vae_pretrained_path": "the autoencoder's weights",
        "text_pretrained_path": "the text encoder's files",
    }
    for name in (*more, "vae_pretrained_path", "text_pretrained_path"):
        require_path(getattr(weights, name), what[name], name)
