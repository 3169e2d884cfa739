"""What the planner knows of devices: the only numbers of its model that were measured, each with what it stands for.

The rates were chosen once so that the published times of Open-Sora on Atlas 800T A2 come out (docs/planning.md has the
table); they are what a training reaches, not what a data sheet promises.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One card and its links."""

    rate_per_width: float
    """FLOP/s of a denoiser, per channel of its hidden size: wider matrices use more of a card"""
    autoencoder_rate: float
    """FLOP/s of an encoder's convolutions"""
    link_bytes: float
    """bytes per second that a card sends to the others in collectives"""
    activation_bytes: int
    """bytes of a number of the activations in the precision of products, if that is bf16 or fp16"""
    recompute_keeps: float
    """of what a block keeps, the share that is still alive at the peak if the block is computed again"""
    reserved_bytes: float
    """what the framework and its buffers take of a card's memory before anything is loaded"""


ASCEND_A2 = Device(
    rate_per_width=48e9,
    autoencoder_rate=100e12,
    link_bytes=150e9,
    activation_bytes=2,
    recompute_keeps=0.0,
    reserved_bytes=3e9,
)
"""Atlas 800T A2, bf16 or fp16, graph mode."""

CPU = Device(
    rate_per_width=1e8,
    autoencoder_rate=30e9,
    link_bytes=1e9,
    activation_bytes=4,
    recompute_keeps=1.16,
    reserved_bytes=0.5e9,
)
"""One core of a processor with AVX2, float32. Computing blocks again saved little or no memory in what was measured."""

DEVICES = {"ascend": ASCEND_A2, "cpu": CPU}
