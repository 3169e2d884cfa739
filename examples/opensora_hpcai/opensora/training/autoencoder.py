"""Trains an autoencoder by reconstruction and KL divergence; that of 1.2 whole, its 2D part, or its temporal part."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mindspore import Tensor, nn

from mindone import runtime
from mindone.checkpoint import load_into
from mindone.data.errors import BadSample
from mindone.data.loader import Batch
from mindone.data.plan import FixedPlan
from mindone.data.table import VideoRow, read_table, read_video_table
from mindone.data.transforms import normalise
from mindone.errors import UserError
from mindone.models.lpips import load_lpips, random_lpips
from mindone.parallel.mesh import make_mesh
from mindone.train.loop import Place, Training
from opensora.config.common import Refusals, refuse
from opensora.config.vae import OF_TWO_PARTS, TrainVaeConfig, VaeData, VaeModel
from opensora.data.dataset import Memory, VideoTextDataset
from opensora.families.base import is_on
from opensora.model_folder import require_path
from opensora.models.autoencoder import Autoencoder
from opensora.models.inflate import inflate
from opensora.models.vae_dc_ae import DCAE, Residual
from opensora.models.vae_loss import FrameLoss, LossWeights, PixelLoss, TimeLoss, VideoLoss
from opensora.models.vae_v1_2 import VideoAutoencoder
from opensora.networks import autoencoder_config, build_autoencoder, into_module, load_autoencoder_weights, own_tensors
from opensora.start import start
from opensora.training.adversarial import PARTS as ADVERSARIAL_PARTS
from opensora.training.adversarial import make_adversarial_step
from opensora.training.contents import Contents
from opensora.training.run import (
    CACHE_BYTES,
    Run,
    cache_bytes,
    existing_rows,
    make_loader,
    make_step,
    make_training,
    open_run,
    run_training,
)

if TYPE_CHECKING:
    from opensora.models.types import AutoencoderConfig

logger = logging.getLogger(__name__)

PARTS = ("l1", "mse", "kl", "lpips")
# Parts of the names of what makes latents.
ENCODING = {"encoder", "quant_conv"}
# Clips that the result is judged on.
JUDGED = 16


CANNOT: Refusals = {
    "zero_stage": (lambda value: value == 3, "use 2: an autoencoder's convolutions are not spread"),
    "enable_sequence_parallelism": (is_on, "leave it out; --use_parallel True shares the work by samples"),
    "dsp": (is_on, "leave it out; --use_parallel True shares the work by samples"),
    "sequence_parallel_shards": (lambda value: (value or 1) > 1, "leave it out"),
    "sequence_parallel_method": (lambda value: value != "auto", "leave it out"),
    "random_crop": (is_on, "leave it out; clips are cropped at the centre"),
    "scale_lr": (is_on, "give the learning rate you want as start_learning_rate"),
}


def train(config: TrainVaeConfig) -> Path:
    """Trains an autoencoder and returns its model folder.

    Raises:
        UserError: what in the configuration cannot work.
        SystemExit: a signal ended the run early; its state is saved.
    """
    start(config.runtime)
    check(config)
    rows = read_rows(config.data)
    with open_run(config, make_mesh()) as run:
        training, autoencoder = prepare(config, run, rows)
        run_training(run, training)
        return _finish(config, run, training, autoencoder, rows)


def prepare(config: TrainVaeConfig, run: Run, rows: list[VideoRow]) -> tuple[Training, Autoencoder]:
    """All that a run of the loop needs, and what it trains.

    Raises:
        UserError: as for `train`.
    """
    autoencoder = build(config.model)
    _check_size(config.data, autoencoder)
    trained_rows = rows[: len(rows) - config.data.held_out]
    trained_on = make_dataset(config.data, trained_rows)
    size = (trained_on.num_frames, config.data.image_size, config.data.image_size)
    plan = FixedPlan(len(trained_on), config.train.batch_size, run.mesh.data, run.seed, size=size)
    loader = make_loader(trained_on, config.data, plan, run)
    loss = make_loss(config, autoencoder)
    if config.loss.use_discriminator:
        step = make_adversarial_step(config, autoencoder, loss, run.mesh, run.seed)
    else:
        step = make_step(
            config.optimizer,
            config.model.dtype,
            autoencoder,
            loss,
            run.mesh,
            zero_stage=config.parallel.stage,
        )
    training = make_training(
        config,
        run,
        autoencoder,
        autoencoder.config.to_dict(),
        step,
        loader,
        AutoencoderInputs(config, autoencoder),
        Contents(trained_rows),
        PARTS + (ADVERSARIAL_PARTS if config.loss.use_discriminator else ()),
    )
    return training, autoencoder


def _finish(
    config: TrainVaeConfig, run: Run, training: Training, autoencoder: Autoencoder, rows: list[VideoRow]
) -> Path:
    """Normalises the latents of what was trained, judges it, and writes it."""
    if training.step.ema:
        training.step.ema.assign()
    clips = config.model.latent_statistics
    if clips:
        set_latent_statistics(autoencoder, training.loader.dataset, clips, config.train.batch_size, run.seed)
    judge(config, autoencoder, rows)
    folder = training.checkpoints.export(autoencoder.config.to_dict(), training.state.step)
    logger.info("the autoencoder is in %s", folder)
    return folder


def check(config: TrainVaeConfig) -> None:
    """Refuses what cannot be done.

    Raises:
        UserError: one sentence that names the setting.
    """
    refuse(config, CANNOT, "train_vae.py")
    weight = config.loss.perceptual_loss_weight
    if config.loss.use_real_rec_loss and weight and not (config.loss.lpips_checkpoint or config.loss.lpips_random):
        raise UserError(
            f"perceptual_loss_weight={weight} needs the weights of VGG-16 and LPIPS; give their file or folder as "
            "--lpips_checkpoint, leave them out by --perceptual_loss_weight 0, or try out random ones by "
            "--lpips_random True"
        )
    if not config.model.has_two_parts:
        for group, name in (("model", "vae_2d_only"), ("loss", "use_z_rec_loss")):
            if getattr(getattr(config, group), name):
                raise UserError(f"{name} is for the two parts of {OF_TWO_PARTS}; {config.model.model_type} has one")
        if config.model.vae2d_checkpoint and config.model.model_type != "Hunyuan-VAE":
            raise UserError(f"vae2d_checkpoint is for {OF_TWO_PARTS} and Hunyuan-VAE; use pretrained_model_path")
        if config.loss.use_image_identity_loss:
            raise UserError(f"use_image_identity_loss compares the two parts of {OF_TWO_PARTS}; leave it out")
    if config.model.vae_2d_only and not config.loss.use_real_rec_loss:
        raise UserError("vae_2d_only reconstructs pixels; set use_real_rec_loss, not use_z_rec_loss")


def _check_size(data: VaeData, autoencoder: Autoencoder) -> None:
    compression = autoencoder.spatial_compression
    if data.image_size % compression:
        raise UserError(f"image_size={data.image_size} is not divisible by the autoencoder's {compression}")


# --- network ---------------------------------------------------------------------------------------------------------


def build(model: VaeModel) -> Autoencoder:
    """The autoencoder: published sizes, replaced by those of the weights' folder, then by ``vae``.

    Its weights are fresh, or those of ``pretrained_model_path``; the 2D part may come from ``vae2d_checkpoint``.
    """
    source = model.pretrained_model_path
    autoencoder = build_autoencoder(config_of(model), model.dtype)
    if source:
        load_autoencoder_weights(autoencoder, source)
    if model.vae2d_checkpoint:
        _start_from_images(autoencoder, model.vae2d_checkpoint)
    if model.use_recompute:
        for part in _recomputed(autoencoder):
            part.recompute()
    return autoencoder


def config_of(model: VaeModel) -> AutoencoderConfig:
    """The autoencoder's sizes.

    Raises:
        UserError: its weights are not there, or sizes that cannot be.
    """
    source = model.pretrained_model_path
    if source:
        require_path(source, "the autoencoder's weights", "pretrained_model_path")
    sizes = {"micro_batch_size": model.micro_batch_size}
    if model.has_two_parts:
        sizes["micro_frame_size"] = model.micro_frame_size
    return autoencoder_config(model.network, source, model.vae, **sizes)


def _start_from_images(autoencoder: Autoencoder, path: str) -> None:
    """Fills the 2D part, or the kernels of a causal 3D autoencoder, from an image autoencoder."""
    weights = own_tensors(require_path(path, "the weights of an image autoencoder", "vae2d_checkpoint"))
    image = {name.removeprefix(into_module("")): np.asarray(weights[name]) for name in weights}
    if isinstance(autoencoder, VideoAutoencoder):
        load_into(autoencoder.spatial_vae.module, image)
        return
    fresh = {name: parameter.asnumpy() for name, parameter in autoencoder.parameters_and_names()}
    load_into(autoencoder, inflate(image, fresh))


def _recomputed(autoencoder: Autoencoder) -> list[nn.Cell]:
    """Encoders and decoders; of a deep one each block by itself: in larger parts MindSpore finds a cycle."""
    if isinstance(autoencoder, DCAE):
        return [cell for _, cell in autoencoder.cells_and_names() if isinstance(cell, Residual)]
    if isinstance(autoencoder, VideoAutoencoder):
        parts = [autoencoder.spatial_vae.module, autoencoder.temporal_vae]
    else:
        parts = [getattr(autoencoder, "module", autoencoder)]
    return [half for part in parts for half in (part.encoder, part.decoder)]


def make_loss(config: TrainVaeConfig, autoencoder: Autoencoder) -> nn.Cell:
    """The loss cell; only the part of the autoencoder that it holds is trained."""
    loss = config.loss
    perceptual = loss.perceptual_loss_weight if loss.use_real_rec_loss else 0.0
    weights = LossWeights(loss.mse_loss_weight, loss.kl_loss_weight, perceptual, loss.use_image_identity_loss)
    lpips = None
    if perceptual:
        lpips = random_lpips(loss.lpips_net) if loss.lpips_random else load_lpips(loss.lpips_checkpoint, loss.lpips_net)
    if config.model.freeze_encoder:
        for name, parameter in autoencoder.parameters_and_names():
            parameter.requires_grad &= not ENCODING.intersection(name.split("."))
    if not config.model.has_two_parts:
        return PixelLoss(autoencoder, weights, lpips)
    if config.model.vae_2d_only:
        return FrameLoss(autoencoder, weights, lpips)
    if config.model.freeze_vae_2d:
        for parameter in autoencoder.spatial_vae.get_parameters():
            parameter.requires_grad = False
    if _on_latents(config):
        return TimeLoss(autoencoder, weights)
    return VideoLoss(autoencoder, weights, loss.use_real_rec_loss, loss.use_z_rec_loss, lpips)


def _on_latents(config: TrainVaeConfig) -> bool:
    """Whether pixels are not needed in the graph: the 2D part is frozen, and its latents are what is reconstructed."""
    return config.model.has_two_parts and config.model.freeze_vae_2d and not config.loss.use_real_rec_loss


# --- data ------------------------------------------------------------------------------------------------------------


def read_rows(data: VaeData) -> list[VideoRow]:
    """The table's rows; the last ``held_out`` are not for training."""
    # The given column, or the first one if the table does not have it.
    column = data.video_column if data.video_column in read_table(data.csv_path).columns else None
    rows = read_video_table(data.csv_path, data.video_folder, column, None)
    if data.filter_data:
        rows = existing_rows(rows, lambda row: [row.file], data.csv_path)
    if data.held_out >= len(rows):
        raise UserError(f"held_out={data.held_out} leaves none of the {len(rows)} rows of {data.csv_path} to train")
    return rows


