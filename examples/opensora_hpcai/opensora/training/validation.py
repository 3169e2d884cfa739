"""The loss on videos that are not trained on: at equidistant timesteps, with the same noise every time, per size.

As published for Open-Sora 1.2: ``timesteps = linspace(0, 1, n + 2)`` without both ends, as they are, with no shift by
size; per timestep the mean over all samples, and of these the mean.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mindspore import nn

from mindone import runtime
from mindone.data.errors import BadSample
from mindone.data.loader import Batch, Dataset
from mindone.data.plan import make_draw, size_name
from mindone.errors import UserError
from mindone.parallel.collectives import sum_over_ranks
from mindone.parallel.mesh import Mesh
from mindone.train.ema import Ema
from mindone.train.loop import Place
from mindone.train.tracker import VALIDATION_LOG, Trackers, lines_until
from opensora.config.train import TrainConfig
from opensora.data.dataset import Memory
from opensora.families.base import LatentBatch, Objective
from opensora.sizes import VideoSize
from opensora.training.inputs import DenoiserInputs
from opensora.training.planning import Buckets

logger = logging.getLogger(__name__)

# Of all that is drawn: noise, posterior, masks. Not the run's seed, so that runs can be compared.
SEED = 0
# Memory for encoded samples, which come again in every validation.
MEMORY = 2 << 30


@dataclass(frozen=True)
class SizedBatch:
    """Samples of one size, by their numbers in the data set; None: each has its own."""

    size: VideoSize | None
    indices: tuple[int, ...]


def validation_settings(config: TrainConfig) -> TrainConfig:
    """The settings of a training on the validation videos."""
    given = config.validation
    data = replace(
        config.data,
        csv_path=given.val_csv_path,
        video_folder=given.val_video_folder,
        text_embed_folder=given.val_text_embed_folder,
        vae_latent_folder=given.val_vae_latent_folder,
        disable_flip=True,
    )
    buckets = given.val_bucket_config or config.shape.bucket_config
    return replace(config, data=data, shape=replace(config.shape, bucket_config=buckets))


def batches_of_one_size(count: int, size: VideoSize | None, batch_size: int) -> list[SizedBatch]:
    """All samples in their order; the last batch may be smaller."""
    return list(_in_batches(range(count), size, batch_size))


def batches_of_buckets(buckets: Buckets, batch_size: int) -> list[SizedBatch]:
    """The samples of every bucket in their order.

    Raises:
        UserError: no sample falls into a bucket.
    """
    draw = make_draw(len(buckets.metadata), SEED, "validation")
    found = buckets.assign(draw)
    batches: list[SizedBatch] = []
    for number, bucket in enumerate(buckets.rules.buckets):
        batches += _in_batches(np.flatnonzero(found == number).tolist(), bucket.size, batch_size)
    if not batches:
        reasons = "; ".join(f"{len(rows)} {why}" for why, rows in buckets.reasons(draw).items())
        raise UserError(f"val_bucket_config: no validation sample falls into a bucket: {reasons}")
    return batches


def _in_batches(indices: Sequence[int], size: VideoSize | None, batch_size: int) -> Iterator[SizedBatch]:
    for start in range(0, len(indices), batch_size):
        yield SizedBatch(size, tuple(indices[start : start + batch_size]))


@dataclass(frozen=True)
class _Encoded:
    """Latents and text of a batch without its bad samples, for `Memory`; None if all are bad."""

    latents: LatentBatch | None
    indices: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.latents.latents.nbytes if self.latents else 0


class ValidationLoss:
    """The loss of a denoiser on batches of samples, at equidistant timesteps.

    Args:
        denoiser: as it is trained; dropout is off during a validation.
        inputs: makes latents and text of a batch, with the masks and conditions of training.
        timesteps: how many.
    """

    def __init__(
        self, objective: Objective, denoiser: nn.Cell, inputs: DenoiserInputs, dataset: Dataset, timesteps: int
    ):
        self.objective, self.inputs, self.dataset = objective, inputs, dataset
        self.cell = objective.loss_cell(denoiser)
        self.points = np.linspace(0, 1, timesteps + 2)[1:-1]
        self._memory = Memory(MEMORY)

    def sums(self, batch: SizedBatch) -> np.ndarray:
        """(timesteps + 1,) float32: per timestep the sum of the samples' losses; then how many samples there are."""
        encoded = self._memory.get(batch, lambda: self._encode(batch))
        latents, indices = encoded.latents, encoded.indices
        if latents is None:
            return np.zeros(len(self.points) + 1, np.float32)
        losses = [self.loss(latents, indices, number) for number in range(len(self.points))]
        return np.array([*(loss * len(indices) for loss in losses), len(indices)], np.float32)

    def loss(self, latents: LatentBatch, indices: Sequence[int], number: int) -> float:
        """The mean over the samples at timestep ``number``; the noise of a sample depends on both alone."""
        inputs = self.objective.loss_inputs(latents, Place(SEED, number + 1, indices), float(self.points[number]))
        result = self.cell(*inputs)
        return float((result[0] if isinstance(result, tuple) else result).asnumpy())

    def _encode(self, batch: SizedBatch) -> _Encoded:
        samples, indices = [], []
        for index in batch.indices:
            try:
                samples.append(self.dataset.get(index, runtime.stream(SEED, "validation", "sample", index), batch.size))
            except BadSample as error:
                logger.warning("a validation sample is left out: %s", error)
                continue
            indices.append(index)
        if not samples:
            return _Encoded(None, ())
        whole = Batch(samples, tuple(indices), tuple(indices), batch.size, 0, len(samples))
        return _Encoded(self.inputs.latent_batch(whole, Place(SEED, 0, indices)), tuple(indices))


