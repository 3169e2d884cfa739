"""Videos from prompts: text, then what is given, then latents, then pixels, with one network in memory at a time."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence

from mindone.errors import UserError
from opensora.config import GenerateConfig
from opensora.families import settle
from opensora.generate.calibrate import calibrated
from opensora.generate.forecast import say_what_is_needed
from opensora.generate.latents import Clips, denoise, save_latents
from opensora.generate.loops import Film
from opensora.generate.pixels import decode, write_sheet
from opensora.generate.plan import Job, Plan, make_plan
from opensora.generate.references import Latents, encode_references
from opensora.generate.results import Result
from opensora.generate.resume import finished_before
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
    denoiser = config.denoiser
    family, config = settle(config, denoiser.model_version, denoiser.model_name, config.autoencoder.vae_type)
    whole = calibrated(make_plan(config, family))
    plan, results = finished_before(whole)
    if plan.jobs:
        say_what_is_needed(plan)
        made = make(plan, encode_texts(plan))
        if plan.writes:
            _report(plan, made, time.perf_counter() - started)
            results += made
    order = {(job.row, job.stem): place for place, job in enumerate(whole.jobs)}
    return sorted(results, key=lambda result: order[result.job.row, result.job.stem])


def make(plan: Plan, texts: Texts) -> list[Result]:
    """Clips of every loop: latents of all jobs, then their pixels, then what the next clips begin with."""
    given = encode_references(plan)
    results = {job: Result(job, None) for job in plan.jobs}
    made = list(results.values())
    films: dict[Job, Film] = {}
    begin: Latents = {}
    for loop in range(plan.loops):
        with _latents_kept_on_failure(plan, texts, made):
            denoise(Clips(plan, texts, given, begin, loop), results)
            if plan.config.output.use_vae_decode:
                begin = decode(plan, texts, made, films, loop)
    if films and plan.writes:
        write_sheet(plan, made, films)
    return made


@contextlib.contextmanager
def _latents_kept_on_failure(plan: Plan, texts: Texts, results: Sequence[Result]) -> Iterator[None]:
    """Denoising is the expensive part: if what follows fails or is stopped, its result is saved for decoding later."""
    try:
        yield
    except BaseException as error:
        undone = [r for r in results if plan.writes and r.latents is not None and not r.video and not r.latents_file]
        save_latents(plan, texts, undone)
        if not undone:
            raise
        kept = f"the latents of {len(undone)} are in {undone[0].latents_file.parent}, for infer_vae_decode.py"
        if isinstance(error, UserError):
            raise UserError(f"{error}; {kept}") from error
        logger.error("stopped; %s", kept)
        raise


def _report(plan: Plan, results: Sequence[Result], seconds: float) -> None:
    kind = ("video" if plan.config.output.use_vae_decode else "latents file") + ("s" if len(results) > 1 else "")
    seeds = "...".join(map(str, sorted({results[0].job.seed, results[-1].job.seed})))
    sums = {stage: sum(result.seconds.get(stage, 0.0) for result in results) for stage in results[0].seconds}
    spent = ", ".join(f"{stage} {value:.0f} s" for stage, value in sums.items())
    logger.info("%d %s, seed %s, in %.0f s (%s): %s", len(results), kind, seeds, seconds, spent, plan.folder)
