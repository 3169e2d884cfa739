"""What a training needs of a card's memory: weights, gradients, optimizer, and what the backward pass keeps.

Activations are counted in numbers of the hidden width per token and block. What a block keeps for its backward pass
was counted from its operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opensora.costs.device import Device
from opensora.costs.work import MicroBatch, Network

if TYPE_CHECKING:
    from opensora.config.train import Optim

FLOAT = 4
# Arrays of a weight's size that an optimizer keeps; the rest of `Optimizer` are names of AdamW.
OPTIMIZER_ARRAYS: Mapping[str, float] = {"sgd": 0, "momentum": 1, "lion": 1, "came": 1}
ADAM_ARRAYS = 2
# Feature maps of full resolution that are alive in the first level of an encoder, and their channels.
ENCODER_MAPS = 3
ENCODER_CHANNELS = 128


@dataclass(frozen=True)
class Sharding:
    """Among how many ranks what is split: ZeRO stages over all ranks, tokens over those of a sequence."""

    ranks: int = 1
    stage: int = 0
    sequence: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes of one card at the peak of an update."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    encoder: float
    reserved: float

    @property
    def states(self) -> float:
        return self.weights + self.gradients + self.optimizer

    @property
    def peak(self) -> float:
        """The encoder is done before the denoiser begins."""
        return self.reserved + self.states + max(self.activations, self.encoder)


def training_memory(
    network: Network,
    batch: MicroBatch,
    recomputed: float,
    optim: Optim,
    device: Device,
    sharding: Sharding,
    encoder: float = 0.0,
    half: bool = True,
) -> Memory:
    """The peak of an update.

    Args:
        recomputed: share of the blocks that keep their inputs only.
        encoder: bytes of the autoencoder and what it works on, see `encoder_bytes`.
        half: products run in bf16 or fp16; weights, gradients and optimizer are float32 all the same.
    """
    width = device.activation_bytes if half else FLOAT
    split = {name: sharding.ranks if sharding.stage >= stage else 1 for stage, name in enumerate("OGW", 1)}
    # Products run on a copy of the weights where their precision is another one.
    copies = width if width < FLOAT else 0
    weights = network.parameters * (FLOAT + copies) / split["W"]
    if split["W"] > 1:
        # The block at work has its weights whole, and so has the one that is fetched meanwhile.
        weights += 2 * network.parameters / network.config.num_blocks * FLOAT
    arrays = OPTIMIZER_ARRAYS.get(optim.optim, ADAM_ARRAYS) + bool(optim.use_ema)
    accumulated = 2 if optim.gradient_accumulation_steps > 1 else 1
    return Memory(
        weights,
        accumulated * network.trained * FLOAT / split["G"],
        arrays * network.trained * FLOAT / split["O"],
        activation_bytes(network, batch, recomputed, width, device) / sharding.sequence,
        encoder,
        device.reserved_bytes,
    )


def activation_bytes(network: Network, batch: MicroBatch, recomputed: float, width: int, device: Device) -> float:
    """What the backward pass needs: all that blocks keep, or their inputs and one block's worth at a time."""
    config = network.config
    numbers = batch.samples * config.block_tokens(batch.latent_size, batch.text_tokens) * config.hidden_size
    kept, blocks = config.kept_tensors, config.num_blocks
    whole = (1 - recomputed) * blocks * kept
    again = recomputed * blocks * (1 + device.recompute_keeps * kept)
    # What the block at work has beside that: gradients, and what it computes again.
    at_work = kept * (1.5 if recomputed and not device.recompute_keeps else 0.5)
    return numbers * (whole + again + at_work) * width


def encoder_bytes(parameters: int, frames_at_once: int, height: int, width: int, number_bytes: int) -> float:
    """The autoencoder's weights and its largest feature maps."""
    maps = frames_at_once * height * width * ENCODER_CHANNELS * ENCODER_MAPS
    return (parameters + maps) * number_bytes