class Validation:
    """Validates every few updates, with the averaged weights if there are any; all ranks take part.

    Numbers go to the trackers and, with the loss per timestep, into ``validation.log`` of the run.

    Args:
        batches: of all ranks; each takes every so many-th.
        resumed_at: step that the run goes on from; lines of later ones are dropped.
        together: whether weights are spread over all ranks, so that all of them have to take all batches.
    """

    def __init__(
        self,
        loss: ValidationLoss,
        batches: Sequence[SizedBatch],
        ema: Ema | None,
        folder: Path,
        trackers: Trackers,
        mesh: Mesh,
        resumed_at: int = 0,
        together: bool = False,
    ):
        self.together = together
        self.loss_of, self.batches, self.ema, self.trackers, self.mesh = loss, list(batches), ema, trackers, mesh
        self.path = folder / VALIDATION_LOG
        if mesh.is_main:
            header = ["step", "size", "samples", "loss", *(f"loss at {point:.3f}" for point in loss.points)]
            lines = lines_until(self.path, resumed_at) or ["\t".join(header) + "\n"]
            self.path.write_text("".join(lines), encoding="utf-8")

    def __call__(self, step: int) -> None:
        """Validates after ``step`` updates."""
        found = self.evaluate()
        if not self.mesh.is_main:
            return
        self.trackers.values(
            step, {f"validation loss {name}": float(losses.mean()) for name, (_, losses) in found.items()}
        )
        with open(self.path, "a", encoding="utf-8") as file:
            for name, (samples, losses) in found.items():
                numbers = (f"{value:.6g}" for value in (losses.mean(), *losses))
                file.write("\t".join([str(step), name, str(samples), *numbers]) + "\n")

    def evaluate(self) -> Mapping[str, tuple[int, np.ndarray]]:
        """By size: how many samples, and their mean loss per timestep (n,).

        Raises:
            UserError: no sample can be used.
        """
        with self.ema.applied() if self.ema else contextlib.nullcontext():
            return mean_losses(self.loss_of, self.batches, self.mesh, self.together)


def mean_losses(
    loss_of: ValidationLoss, batches: Sequence[SizedBatch], mesh: Mesh, together: bool = False
) -> dict[str, tuple[int, np.ndarray]]:
    """By size: how many samples, and their mean loss per timestep (n,).

    Each rank takes a part of the batches, or ``together`` all of them.

    Raises:
        UserError: no sample can be used.
    """
    sizes = list(dict.fromkeys(batch.size for batch in batches))
    sums = np.zeros((len(sizes), len(loss_of.points) + 1), np.float32)
    with _evaluating(loss_of.cell):
        for batch in batches if together else batches[mesh.data_index :: mesh.data]:
            sums[sizes.index(batch.size)] += loss_of.sums(batch)
    if mesh.sequence_index or (together and mesh.data_index):
        sums[:] = 0
    sums = sum_over_ranks(sums, mesh)
    if not sums[:, -1].any():
        raise UserError("none of the validation samples can be used; see the warnings above")
    return {_name(size): (int(row[-1]), row[:-1] / row[-1]) for size, row in zip(sizes, sums) if row[-1]}


def _name(size: VideoSize | None) -> str:
    return size_name(size) if size else "any size"


@contextlib.contextmanager
def _evaluating(cell: nn.Cell) -> Iterator[None]:
    """Without dropout within this context; what is compiled already stays as it is."""
    cell.set_train(False)
    try:
        yield
    finally:
        cell.set_train(True)
