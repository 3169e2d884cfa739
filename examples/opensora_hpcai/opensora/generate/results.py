"""What becomes of a job, and the record of what made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindone import runtime
from opensora import outputs
from opensora.generate.plan import Job, Plan
from opensora.text.conditioner import Arrays


@dataclass(frozen=True)
class Texts:
    """Prompts as the networks see them: the text that was encoded, and the conditioner's arrays, a row per prompt.

    ``negative`` are those of what is moved away from; None: a caption that the network has learned, or nothing.
    """

    prepared: list[str]
    arrays: Arrays
    negative: Arrays | None = None


@dataclass
class Result:
    """What became of a job: latents (C, T, H, W), its files (None where not asked for), seconds per stage."""

    job: Job
    latents: np.ndarray
    video: Path | None = None
    latents_file: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def record(plan: Plan, texts: Texts, result: Result) -> dict[str, Any]:
    """What made a result, for the JSON file beside it."""
    job = result.job
    return {
        "prompt": plan.prompts[job.row].text,
        "encoded_text": texts.prepared[job.row],
        "seed": job.seed,
        "video": result.video and result.video.name,
        "latents": result.latents_file and result.latents_file.name,
        "model_version": plan.family.name,
        "num_frames": plan.size[0],
        "height": plan.size[1],
        "width": plan.size[2],
        "latent_shape": plan.latent_shape,
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "device": runtime.current(),
        "versions": outputs.versions(),
        "settings": plan.config,
    }
