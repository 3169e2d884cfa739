"""Videos from prompts: text, then what is given, then latents, then pixels, with one network in memory at a time."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np

from mindone import runtime
from mindone.errors import UserError
from opensora import networks, outputs
from opensora.conditions.given import Conditions, continued
from opensora.config import GenerateConfig
from opensora.families import settle
from opensora.families.base import Sampler, SampleRequest, initial_noise, seeded_noise
from opensora.generate.failures import require_finite, within_memory
from opensora.generate.forecast import say_what_is_needed
from opensora.generate.loops import Film
from opensora.generate.pixels import decode, write_sheet
from opensora.generate.plan import Job, Plan, make_plan
from opensora.generate.previews import write_preview
from opensora.generate.progress import Steps
from opensora.generate.references import Latents, encode_references
from opensora.generate.results import Result, record
from opensora.generate.resume import LATENTS_FOLDER, finished_before, own_stem
from opensora.generate.texts import Texts, encode_texts
from opensora.start import start

logger = logging.getLogger(__name__)


def generate(config: GenerateConfig) -> list[Result]:
    """Generates, writes and reports the videos of ``config``; returns those of this rank, in their order.

    Videos that an earlier run has finished are among them.

    Raises:
        UserError: what in the settings cannot work; found before a network is loaded where possible.
    """
    start(config.runtime)
    started = time.perf_counter()
    family, config = settle(config, config.denoiser.model_version)
    whole = make_plan(config, family)
    plan, results = finished_before(whole)
    if plan.jobs:
        say_what_is_needed(plan)
        texts = encode_texts(plan)
        made = make(plan, texts)
        _report(plan, made, time.perf_counter() - started)
        results += made
    order = {(job.row, job.stem): place for place, job in enumerate(whole.jobs)}
    return sorted(results, key=lambda result: order[result.job.row, result.job.stem])


def make(plan: Plan, texts: Texts) -> list[Result]:
    """Clips of every loop: latents of all jobs, then their pixels, then what the next clips begin with."""
    given = encode_references(plan)
    results = {job: Result(job, None) for job in plan.jobs}
    films: dict[Job, Film] = {}
    begin: Latents = {}
    for loop in range(plan.loops):
        with _latents_kept_on_failure(plan, texts, results.values()):
            denoise(plan, texts, results, given, begin, loop)
            if plan.config.output.use_vae_decode:
                begin = decode(plan, texts, list(results.values()), films, loop)
    if films:
        write_sheet(plan, list(results.values()), films)
    return list(results.values())


# --- latents ---------------------------------------------------------------------------------------------------------


def denoise(plan: Plan, texts: Texts, results: dict[Job, Result], given: Latents, begin: Latents, loop: int) -> None:
    """Latents of all jobs, batch by batch; saved at once if asked for. The denoiser is dropped afterwards.

    Args:
        given: per job, latents of its references.
        begin: per job, the latents that this clip begins with; empty in the first loop.
    """
    config = plan.config
    with within_memory(f"the denoiser in {config.denoiser.dtype}", "use dtype bf16 on an NPU"):
        denoiser = networks.load_denoiser(
            config.denoiser.ckpt_path,
            plan.denoiser_config,
            config.denoiser.dtype,
            allow_random=config.denoiser.allow_random_weights,
        )
    sampler = plan.family.sampler(denoiser, config.sampler)
    groups = batches(plan, texts)
    with Steps(sum(map(len, groups)) * sampler.num_steps, runtime.current().is_main) as progress:
        for group in groups:
            for jobs in group:
                _denoise_batch(plan, sampler, texts, jobs, len(group[0]), given, begin, loop, progress, results)
                if config.output.save_latent:
                    _save_latents(plan, texts, [results[job] for job in jobs])
    del denoiser, sampler
    gc.collect()


def batches(plan: Plan, texts: Texts) -> list[list[list[Job]]]:
    """The jobs of one size, and with or without a negative prompt, in batches; such a group has one graph."""
    groups: dict[tuple, list[Job]] = {}
    for job in plan.jobs:
        groups.setdefault((plan.size(job), texts.negatives[job.row] is None), []).append(job)
    size = plan.config.sampler.batch_size
    return [[jobs[i : i + size] for i in range(0, len(jobs), size)] for jobs in groups.values()]


def _denoise_batch(
    plan: Plan,
    sampler: Sampler,
    texts: Texts,
    jobs: Sequence[Job],
    width: int,
    given: Latents,
    begin: Latents,
    loop: int,
    progress: Steps,
    results: dict[Job, Result],
) -> None:
    """One batch, filled up with copies of its last job if it is a smaller one, so that it needs no graph of its own."""
    started = time.perf_counter()
    filled = [*jobs, *[jobs[-1]] * (width - len(jobs))]
    request = sample_request(plan, texts, filled, given, begin, loop)
    frames, height, rows = request.size
    dtype, every = plan.config.denoiser.dtype, plan.config.output.preview_every
    progress.begin()
    remedy = f"use a batch_size below {width}, fewer frames or pixels, or dtype bf16 on an NPU"
    with within_memory(f"denoising {width} videos of {frames}x{height}x{rows} at once", remedy):
        for number, latents in enumerate(sampler.steps(request), start=1):
            require_finite(
                latents,
                f"at step {number} of {sampler.num_steps} ({dtype})",
                "try dtype fp32 or bf16, a smaller guidance_scale, or check the weights",
            )
            progress.tick()
            if every and number % every == 0:
                for job, preview in zip(jobs, latents):
                    write_preview(plan.folder / "previews", _clip_stem(job, loop), number, preview)
    if request.edit_mask is not None:
        # The last step of IDDPM denoises given frames a little, but what is to be kept is kept.
        latents = np.where(request.edit_mask[:, None, :, None, None] == 0, request.noise, latents)
    seconds = (time.perf_counter() - started) / len(jobs)
    for job, values in zip(jobs, latents):
        results[job].latents = values
        results[job].seconds["denoise"] = results[job].seconds.get("denoise", 0.0) + seconds


def _clip_stem(job: Job, loop: int) -> str:
    return f"{job.stem}-loop{loop}" if loop else job.stem


def sample_request(
    plan: Plan, texts: Texts, jobs: Sequence[Job], given: Latents, begin: Latents, loop: int
) -> SampleRequest:
    """What a sampler is told of a batch; every random number belongs to a job's seed and loop."""
    seeds, shape = [job.seed for job in jobs], plan.request(jobs[0]).latent_shape
    suffix = f"-{loop}" if loop else ""
    fields = {"noise": initial_noise(seeds, shape, loop)}
    if plan.family.conditioning is not None:
        conditions = [_conditions(plan, job, given, begin, loop) for job in jobs]
        references = [[*given.get(job, []), *begin.get(job, [])] for job in jobs]
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


