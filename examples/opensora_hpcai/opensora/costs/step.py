"""How long an update takes, and which way to spread it over cards fits and is the fastest.

The time of an update is that of its products at the rate a device reaches, of encoding, and of what cards send to each
other. Sending is not hidden behind work: the published times do not tell one from the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opensora.costs.device import Device
from opensora.costs.memory import FLOAT, Memory, Sharding, training_memory
from opensora.costs.work import MicroBatch, Network, forward_flops, training_flops

if TYPE_CHECKING:
    from opensora.config.train import Optim

ZERO_STAGES = (0, 1, 2, 3)
# All-to-all exchanges of a block's tokens, forward and backward, when ranks share a video.
EXCHANGES = 8


@dataclass(frozen=True)
class Job:
    """A training whatever the cards: its network, one micro batch per bucket, and how often each of them comes."""

    network: Network
    batches: Sequence[MicroBatch]
    shares: Sequence[float]
    """of all batches; their sum is 1"""
    encoders: Sequence[float]
    """bytes that encoding takes, per bucket"""
    optim: Optim
    recomputed: float
    half: bool = True


@dataclass(frozen=True)
class Spread:
    """One way to use the cards: ``data`` groups of ``sequence`` ranks each, with a ZeRO stage."""

    data: int
    sequence: int
    stage: int

    @property
    def cards(self) -> int:
        return self.data * self.sequence

    @property
    def sharding(self) -> Sharding:
        return Sharding(self.cards, self.stage, self.sequence)

    def __str__(self) -> str:
        return f"dp={self.data},sp={self.sequence},zero={self.stage}"


@dataclass(frozen=True)
class Forecast:
    """What a way to spread a job gives."""

    spread: Spread
    recomputed: float
    memory: Memory
    """of the bucket that needs most"""
    seconds: Sequence[float]
    """of an update, per bucket"""
    mean_seconds: float
    samples_per_second: float


def forward_seconds(network: Network, batch: MicroBatch, device: Device, sequence: int = 1) -> float:
    """One pass of the denoiser in sampling, its guidance included in ``batch.samples``."""
    seconds = forward_flops(network, batch) / denoiser_rate(network, device) / sequence
    return seconds + _exchange_seconds(network, batch, device, sequence, EXCHANGES / 2)


def update_seconds(
    network: Network, batch: MicroBatch, recomputed: float, device: Device, spread: Spread, micro_batches: int = 1
) -> float:
    """One update. Every rank encodes its whole video, also where ranks share one."""
    work = training_flops(network, batch, recomputed) / denoiser_rate(network, device) / spread.sequence
    encoding = batch.samples * batch.encoder_flops / device.autoencoder_rate
    exchange = _exchange_seconds(network, batch, device, spread.sequence, EXCHANGES * (1 + recomputed / 2))
    return micro_batches * (work + encoding + exchange) + _reduce_seconds(network, device, spread, micro_batches)


def denoiser_rate(network: Network, device: Device) -> float:
    """FLOP/s that a denoiser of this width reaches."""
    return device.rate_per_width * network.config.hidden_size


def _exchange_seconds(network: Network, batch: MicroBatch, device: Device, sequence: int, exchanges: float) -> float:
    if sequence == 1:
        return 0.0
    config = network.config
    numbers = batch.samples * config.block_tokens(batch.latent_size, batch.text_tokens) * config.hidden_size
    sent = numbers / sequence * (sequence - 1) / sequence * device.activation_bytes
    return exchanges * config.num_blocks * sent / device.link_bytes


def _reduce_seconds(network: Network, device: Device, spread: Spread, micro_batches: int) -> float:
    """Gradients are summed, and they or the changed weights shared out; weights that are split are fetched for both
    passes instead.
    """
    if spread.cards == 1:
        return 0.0
    part = (spread.cards - 1) / spread.cards
    summed = shared_out = part * network.trained * FLOAT
    if spread.stage == ZERO_STAGES[-1]:
        shared_out = 2 * micro_batches * part * network.parameters * device.activation_bytes
    return (summed + shared_out) / device.link_bytes


# --- the choice ------------------------------------------------------------------------------------------------------


def spreads(cards: int, heads: int) -> Iterator[Spread]:
    """All ways to use the cards; ranks that share a video are no more than there are heads of attention."""
    for sequence in range(1, min(cards, heads) + 1):
        if cards % sequence == 0:
            for stage in ZERO_STAGES if cards > 1 else (0,):
                yield Spread(cards // sequence, sequence, stage)


def forecast(job: Job, spread: Spread, recomputed: float, device: Device) -> Forecast:
    """Memory and time of one way."""
    network, micro_batches = job.network, job.optim.gradient_accumulation_steps
    memories = [
        training_memory(network, batch, recomputed, job.optim, device, spread.sharding, encoder, job.half)
        for batch, encoder in zip(job.batches, job.encoders)
    ]
    seconds = [update_seconds(network, batch, recomputed, device, spread, micro_batches) for batch in job.batches]
    mean = sum(share * each for share, each in zip(job.shares, seconds))
    samples = sum(share * batch.samples for share, batch in zip(job.shares, job.batches))
    rate = samples * micro_batches * spread.data / mean
    return Forecast(spread, recomputed, max(memories, key=lambda memory: memory.peak), seconds, mean, rate)


def forecasts(job: Job, cards: int, device: Device) -> list[Forecast]:
    """All ways, with the recipe's recomputation, without any, and with that of all blocks; the fastest first.

    Of ways that are as fast the one with the fewest splits comes first.
    """
    choices = sorted({0.0, job.recomputed, 1.0})
    heads = job.network.config.num_heads
    found = [forecast(job, spread, share, device) for spread in spreads(cards, heads) for share in choices]
    return sorted(found, key=lambda each: (-each.samples_per_second, each.spread.stage, each.recomputed))


def fits(found: Forecast, memory: float) -> bool:
    """Whether the peak stays within ``memory`` bytes of a card."""
    return found.memory.peak <= memory
