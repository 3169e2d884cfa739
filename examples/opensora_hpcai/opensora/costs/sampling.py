"""How long the videos of a plan take to sample and decode, by the same model of costs as a training."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from mindone import runtime
from opensora.costs.device import DEVICES, Device
from opensora.costs.step import denoiser_rate
from opensora.costs.work import MicroBatch, Network, encoder_flops, forward_flops
from opensora.generate.forecast import branches_of
from opensora.generate.plan import Job, Plan

# A decoder has three residual blocks per level where an encoder has two.
DECODER_PER_ENCODER = 1.5


def sampling_seconds(plan: Plan, jobs: Sequence[Job], device: Device, cores: int = 1) -> dict[str, float]:
    """Seconds per stage, without the compilation of graphs.

    Args:
        cores: of a processor, that work on it; 1 for an NPU.
    """
    config, request = plan.config, plan.request(jobs[0])
    network = Network(plan.denoiser_config, 0, 0)
    samples = len(jobs) * branches_of(plan, request)
    batch = MicroBatch(request.latent_shape[1:], config.text.model_max_length, samples)
    steps = config.sampler.sampling_steps * plan.loops
    work = len(jobs) * plan.loops * DECODER_PER_ENCODER * encoder_flops(plan.autoencoder, request.size)
    return {
        "denoise": steps * forward_flops(network, batch) / (cores * denoiser_rate(network, device)),
        "decode": work / (cores * device.autoencoder_rate),
    }


def own_device() -> tuple[Device, int]:
    """The device that is here, and how many of its cores work."""
    if runtime.current().device != "CPU":
        return DEVICES["ascend"], 1
    cores = len(os.sched_getaffinity(0))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return DEVICES["cpu"], min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores


def rounded(seconds: float) -> str:
    """A time to one digit that is worth something: ``about 40 s``, ``about 3 min``."""
    for limit, unit in ((7200, "h"), (120, "min")):
        if seconds >= limit:
            return f"about {seconds / (limit / 2):.2g} {unit}"
    return f"about {max(1, math.ceil(seconds))} s"
