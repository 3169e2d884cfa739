"""The first release's ``train.py`` and ``sample.py``: their settings become those of ours, for version v0."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindone.checkpoint.atomic import atomic_write
from mindone.config import check
from opensora import networks
from opensora.config.common import Autoencoder, Text
from opensora.config.generate import Denoiser as SampledDenoiser
from opensora.config.generate import GenerateAutoencoder, GenerateConfig, Output, Prompts, Sampler
from opensora.config.generate import Shape as SampledShape
from opensora.config.train import Data, Denoiser, Loop, Optim, TrainConfig, TrainShape
from opensora.generate.run import generate
from opensora.model_folder import require_path
from opensora.older.captions import training_table
from opensora.older.shared import training_runtime
from opensora.training.denoiser import train

if TYPE_CHECKING:
    from opensora.config.first import Network, SampleFirstConfig, TrainFirstConfig

logger = logging.getLogger(__name__)

VERSION = "v0"
# compressor → its autoencoder
AUTOENCODERS = {"raw": "raw", "vqvae": "VQ-VAE", "vae": "SD-VAE"}


def sample_first(config: SampleFirstConfig) -> Path:
    """Makes the video and returns its file.

    Raises:
        UserError: what in the settings cannot work.
    """
    require_path(config.video.ckpt, "the network's weights", "ckpt")
    settings = sample_settings(config)
    check(settings)
    (result,) = generate(settings)
    place = Path(config.video.output)
    with open(result.video, "rb") as source, atomic_write(place) as file:
        shutil.copyfileobj(source, file)
    logger.info("the video is %s", place)
    return place


def sample_settings(config: SampleFirstConfig) -> GenerateConfig:
    """The settings of ``inference.py`` for it."""
    network, video = config.network, config.video
    return GenerateConfig(
        prompts=Prompts(captions=[video.text], caption_cleaning="none"),
        shape=SampledShape([video.height, video.width], num_frames=round(video.fps * video.sec)),
        denoiser=SampledDenoiser(
            VERSION,
            model_name=network.model,
            denoiser_config=_sizes(network),
            ckpt_path=video.ckpt,
            dtype=network.dtype,
        ),
        autoencoder=GenerateAutoencoder(network.compressor_path, AUTOENCODERS[network.compressor]),
        text=Text(clip_model_name_or_path=network.text_model),
        sampler=Sampler(
            sampling_steps=video.num_sampling_steps,
            guidance_scale=1.0 if video.disable_cfg else video.cfg_scale,
            batch_size=1,
            fps=video.fps,
        ),
        output=Output(str(Path(video.output).with_suffix(""))),
        runtime=config.runtime,
    )


def train_first(config: TrainFirstConfig) -> Path:
    """Trains and returns the model folder.

    Raises:
        UserError: what in the settings cannot work.
    """
    settings = train_settings(config)
    check(settings)
    return train(settings)


def train_settings(config: TrainFirstConfig) -> TrainConfig:
    """The settings of ``train.py`` for it; captions become a table in the folder of the run.

    Raises:
        UserError: captions that are missing or none.
    """
    network, given = config.network, config.training
    sizes = _sizes(network)
    require_path(network.text_model, "the text encoder's files", "text_model")
    table = training_table(given.dataset, given.video_dir, given.checkpoint_dir)
    return TrainConfig(
        data=Data(
            csv_path=str(table),
            video_folder=given.video_dir,
            frame_stride=given.frame_interval,
            num_parallel_workers=given.num_parallel_workers,
        ),
        shape=TrainShape([given.height, given.width], num_frames=given.num_frames),
        model=Denoiser(
            VERSION,
            model_name=network.model,
            denoiser=sizes,
            pretrained_model_path=given.load_model,
            dtype=network.dtype,
            use_recompute=given.grad_checkpoint,
        ),
        autoencoder=Autoencoder(network.compressor_path, AUTOENCODERS[network.compressor]),
        text=Text(clip_model_name_or_path=network.text_model),
        optimizer=Optim(
            start_learning_rate=given.lr,
            end_learning_rate=0.0,
            warmup_steps=0,
            weight_decay=0.0,
            gradient_accumulation_steps=given.accumulation_steps,
            use_ema=True,
            ema_decay=given.ema_decay,
        ),
        train=Loop(
            batch_size=given.batch_size,
            epochs=given.epochs,
            train_steps=given.train_steps,
            ckpt_save_steps=given.save_interval,
            resume=given.resume,
            output_path=given.checkpoint_dir,
            add_datetime=False,
        ),
        runtime=training_runtime(config.runtime),
    )


def _sizes(network: Network) -> dict[str, Any]:
    """What is said of the network itself: how the text gets in, and the channels of what it sees.

    Raises:
        UserError: the compressor's files are missing.
    """
    sizes: dict[str, Any] = {} if network.model_arch is None else {"model_arch": network.model_arch}
    path = network.compressor_path
    if network.compressor != "raw":
        path = require_path(path, "the compressor's weights", "compressor_path")
    channels = networks.autoencoder_skeleton(AUTOENCODERS[network.compressor], path).latent_channels
    return {**sizes, "in_channels": channels}
