"""What a command line of ``opensora generate`` would need, without making anything."""

from __future__ import annotations

from typing import Any

from mindone.config import parse
from opensora.config import GenerateConfig
from opensora.costs.sampling import own_device, rounded, sampling_seconds
from opensora.families import settle
from opensora.generate.forecast import needed, size
from opensora.generate.plan import checked_plan
from opensora.start import start


def forecast_of(argv: list[str]) -> dict[str, Any]:
    """Size, memory and time of the videos, as numbers and in words.

    Raises:
        UserError: what ``opensora generate`` refuses before it loads a network.
    """
    config = parse(GenerateConfig, argv)
    start(config.runtime)
    denoiser = config.denoiser
    family, config = settle(config, denoiser.model_version, denoiser.model_name, config.autoencoder.vae_type)
    plan = checked_plan(config, family)
    stages, seconds = needed(plan), sampling_seconds(plan, plan.jobs, *own_device())
    _, height, width = plan.size(plan.jobs[0])
    peak, total = max(stage.peak_bytes for stage in stages), sum(seconds.values())
    said = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
    return {
        "size": [plan.total_frames(plan.jobs[0]), height, width],
        "seconds": seconds,
        "peak_bytes": peak,
        "text": f"{plan.total_frames(plan.jobs[0])} frames of {width}x{height}: {rounded(total)} ({said}), and the "
        f"compilation of new sizes; {size(peak)} of memory",
    }