def make_dataset(data: VaeData, rows: Sequence[VideoRow]) -> VideoTextDataset:
    """Clips of ``num_frames``, or single frames for images only."""
    return VideoTextDataset(
        rows,
        1 if data.mixed_strategy == "image_only" else data.num_frames,
        (data.image_size, data.image_size),
        frame_stride=data.frame_stride,
        flip=data.flip,
        backend=data.video_backend,
        cache_bytes=cache_bytes(data),
    )


class _Kept:
    """Latents that `Memory` keeps."""

    def __init__(self, values: np.ndarray):
        self.values, self.nbytes = values, values.nbytes


class AutoencoderInputs:
    """Makes the loss cell's inputs of a batch: pixels, or latents of the frozen 2D part, and noise for the posterior.

    Clips that come again, as those of a small data set do, are encoded once.
    """

    def __init__(self, config: TrainVaeConfig, autoencoder: Autoencoder):
        self.config, self.autoencoder = config, autoencoder
        self._latents = Memory(CACHE_BYTES)

    def __call__(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        x = self._mixed(normalise(batch.arrays["frames"]), place)
        part = self.autoencoder.spatial_vae if self.config.model.vae_2d_only else self.autoencoder
        size = (self.autoencoder.latent_channels, *part.latent_size(x.shape[2:]))
        if _on_latents(self.config):
            x = np.stack([self._frame_latents(clip) for clip in x])
        return Tensor(np.ascontiguousarray(x)), Tensor(place.normal("posterior", size))

    def _mixed(self, x: np.ndarray, place: Place) -> np.ndarray:
        """Of ``mixed_image_ratio`` of the updates the first frame, or a random number of frames, instead of all."""
        data = self.config.data
        if data.mixed_strategy not in ("mixed_video_image", "mixed_video_random"):
            return x
        rng = runtime.stream(place.seed, "mixed", place.step)
        if rng.random() >= data.mixed_image_ratio:
            return x
        only_image = data.mixed_strategy == "mixed_video_image"
        return x[:, :, : 1 if only_image else int(rng.integers(1, x.shape[2] + 1))]

    def _frame_latents(self, clip: np.ndarray) -> np.ndarray:
        encode = self.autoencoder.spatial_vae.encode
        key = hashlib.blake2b(clip.tobytes()).digest()
        return self._latents.get(key, lambda: _Kept(encode(clip[None]).asnumpy()[0])).values


# --- the result ------------------------------------------------------------------------------------------------------


def first_clips(dataset: VideoTextDataset, count: int, batch_size: int, seed: int) -> list[np.ndarray]:
    """Batches of the first clips that can be read, always the same ones."""
    clips: list[np.ndarray] = []
    for index in range(len(dataset)):
        if len(clips) == count:
            break
        try:
            clips.append(normalise(dataset.get(index, runtime.stream(seed, "judge", index))["frames"]))
        except BadSample as error:
            logger.warning("left out: %s", error)
    return [np.stack(clips[i : i + batch_size]) for i in range(0, len(clips), batch_size)]


def set_latent_statistics(
    autoencoder: Autoencoder, dataset: VideoTextDataset, count: int, batch_size: int, seed: int
) -> None:
    """Normalises latents by their mean and standard deviation over ``count`` training clips.

    The latents are samples of the posterior, so their variance is that of the means plus the mean of the variances.
    """
    posteriors = [autoencoder.posterior(x) for x in first_clips(dataset, count, batch_size, seed)]
    if not posteriors:
        raise UserError("latent_statistics needs clips, but none could be read")
    latents, spread = (np.concatenate([part.asnumpy() for part in parts]) for parts in zip(*posteriors))
    shift = latents.mean((0, 2, 3, 4))
    scale = np.sqrt(latents.var((0, 2, 3, 4)) + np.square(spread).mean((0, 2, 3, 4)))
    autoencoder.set_statistics(shift, scale)
    logger.info("latents of %d clips: shift %s, scale %s", len(latents), shift.round(3), scale.round(3))


def judge(config: TrainVaeConfig, autoencoder: Autoencoder, rows: Sequence[VideoRow]) -> dict[str, float]:
    """Logs and returns mean absolute error and PSNR of clips: of the held-out ones, or of training clips without."""
    held_out = config.data.held_out
    dataset = make_dataset(config.data, (rows[len(rows) - held_out :] if held_out else rows)[:JUDGED])
    vae = autoencoder.spatial_vae if config.model.vae_2d_only else autoencoder
    errors: list[np.ndarray] = []
    for x in first_clips(dataset, JUDGED, config.train.batch_size, 0):
        reconstruction = np.clip(vae.decode(vae.encode(x), x.shape[2]).asnumpy(), -1, 1)
        errors += list(reconstruction - x)
    scores = {
        "l1": float(np.mean([np.abs(error).mean() for error in errors])),
        "psnr": float(np.mean([10 * np.log10(4 / max(np.square(error).mean(), 1e-12)) for error in errors])),
    }
    kind = "held-out" if held_out else "training"
    logger.info("%d %s clips: l1 %.4f, psnr %.2f dB", len(errors), kind, scores["l1"], scores["psnr"])
    return scores