def _conditions(plan: Plan, job: Job, given: Latents, begin: Latents, loop: int) -> Conditions:
    wanted = plan.request(job).conditions
    if job not in begin:
        return wanted
    latents = begin[job][0].shape[1]
    return continued(wanted, loop, len(given.get(job, [])), latents, plan.config.conditions.condition_frame_edit)


def _save_latents(plan: Plan, texts: Texts, results: Sequence[Result]) -> None:
    """``denoised_latents/STEM.npy``, (1, C, T, H, W) float32, for decoding later."""
    folder = outputs.make_run_folder(plan.folder, LATENTS_FOLDER)
    for result in results:
        stem = own_stem(plan, result.job, folder)
        result.latents_file = folder / f"{stem}.npy"
        outputs.write_array(result.latents_file, result.latents[None])
        outputs.write_json(folder / f"{stem}.json", record(plan, texts, result))


@contextlib.contextmanager
def _latents_kept_on_failure(plan: Plan, texts: Texts, results: Sequence[Result]) -> Iterator[None]:
    """Denoising is the expensive part: if what follows fails or is stopped, its result is saved for decoding later."""
    try:
        yield
    except BaseException as error:
        undone = [r for r in results if r.latents is not None and not r.video and not r.latents_file]
        _save_latents(plan, texts, undone)
        if not undone:
            raise
        kept = f"the latents of {len(undone)} are in {undone[0].latents_file.parent}, for infer_vae_decode.py"
        if isinstance(error, UserError):
            raise UserError(f"{error}; {kept}") from error
        logger.error("stopped; %s", kept)
        raise


def _report(plan: Plan, results: Sequence[Result], seconds: float) -> None:
    kind = ("video" if plan.config.output.use_vae_decode else "latents file") + ("s" if len(results) > 1 else "")
    seeds = sorted({results[0].job.seed, results[-1].job.seed})
    spent = ", ".join(
        f"{name} {sum(result.seconds.get(name, 0.0) for result in results):.0f} s" for name in results[0].seconds
    )
    logger.info(
        "%d %s, seed %s, in %.0f s (%s): %s",
        len(results), kind, "...".join(map(str, seeds)), seconds, spent, plan.folder,
    )  # fmt: skip
