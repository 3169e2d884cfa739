"""From noise to latents: batches of jobs through the denoiser, step by step.

Legend: `B` batch, `C` latent channels, `T` latent frames, `H`/`W` latent height and width.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mindone import runtime
from mindone.folders import make_run_folder
from mindone.parallel.guidance import SharedRows
from mindone.parallel.zero import held_bytes
from opensora import networks, outputs
from opensora.conditions.given import Conditions, continued
from opensora.failures import require_finite, within_memory
from opensora.families.base import Sampler, SampleRequest, seeded_noise
from opensora.families.cached import make_step_cache
from opensora.generate.plan import Job, Plan
from opensora.generate.previews import write_preview
from opensora.generate.progress import Steps
from opensora.generate.references import Latents
from opensora.generate.results import Result, record
from opensora.generate.resume import LATENTS_FOLDER, own_stem
from opensora.generate.texts import Texts
from opensora.noise import noise_of
from opensora.sequence import shared_by

if TYPE_CHECKING:
    from mindspore import nn

logger = logging.getLogger(__name__)

# What samplers ask of a denoiser beside calling it.
ASKED = ("config", "condition_names", "takes_frames_mask", "y_embedder")


@dataclass(frozen=True)
class Clips:
    """The clip number ``loop`` of every job, and what it is made from.

    ``given`` has the latents of references, ``begin`` those that the clip begins with; it is empty in the first loop.
    """

    plan: Plan
    texts: Texts
    given: Latents = field(default_factory=dict)
    begin: Latents = field(default_factory=dict)
    loop: int = 0


def denoise(clips: Clips, results: dict[Job, Result]) -> None:
    """Latents of all jobs, batch by batch; saved at once if asked for. The denoiser is dropped afterwards."""
    plan, config = clips.plan, clips.plan.config
    denoiser = load_denoiser(plan)
    step_cache = make_step_cache(config.cache, plan.family.name)
    sampler = plan.family.sampler(denoiser, config.sampler, step_cache)
    groups = batches(plan, clips.texts)
    with Steps(sum(map(len, groups)) * sampler.num_steps, runtime.current().is_main) as progress:
        for group in groups:
            for jobs in group:
                started = time.perf_counter()
                latents = denoise_batch(clips, sampler, jobs, len(group[0]), progress)
                seconds = (time.perf_counter() - started) / len(jobs)
                for job, values in zip(jobs, latents):
                    results[job].latents = values
                    results[job].took("denoise", seconds)
                if config.output.save_latent and plan.writes:
                    save_latents(plan, clips.texts, [results[job] for job in jobs])
    if step_cache is not None:
        spent = step_cache.spent
        logger.info(
            "step cache %s: blocks computed in %.1f of %d steps, %.2f times fewer",
            *(config.cache.step_cache, spent.computed, spent.steps, spent.speed),
        )
    del denoiser, sampler, step_cache
    gc.collect()


def load_denoiser(plan: Plan) -> nn.Cell:
    """The denoiser, whose video or whose branches of guidance ranks share if the settings say so."""
    config = plan.config
    with within_memory(f"the denoiser in {config.denoiser.dtype}", "use dtype bf16 on an NPU"):
        denoiser = networks.load_denoiser(
            config.denoiser.ckpt_path,
            plan.denoiser_config,
            config.denoiser.dtype,
            allow_random=config.denoiser.allow_random_weights,
            parallel=shared_by(config.denoiser, plan.denoiser_config, plan.mesh),
            loras=config.denoiser.loras,
            mesh=plan.mesh if config.denoiser.shard_weights else None,
        )
    if config.denoiser.shard_weights:
        own, whole = held_bytes(denoiser.get_parameters())
        logger.info("weights of the denoiser on this rank: %s of %s bytes", f"{own:,}", f"{whole:,}")
    if config.denoiser.guidance_parallel:
        return SharedRows(denoiser, plan.mesh, ASKED)
    return denoiser


def batches(plan: Plan, texts: Texts) -> list[list[list[Job]]]:
    """The jobs of one size, and with or without a negative prompt, in batches; such a group has one graph."""
    groups: dict[tuple, list[Job]] = {}
    for job in plan.jobs:
        groups.setdefault((plan.size(job), texts.negatives[job.row] is None), []).append(job)
    size = plan.config.sampler.batch_size
    return [[jobs[i : i + size] for i in range(0, len(jobs), size)] for jobs in groups.values()]


def denoise_batch(
    clips: Clips, sampler: Sampler, jobs: Sequence[Job], width: int, progress: Steps
) -> Sequence[np.ndarray]:
    """Latents (C, T, H, W) of each job.

    A smaller batch is filled up to ``width`` with copies of its last job, so that it needs no graph of its own.
    """
    plan, output = clips.plan, clips.plan.config.output
    request = sample_request(clips, [*jobs, *[jobs[-1]] * (width - len(jobs))])
    size, dtype = "x".join(map(str, request.size)), plan.config.denoiser.dtype
    progress.begin()
    remedy = f"use a batch_size below {width}, fewer frames or pixels, or dtype bf16 on an NPU"
    with within_memory(f"denoising {width} videos of {size} at once", remedy):
        for number, latents in enumerate(sampler.steps(request), start=1):
            where = f"at step {number} of {sampler.num_steps} ({dtype})"
            require_finite(latents, where, "try dtype fp32 or bf16, a smaller guidance_scale, or check the weights")
            progress.tick()
            if output.preview_every and number % output.preview_every == 0:
                for job, preview in zip(jobs, latents):
                    stem = f"{job.stem}-loop{clips.loop}" if clips.loop else job.stem
                    write_preview(plan.folder / "previews", stem, number, preview)
    if request.edit_mask is not None:
        # The last step of IDDPM denoises given frames a little, but what is to be kept is kept.
        latents = np.where(request.edit_mask[:, None, :, None, None] == 0, request.noise, latents)
    return latents[: len(jobs)]


def sample_request(clips: Clips, jobs: Sequence[Job]) -> SampleRequest:
    """What a sampler is told of a batch; every random number belongs to a job's seed and loop."""
    plan, texts, loop = clips.plan, clips.texts, clips.loop
    seeds, shape = [job.seed for job in jobs], plan.request(jobs[0]).latent_shape
    suffix = f"-{loop}" if loop else ""
    fields = {"noise": noise_of([job.noise for job in jobs], shape, loop)}
    if plan.family.conditioning is not None:
        conditions = [_conditions(clips, job) for job in jobs]
        references = [[*clips.given.get(job, []), *clips.begin.get(job, [])] for job in jobs]
        fields = plan.family.conditioning.put(fields["noise"], conditions, references, loop)
    return SampleRequest(
        **fields,
        text=texts.of(jobs, loop),
        size=plan.size(jobs[0]),
        fps=plan.config.sampler.fps,
        negative=texts.negative_of(jobs),
        step_noise=seeded_noise(seeds, shape, f"step{suffix}"),
        edit_noise=seeded_noise(seeds, shape, f"edit{suffix}"),
    )


def _conditions(clips: Clips, job: Job) -> Conditions:
    wanted = clips.plan.request(job).conditions
    if job not in clips.begin:
        return wanted
    latents, reference = clips.begin[job][0].shape[1], len(clips.given.get(job, []))
    return continued(wanted, clips.loop, reference, latents, clips.plan.config.conditions.condition_frame_edit)


def save_latents(plan: Plan, texts: Texts, results: Sequence[Result]) -> None:
    """``denoised_latents/STEM.npy``, (1, C, T, H, W) float32, for decoding later."""
    folder = make_run_folder(plan.folder, LATENTS_FOLDER)
    for result in results:
        stem = own_stem(plan, result.job, folder)
        result.latents_file = folder / f"{stem}.npy"
        outputs.write_array(result.latents_file, result.latents[None])
        outputs.write_json(folder / f"{stem}.json", record(plan, texts, result))
