"""What becomes of a job, and the record of what made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindone import runtime
from opensora import outputs
from opensora.generate.plan import Job, Plan
from opensora.generate.texts import Texts, negative_text, prepared_texts


@dataclass
class Result:
    """What became of a job: its last latents (C, T, H, W), its files, seconds per stage.

    Files are None where they are not asked for; the latents are None if the video was finished before this run.
    """

    job: Job
    latents: np.ndarray | None
    video: Path | None = None
    latents_file: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def took(self, stage: str, seconds: float) -> None:
        """Adds to the time of a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


# Settings that say which ranks work on a video, and do not change it.
SHARING = (
    "enable_sequence_parallelism",
    "sequence_parallel_shards",
    "sequence_parallel_method",
    "dsp",
    "guidance_parallel",
    "shard_weights",
)

# Settings of the sampler that say which videos are made, and how many at once, not how.
OF_THE_RUN = ("num_samples", "batch_size", "initial_noise")

# Settings that find a threshold; what they found is in the settings as well.
CALIBRATION = ("max_lpips", "lpips_checkpoint", "lpips_random")


def made_from(plan: Plan, job: Job) -> dict[str, Any]:
    """Whatever changes a video: two runs in which it is the same make the same video."""
    config, request = plan.config, plan.request(job)
    references = [
        {"path": str(path), "bytes": Path(path).stat().st_size, "changed": Path(path).stat().st_mtime_ns}
        for path in dict.fromkeys(reference.path for reference in request.conditions.references)
    ]
    return outputs.plain(
        {
            "texts": prepared_texts(plan, request),
            "negative": negative_text(plan, request),
            "text_embedding": request.cache,
            "negative_embed_folder": config.prompts.negative_embed_folder,
            "seed": job.seed,
            **({"mixed": job.mixed} if job.mixed else {}),
            "size": request.size,
            "references": references,
            "conditions": {
                "groups": [str(group) for group in request.conditions.groups],
                "kind": request.conditions.kind,
                "loop": plan.loops,
                "condition_frame_length": plan.clip_frames if plan.loops > 1 else None,
                "condition_frame_edit": config.conditions.condition_frame_edit if plan.loops > 1 else None,
                **({"reuse_latents": True} if config.conditions.reuse_latents and plan.loops > 1 else {}),
                **({"picture_as_clip": True} if config.conditions.picture_as_clip else {}),
                **({} if config.conditions.paste_tail else {"paste_tail": False}),
            },
            "model_version": plan.family.name,
            "weights": plan.weights,
            "denoiser": without(vars(config.denoiser), *SHARING),
            "autoencoder": config.autoencoder,
            "text": config.text,
            "sampler": without(vars(config.sampler), *OF_THE_RUN),
            **({} if config.cache.step_cache == "none" else {"cache": without(vars(config.cache), *CALIBRATION)}),
            "save_format": config.output.save_format if config.output.use_vae_decode else "npy",
        }
    )


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """The others of some settings."""
    return {name: value for name, value in values.items() if name not in names}


def record(plan: Plan, texts: Texts, result: Result, finished: bool = True) -> dict[str, Any]:
    """What made a result, for the JSON file beside it."""
    job = result.job
    request = plan.request(job)
    encoded = texts.encoded_for(job)
    negative = texts.negatives[job.row]
    return {
        "prompt": request.text,
        "encoded_text": encoded[0] if len(encoded) == 1 else encoded,
        "negative": None if negative is None else texts.encoded[negative],
        "seed": job.seed,
        "initial_noise": str(job.noise) if job.mixed else None,
        "references": [reference.path for reference in request.conditions.references],
        "task": request.asked.task,
        "mask_strategy": ";".join(map(str, request.conditions.groups)) or None,
        "video": result.video and result.video.name,
        "latents": result.latents_file and result.latents_file.name,
        "finished": finished,
        "model_version": plan.family.name,
        "num_frames": plan.total_frames(job) if result.video else request.size[0],
        "height": request.size[1],
        "width": request.size[2],
        "latent_shape": request.latent_shape,
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "device": runtime.current(),
        "versions": outputs.versions(),
        "made_from": made_from(plan, job),
        "settings": plan.config,
    }
