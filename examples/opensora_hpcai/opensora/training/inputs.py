"""From a batch of clips or caches to the inputs of a denoiser's loss: latents, text, masks.

Every random number belongs to one sample's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from mindone.data.loader import Batch, Sample, collate
from mindone.data.table import VideoRow
from mindone.data.transforms import normalise
from mindone.errors import UserError
from mindone.train.loop import Place
from opensora.conditions.visual import End, Given, draw_kinds, encoded, training_condition
from opensora.data.cache import cache_path
from opensora.data.dataset import Memory
from opensora.data.masks import MaskGenerator
from opensora.families.base import LatentBatch, Objective
from opensora.families.packed import Packing
from opensora.models.autoencoder import Autoencoder
from opensora.text.conditioner import Arrays, Conditioner, stacked

TEXT_MEMORY = 1 << 30


# What of a sample has its own size.
PIXELS = ("frames", "latent_mean", "latent_std")
# What every network may be told of a sample.
KNOWN = ("fps", "num_frames", "height", "width")


def _with_video(arrays: dict[str, Any]) -> dict[str, Any]:
    """A batch's arrays with ``video`` (B, 3, T, H, W), normalised, if they have frames."""
    return {**arrays, "video": normalise(arrays["frames"])} if "frames" in arrays else arrays


def _size_of(sample: Sample) -> tuple[int, int, int]:
    """Frames, height and width in pixels."""
    return int(sample["num_frames"]), int(sample["height"]), int(sample["width"])


class _Kept:
    """A caption's arrays, for `Memory`."""

    def __init__(self, arrays: Arrays):
        self.arrays, self.nbytes = arrays, sum(values.nbytes for values in arrays.values())


class Captions:
    """The captions of a batch as what the denoiser is told; those that come again are encoded once.

    Args:
        prepare: a caption → the text that is encoded.
    """

    def __init__(self, conditioner: Conditioner, prepare: Callable[[str], str]):
        self.conditioner, self.prepare = conditioner, prepare
        self._memory = Memory(TEXT_MEMORY)

    def of_batch(self, arrays: Mapping[str, Any]) -> Arrays:
        """Of cached embeddings if the batch has them, else of its captions."""
        if "text_emb" in arrays:
            names = {"text_emb": "text", "text_mask": "text_mask", "pooled": "pooled"}
            return self.conditioner.fit({ours: arrays[name] for name, ours in names.items() if name in arrays})
        return self.of_captions(arrays["caption"])

    def of_captions(self, captions: Sequence[str]) -> Arrays:
        """Encodes captions."""
        return stacked(
            [self._memory.get(caption, lambda text=caption: self._encode(text)).arrays for caption in captions]
        )

    def of_rows(self, rows: Sequence[VideoRow], folder: str | Path | None) -> Arrays:
        """Of the cache files in a folder, or of the captions if there is none."""
        if not folder:
            return self.of_captions([row.caption for row in rows])
        return stacked([self.conditioner.read(cache_path(folder, row.relative)) for row in rows])

    def _encode(self, caption: str) -> _Kept:
        return _Kept(self.conditioner.fit(self.conditioner.encode([self.prepare(caption)])))


