"""Trains a denoiser on videos and captions, or on their caches."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindone import runtime
from mindone.checkpoint import read_tensors
from mindone.data.errors import BadSample
from mindone.data.loader import Batch
from mindone.data.table import VideoRow, read_video_table
from mindone.data.write import to_uint8, write_contact_sheet
from mindone.diffusion.rectified_flow import RectifiedFlow
from mindone.errors import UserError
from mindone.train.loop import Every, Place
from mindone.train.step import TrainStep
from mindone.train.tracker import Trackers
from opensora.config import TrainConfig
from opensora.data.cache import cache_path, latent_folders, read_text
from opensora.data.dataset import DEFAULT_FPS, LatentTextDataset, Memory, VideoTextDataset
from opensora.data.masks import MaskGenerator
from opensora.families import Family, PromptRules, VideoSize, get_family
from opensora.model_folder import require_path
from opensora.models.denoiser_loss import DenoiserLoss
from opensora.models.pretrained import find_image_model, initialize_from_image_model
from opensora.pipelines import outputs, training
from opensora.pipelines.sampler import Sampler, initial_noise
from opensora.pipelines.start import start

logger = logging.getLogger(__name__)

# Captions of the training data that are sampled if no prompts are given, and the sampled videos' own seed.
SAMPLED_CAPTIONS = 4
SAMPLE_SEED = 0
TEXT_MEMORY = 1 << 30


@dataclass(frozen=True)
class Setting:
    """What is trained on what: the family, the network's config, the autoencoder and the size of the videos.

    The autoencoder has its weights if videos are encoded or decoded, and only knows its sizes and scale otherwise.
    """

    config: Any
    family: Family
    denoiser_config: Any
    autoencoder: Any
    flow: RectifiedFlow
    size: VideoSize
    latent_shape: tuple[int, int, int, int]
    rows: list[VideoRow]


def train(config: TrainConfig) -> Path:
    """Trains a denoiser and returns its model folder.

    Raises:
        UserError: what in the configuration cannot work; found before training where possible.
        SystemExit: a signal ended the run early; its state is saved.
    """
    start(config)
    setting = make_setting(config)
    with training.open_run(config) as run:
        return _train(setting, run)


def _train(setting: Setting, run: training.Run) -> Path:
    denoiser = build_denoiser(setting, run.seed)
    dataset = make_dataset(setting)
    loader = training.make_loader(setting.config, run, dataset)
    texts = Texts(setting)

    def make_hooks(step: TrainStep, trackers: Trackers) -> list[Every]:
        if not setting.config.sample_every:
            return []
        samples = Samples(setting, denoiser, step, texts, trackers, run.folder, _frame_rate(dataset))
        return [Every(setting.config.sample_every, samples)]

    checkpoints = training.train(
        run,
        denoiser,
        DenoiserLoss(denoiser, setting.flow.config.num_timesteps),
        loader,
        Preparation(setting, texts),
        lambda: dataclasses.asdict(setting.denoiser_config),
        make_hooks=make_hooks,
    )
    folder = checkpoints.export()
    logger.info("the denoiser is in %s", folder)
    return folder


# --- what is trained on what -----------------------------------------------------------------------------------------


def make_setting(config: TrainConfig) -> Setting:
    """Checks the configuration and finds out all sizes."""
    family = get_family(config.model_version)
    if config.model_name:
        family = dataclasses.replace(family, denoiser_preset=config.model_name)
    autoencoder = _autoencoder(config, family)
    size = family.video_size(
        config.num_frames, config.image_size, config.resolution, config.aspect_ratio, autoencoder.spatial_compression
    )
    overrides = {
        **config.denoiser,
        "model_max_length": config.model_max_length or config.denoiser.get("model_max_length"),
        "freeze_y_embedder": config.freeze_y_embedder,
    }
    denoiser_config = family.denoiser_config(config.pretrained_model_path, overrides)
    if not config.text_embed_folder:
        require_path(config.t5_model_name_or_path, "text embeddings", "text_embed_folder or --t5_model_name_or_path")
    flow = family.flow(sample_method=config.sample_method, use_timestep_transform=config.use_timestep_transform)
    latent_shape = (autoencoder.latent_channels, *autoencoder.latent_size(size))
    if latent_shape[0] != denoiser_config.in_channels:
        raise UserError(
            f"the autoencoder has {latent_shape[0]} latent channels, the denoiser in_channels="
            f"{denoiser_config.in_channels}; they have to be equal"
        )
    return Setting(config, family, denoiser_config, autoencoder, flow, size, latent_shape, _rows(config))


def _autoencoder(config: TrainConfig, family: Family) -> Any:
    if not config.vae_latent_folder or config.sample_every:
        return family.load_autoencoder(
            config.vae_checkpoint, config.vae_dtype, config.vae_micro_batch_size, config.vae_micro_frame_size
        )
    if not config.vae_checkpoint:
        logger.warning("vae_checkpoint is not set: the cached latents are scaled as published")
        return family.autoencoder_skeleton()
    source = require_path(config.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint")
    autoencoder = family.autoencoder_skeleton(source)
    tensors = read_tensors(source)
    for name, parameter in autoencoder.parameters_and_names():
        if name in ("shift", "scale") and name in tensors:
            parameter.set_data(Tensor(np.asarray(tensors[name], np.float32).reshape(parameter.shape)))
    return autoencoder


def _rows(config: TrainConfig) -> list[VideoRow]:
    rows = read_video_table(config.csv_path, config.video_folder, config.video_column, config.caption_column)
    if not config.filter_data:
        return rows
    return training.existing_rows(rows, lambda row: _files(config, row), config.csv_path)


def _files(config: TrainConfig, row: VideoRow) -> list[Path]:
    """What a sample is made of; of latents in several sizes the first is enough."""
    files = [row.file]
    if config.vae_latent_folder:
        candidates = [cache_path(folder, row.relative) for folder in latent_folders(config.vae_latent_folder)]
        files = [next((path for path in candidates if path.is_file()), candidates[0])]
    return files + ([cache_path(config.text_embed_folder, row.relative)] if config.text_embed_folder else [])


def build_denoiser(setting: Setting, seed: int) -> Any:
    """The denoiser: with the weights to start from, or fresh ones that depend on ``seed``.

    Of an image model (PixArt, DiT) it takes what it has in common with it; the rest is fresh.
    """
    config, family, path = setting.config, setting.family, setting.config.pretrained_model_path
    recompute = (config.num_recompute_blocks or True) if config.use_recompute else False
    source = require_path(path, "the denoiser's weights", "pretrained_model_path") if path else None
    image_model = find_image_model(read_tensors(source)) if source else None
    if source and not image_model:
        overrides = dataclasses.asdict(setting.denoiser_config)
        return family.load_denoiser(
            path, overrides, config.dtype, recompute, option="pretrained_model_path", trained=True
        )
    denoiser = family.build_denoiser(setting.denoiser_config, config.dtype, recompute)
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


def make_dataset(setting: Setting) -> LatentTextDataset | VideoTextDataset:
    """Cached latents if there are any, else videos."""
    config, (frames, height, width) = setting.config, setting.size
    cache_bytes = training.cache_bytes(config)
    if config.vae_latent_folder:
        return LatentTextDataset(
            setting.rows,
            config.vae_latent_folder,
            config.text_embed_folder,
            latent_frames=setting.latent_shape[1],
            latent_align=_latents_per_chunk(setting.autoencoder),
            spatial_compression=setting.autoencoder.spatial_compression,
            cache_bytes=cache_bytes,
        )
    return VideoTextDataset(
        setting.rows,
        frames,
        (height, width),
        config.frame_stride,
        config.text_embed_folder,
        flip=not config.disable_flip,
        backend=config.video_backend,
        cache_bytes=cache_bytes,
    )


def _latents_per_chunk(autoencoder: Any) -> int:
    """Latent frames of a chunk that is encoded on its own."""
    chunk = getattr(autoencoder.config, "micro_frame_size", None)
    return autoencoder.latent_size((chunk, 0, 0))[0] if chunk else 1


# --- batches ---------------------------------------------------------------------------------------------------------


class _Kept:
    """A caption's embedding and mask, for `Memory`."""

    def __init__(self, embedding: np.ndarray, mask: np.ndarray):
        self.embedding, self.mask, self.nbytes = embedding, mask, embedding.nbytes + mask.nbytes


