"""What a training of a denoiser changes and saves: all of its weights, or a low-rank adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindone.adapters import Lora, LoraConfig, add_lora
from mindone.adapters.dropout import PRIME, SeededLoss
from mindone.checkpoint import ADAPTER_LAYOUT, MODEL_LAYOUT, Layout, find_model
from mindone.checkpoint.digest import weights_digest
from mindone.data.loader import Batch
from mindone.train.checkpoints import Saved
from mindone.train.loop import Inputs, Place
from opensora.config.train import Lora as LoraSettings
from opensora.models.lora_layouts import read_adapter
from opensora.networks import shapes


@dataclass(frozen=True)
class Trained:
    """A network as it is trained and saved."""

    saved: Saved
    config: Mapping[str, Any]
    layout: Layout = MODEL_LAYOUT
    name: str = "denoiser"
    digest: str = ""
    """tells the weights that a run depends on and does not save"""

    def loss(self, cell: nn.Cell) -> nn.Cell:
        """The loss cell with what the adapter needs around it."""
        return cell

    def inputs(self, make: Inputs) -> Inputs:
        """The inputs of `loss`."""
        return make


@dataclass(frozen=True)
class TrainedLora(Trained):
    """An adapter; the denoiser stays as it is. With dropout the loss takes seeds before its own inputs."""

    saved: Lora

    def loss(self, cell: nn.Cell) -> nn.Cell:
        return cell if self.saved.seeds is None else SeededLoss(cell, self.saved.seeds)

    def inputs(self, make: Inputs) -> Inputs:
        if self.saved.seeds is None:
            return make

        def with_seeds(batch: Batch, place: Place) -> Sequence[Tensor]:
            seeds = place.streams("lora_dropout")[0].integers(0, PRIME, 2)
            return (Tensor(seeds.astype(np.int32)), *make(batch, place))

        return with_seeds


def adapt(denoiser: nn.Cell, settings: LoraSettings, base: str, seed: int) -> TrainedLora:
    """Gives the denoiser an adapter and freezes the rest.

    Args:
        base: where its weights are from.
        seed: of the adapter's first values.
    Raises:
        UserError: no linear is adapted, or an earlier adapter to start from does not fit.
    """
    rank = settings.lora_rank
    alpha = rank if settings.lora_alpha is None else settings.lora_alpha
    config = LoraConfig(rank, alpha, tuple(settings.lora_target), settings.lora_dropout, settings.use_rslora)
    names = shapes(denoiser)
    lora = add_lora(denoiser, config, seed)
    if settings.lora_checkpoint:
        lora.load(read_adapter(settings.lora_checkpoint, names, denoiser.config))
    digest = f", adapting weights {weights_digest(find_model(base))}"
    return TrainedLora(lora, lora.peft_config(str(base)), ADAPTER_LAYOUT, "adapter", digest)
