"""``opensora evaluate loss``: the validation loss of checkpoints, by size and at equidistant timesteps.

It is that of `opensora.training.validation`: every checkpoint sees the same samples, timesteps and noise, so that
differences between them are those of their weights.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mindone.checkpoint import load_into, read_tensors
from mindone.errors import UserError
from opensora import outputs
from opensora.config.evaluate import EvaluateLossConfig
from opensora.model_folder import require_path
from opensora.sequence import shared_by, shared_mesh
from opensora.start import start
from opensora.training.denoiser import make_denoiser, make_inputs, make_setting, make_validation_loss
from opensora.training.validation import mean_losses, validation_settings

logger = logging.getLogger(__name__)


class SizeLoss(NamedTuple):
    """Of a size: how many samples there are, and their mean loss at each timestep (n,)."""

    samples: int
    losses: np.ndarray


Losses = dict[str, dict[str, SizeLoss]]
"""By checkpoint and size."""


def loss(config: EvaluateLossConfig) -> Losses:
    """Prints the losses, writes them if asked to, and returns them.

    Raises:
        UserError: a checkpoint cannot be loaded, or no sample can be used.
    """
    start(config.runtime)
    sources = [require_path(path, "the denoiser's weights", "checkpoints") for path in config.checkpoints]
    if len(set(sources)) < len(sources):
        raise UserError("a checkpoint is given more than once; name each of them once as --checkpoints A B ...")
    mesh = shared_mesh(config.parallel)
    # no decoded samples: nothing is trained
    quiet = replace(config, samples=replace(config.samples, sample_every=0))
    if config.validation.val_csv_path:
        quiet = validation_settings(quiet)
    own = replace(quiet, data=replace(quiet.data, disable_flip=True))
    setting = make_setting(replace(own, model=replace(own.model, pretrained_model_path=str(sources[0]))), mesh)
    denoiser = make_denoiser(setting, 0, shared_by(config.parallel, setting.denoiser_config, mesh))
    loss_of, batches = make_validation_loss(setting, denoiser, make_inputs(setting))
    found: Losses = {}
    for number, source in enumerate(sources):
        if number:
            load_into(denoiser, read_tensors(source))
        sizes = mean_losses(loss_of, batches, mesh)
        found[str(config.checkpoints[number])] = {name: SizeLoss(*each) for name, each in sizes.items()}
    if mesh.is_main:
        print("\n".join(lines(found, loss_of.points)))
        if config.output:
            outputs.write_json(config.output, as_json(found, loss_of.points))
    return found


def lines(found: Losses, points: np.ndarray) -> Iterator[str]:
    """The report: a line for each checkpoint and size, with the mean over the timesteps and the loss at each."""
    yield "  ".join(["checkpoint", "size", "samples", "loss", *(f"at {point:.3f}" for point in points)])
    for checkpoint, sizes in found.items():
        for name, each in sizes.items():
            numbers = (f"{value:.5f}" for value in (each.losses.mean(), *each.losses))
            yield "  ".join([checkpoint, name, str(each.samples), *numbers])


def as_json(found: Losses, points: np.ndarray) -> Mapping[str, object]:
    """The losses as they are written."""
    return {
        "timesteps": points.tolist(),
        "checkpoints": {
            checkpoint: {
                name: {"samples": each.samples, "loss": float(each.losses.mean()), "losses": each.losses.tolist()}
                for name, each in sizes.items()
            }
            for checkpoint, sizes in found.items()
        },
    }