class Texts:
    """Embeddings as the denoiser takes them: (B, L, D) float32 and (B, L) int32, L its number of tokens."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.length, self.dim = setting.denoiser_config.model_max_length, setting.denoiser_config.caption_channels
        self._encoder: Any = None
        self._memory = Memory(TEXT_MEMORY)

    def of_batch(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Of cached embeddings if the batch has them, else of its captions."""
        if "text_emb" in batch:
            return self.fitted(batch["text_emb"], batch["text_mask"])
        return self.of_captions(batch["caption"])

    def of_captions(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes captions; those that came before are remembered."""
        kept = [self._memory.get(caption, lambda caption=caption: self._encode(caption)) for caption in captions]
        return self.fitted(np.stack([each.embedding for each in kept]), np.stack([each.mask for each in kept]))

    def of_rows(self, count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The first different captions of the data with their embeddings."""
        rows = list({row.caption: row for row in reversed(self.setting.rows)}.values())[::-1][:count]
        captions, folder = [row.caption for row in rows], self.setting.config.text_embed_folder
        if not folder:
            return captions, *self.of_captions(captions)
        entries = [read_text(cache_path(folder, row.relative)) for row in rows]
        fitted = [self.fitted(entry.text_emb[None], entry.mask[None]) for entry in entries]
        return captions, *(np.concatenate(parts) for parts in zip(*fitted))

    def fitted(self, embeddings: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Padded or cut to the denoiser's number of tokens.

        Raises:
            UserError: another width than the denoiser's, or more valid tokens than it takes.
        """
        if embeddings.shape[2] != self.dim:
            raise UserError(
                f"the text embeddings have width {embeddings.shape[2]}, but the denoiser takes caption_channels="
                f"{self.dim}; use the text encoder that belongs to it"
            )
        if mask[:, self.length :].any():
            raise UserError(
                f"the text embeddings have up to {int(mask.sum(1).max())} tokens, but the denoiser takes "
                f"model_max_length={self.length}; encode the captions with that length"
            )
        missing = max(0, self.length - mask.shape[1])
        embeddings = np.pad(embeddings[:, : self.length], ((0, 0), (0, missing), (0, 0)))
        return embeddings, np.pad(mask[:, : self.length], ((0, 0), (0, missing))).astype(np.int32)

    def _encode(self, caption: str) -> _Kept:
        config, family = self.setting.config, self.setting.family
        if self._encoder is None:
            self._encoder = family.load_text_encoder(
                config.t5_model_name_or_path, self.length, config.t5_dtype, expected_dim=self.dim
            )
        found = self._encoder.encode([family.prepare_prompt(caption, PromptRules())])
        return _Kept(found.embeddings[0], found.mask[0])


class Preparation:
    """Makes the inputs of `DenoiserLoss` from a batch. Every random number belongs to one sample's place."""

    def __init__(self, setting: Setting, texts: Texts):
        self.setting, self.texts = setting, texts
        self._masks = MaskGenerator(setting.config.mask_ratios) if setting.config.mask_ratios else None

    def __call__(self, batch: Batch, place: Place) -> tuple[Tensor | None, ...]:
        latents = self._latents(batch, place)
        text, text_mask = self.texts.of_batch(batch)
        t = self.setting.flow.draw_timesteps(
            place.streams("timestep"), batch["height"], batch["width"], batch["num_frames"]
        )
        conditions = [Tensor(batch[name], ms.float32) for name in ("fps", "height", "width")]
        return (
            latents,
            Tensor(place.normal("noise", latents.shape[1:])),
            Tensor(t),
            Tensor(text[:, None]),
            Tensor(text_mask),
            Tensor(self._dropped(place)),
            self._frames_mask(latents.shape[2], place),
            *conditions,
        )

    def _latents(self, batch: Batch, place: Place) -> Tensor:
        """A sample of the posterior, normalised."""
        autoencoder = self.setting.autoencoder
        if "video" in batch:
            mean, std = (part.asnumpy() for part in autoencoder.posterior(batch["video"]))
        else:
            mean, std = batch["latent_mean"], batch["latent_std"]
        if mean.shape[1:] != self.setting.latent_shape:
            raise UserError(
                f"the cached latents have shape {mean.shape[1:]}, but a video of the given size has "
                f"{self.setting.latent_shape}; cache them again with the same image_size and num_frames"
            )
        return autoencoder.normalize(Tensor(mean + std * place.normal("posterior", mean.shape[1:])))

    def _dropped(self, place: Place) -> np.ndarray:
        share = self.setting.denoiser_config.class_dropout_prob
        return np.array([stream.random() < share for stream in place.streams("caption_dropout")], np.int32)

    def _frames_mask(self, frames: int, place: Place) -> Tensor | None:
        if self._masks is None:
            return None
        return Tensor(np.stack([self._masks(frames, stream) for stream in place.streams("frames_mask")]))


# --- samples ---------------------------------------------------------------------------------------------------------


def _frame_rate(dataset: LatentTextDataset | VideoTextDataset) -> float:
    """Frames per second of the first sample that can be read."""
    for index in range(len(dataset)):
        try:
            return float(dataset.get(index, runtime.stream(SAMPLE_SEED, "sample"))["fps"])
        except BadSample:
            continue
    return DEFAULT_FPS


class Samples:
    """Samples videos with the averaged weights, or the trained ones without an average, into ``samples/step-...``."""

    def __init__(
        self,
        setting: Setting,
        denoiser: Any,
        step: TrainStep,
        texts: Texts,
        trackers: Trackers,
        folder: Path,
        fps: float,
    ):
        self.setting, self.step, self.trackers, self.folder = setting, step, trackers, folder
        self._texts, self._denoiser, self._fps = texts, denoiser, fps
        self._sampler: Sampler | None = None

    def __call__(self, step: int) -> None:
        if not runtime.current().is_main:
            return
        if self._sampler is None:
            self._prepare()
        if self.step.ema:
            with self.step.ema.applied():
                latents = self._sample()
        else:
            latents = self._sample()
        self._write(step, latents)

    def _prepare(self) -> None:
        prompts = self.setting.config.sample_prompts
        if prompts:
            self._prompts, self._text = list(prompts), self._texts.of_captions(prompts)
        else:
            self._prompts, *self._text = self._texts.of_rows(SAMPLED_CAPTIONS)
        setting = self.setting
        self._sampler = Sampler(setting.family, self._denoiser, setting.flow, setting.size, self._fps)

    def _sample(self) -> np.ndarray:
        noise = initial_noise(range(SAMPLE_SEED, SAMPLE_SEED + len(self._prompts)), self.setting.latent_shape)
        *_, latents = self._sampler.steps(noise, *self._text)
        return latents

    def _write(self, step: int, latents: np.ndarray) -> None:
        folder = self.folder / "samples" / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        clips = []
        for number, z in enumerate(latents):
            video = self.setting.autoencoder.decode(z[None], self.setting.size[0]).asnumpy()[0]
            clips.append(to_uint8(video))
            outputs.write_clip(folder, f"{number:03d}", clips[-1], "mp4", self._fps)
        sheet = write_contact_sheet(folder / "contact_sheet.png", clips, self._prompts)
        self.trackers.picture(step, "samples", sheet)