class DenoiserInputs:
    """Makes the inputs of a loss cell from a batch.

    Args:
        autoencoder: encodes videos; for cached latents it only has to know how they are normalised.
        masks: draws which frames are given; None gives none.
        conditions: weights of the kinds of conditions that a network is told (2.0); None tells it none.
        packing: makes rows of patches of latents, whose sizes may differ then.
    """

    def __init__(
        self,
        objective: Objective,
        autoencoder: Autoencoder,
        captions: Captions,
        masks: MaskGenerator | None = None,
        conditions: Mapping[str, float] | None = None,
        packing: Packing | None = None,
    ):
        self.objective, self.autoencoder, self.captions, self.masks = objective, autoencoder, captions, masks
        self.conditions, self.packing = conditions, packing

    def with_autoencoder(self, autoencoder: Autoencoder) -> DenoiserInputs:
        """The same with another autoencoder."""
        return DenoiserInputs(self.objective, autoencoder, self.captions, self.masks, self.conditions, self.packing)

    def __call__(self, batch: Batch, place: Place) -> tuple[Tensor | None, ...]:
        """The inputs.

        Raises:
            UserError: cached latents or text do not fit the size of the videos or the denoiser.
        """
        return self.objective.loss_inputs(self.latent_batch(batch, place), place)

    def latent_batch(self, batch: Batch, place: Place) -> LatentBatch:
        """What the objective makes inputs of; raises as a call does."""
        if self.packing:
            return self._rows_of_patches(batch, place)
        arrays = _with_video(batch.arrays)
        latents = self._latents(arrays, batch.size, place)
        known = {name: arrays[name] for name in KNOWN}
        masks = self._frames_masks(latents.shape[2], place)
        condition = self._condition(arrays, latents, place)
        return LatentBatch(latents, self.captions.of_batch(arrays), **known, frames_mask=masks, condition=condition)

    def _rows_of_patches(self, batch: Batch, place: Place) -> LatentBatch:
        """Every sample at a size of its own, as a row of patches."""
        latents, packed = [], []
        for sample, position in zip(batch.samples, place.positions):
            size = _size_of(sample)
            own = self._latents(_with_video(collate([sample])), size, replace(place, positions=[position])).asnumpy()
            latents.append(self.packing.pack(own))
            packed.append(self.packing.conditions(own.shape, *size[1:], batch=1))
        rest = [{name: value for name, value in sample.items() if name not in PIXELS} for sample in batch.samples]
        arrays, rows = collate(rest), Tensor(np.concatenate(latents))
        return LatentBatch(
            rows,
            self.captions.of_batch(arrays),
            **{name: arrays[name] for name in KNOWN},
            frames_mask=self._frames_masks(rows.shape[2], place),
            packed={name: np.concatenate([each[name] for each in packed]) for name in packed[0]},
        )

    def _latents(self, arrays: Mapping[str, Any], size: tuple[int, int, int], place: Place) -> Tensor:
        """A sample of the posterior, normalised."""
        if "video" in arrays:
            mean, std = (part.asnumpy() for part in self.autoencoder.posterior(arrays["video"]))
        else:
            mean, std = arrays["latent_mean"], arrays["latent_std"]
        expected = (self.autoencoder.latent_channels, *self.autoencoder.latent_size(size))
        if mean.shape[1:] != expected:
            raise UserError(
                f"the cached latents have shape {mean.shape[1:]}, but a video of the given size has "
                f"{expected}; cache them again with the same image_size and num_frames"
            )
        return self.autoencoder.normalize(Tensor(mean + std * place.normal("posterior", mean.shape[1:])))

    def _frames_masks(self, frames: int, place: Place) -> np.ndarray | None:
        if self.masks is None:
            return None
        return np.stack([self.masks(frames, stream) for stream in place.streams("frames_mask")])

    def _condition(self, arrays: Mapping[str, Any], latents: Tensor, place: Place) -> np.ndarray | None:
        """What each sample's kind of condition gives, encoded by itself."""
        if not self.conditions:
            return None
        kinds = draw_kinds(self.conditions, latents.shape[2], place.streams("condition"))
        x_start = latents.asnumpy()
        given = self._given(arrays, place.streams("condition_posterior"))
        return training_condition(x_start, kinds, given, causal=True)

    def _given(self, arrays: Mapping[str, Any], streams: Sequence[np.random.Generator]) -> Given:
        """A sample of the posterior of what is given, from the videos or as it was cached beside the latents."""

        def sample(row: int, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
            noise = streams[row].standard_normal(mean.shape, np.float32)
            return self.autoencoder.normalize(Tensor(mean + std * noise)).asnumpy()[0]

        def encode(row: int, pixels: np.ndarray) -> np.ndarray:
            return sample(row, *(part.asnumpy() for part in self.autoencoder.posterior(pixels)))

        def from_cache(row: int, end: End) -> np.ndarray:
            return sample(row, *(arrays[f"{end.name}_{part}"][row : row + 1] for part in ("mean", "std")))

        return encoded(arrays["video"], encode, self.autoencoder.time_compression) if "video" in arrays else from_cache
