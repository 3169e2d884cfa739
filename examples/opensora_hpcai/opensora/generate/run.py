"""Videos from prompts: text, then latents, then pixels, with one network in memory at a time."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from mindone import runtime
from mindone.errors import UserError
from opensora import networks, outputs
from opensora.config import GenerateConfig
from opensora.data.cache import prompt_files
from opensora.families import settle
from opensora.families.base import PromptRules, Sampler, SampleRequest, initial_noise, seeded_noise
from opensora.generate.pixels import decode
from opensora.generate.plan import Job, Plan, make_plan
from opensora.generate.results import Result, Texts, record
from opensora.start import start
from opensora.text.conditioner import Arrays, Conditioner, picked, stacked

logger = logging.getLogger(__name__)


def generate(config: GenerateConfig) -> list[Result]:
    """Generates, writes and reports the videos of ``config``; returns those of this rank.

    Raises:
        UserError: what in the settings cannot work; found before a network is loaded where possible.
    """
    start(config.runtime)
    started = time.perf_counter()
    denoiser = config.denoiser
    family, config = settle(config, denoiser.model_version, denoiser.model_name, config.autoencoder.vae_type)
    plan = make_plan(config, family)
    if not plan.jobs:
        return []
    texts = encode_texts(plan)
    results = denoise(plan, texts)
    if config.output.use_vae_decode:
        with _latents_kept_on_failure(plan, texts, results):
            decode(plan, texts, results)
    _report(plan, results, time.perf_counter() - started)
    return results


# --- text ------------------------------------------------------------------------------------------------------------


def encode_texts(plan: Plan) -> Texts:
    """Conditioning of all prompts, from the cache or from the text encoder, which is dropped again afterwards."""
    prompts, config = plan.config.prompts, plan.config
    asked = [prompt.text for prompt in plan.prompts]
    batch_size = min(config.sampler.batch_size, len(asked))
    conditioner = plan.family.conditioner(config.text, plan.denoiser_config, batch_size)
    if prompts.text_embed_folder:
        arrays = stacked([conditioner.read(prompt.cache) for prompt in plan.prompts])
        prepared = asked
    else:
        scores = (prompts.aesthetic_score, prompts.motion_score, prompts.camera_motion)
        rules = PromptRules(*scores, prompts.caption_cleaning, config.sampler.fps if plan.size[0] > 1 else None)
        prepared = [plan.family.prepare_prompt(text, rules) for text in asked]
        arrays = conditioner.encode(prepared)
    texts = Texts(prepared, arrays, _negative(plan, conditioner))
    conditioner.release()
    return texts


def _negative(plan: Plan, conditioner: Conditioner) -> Arrays | None:
    """What a network without a learned empty caption moves away from, a row per prompt."""
    prompts, count = plan.config.prompts, len(plan.prompts)
    distilled = getattr(plan.denoiser_config, "guidance_embed", False)
    if plan.family.default_negative is None or distilled or plan.config.sampler.guidance_scale <= 1:
        return None
    if prompts.negative_embed_folder:
        rows = [conditioner.read(file) for file in prompt_files(prompts.negative_embed_folder)]
    else:
        arrays = conditioner.encode(prompts.negative_prompts or [plan.family.default_negative])
        rows = [picked(arrays, [row]) for row in range(len(next(iter(arrays.values()))))]
    if len(rows) not in (1, count):
        raise UserError(
            f"there are {len(rows)} negative prompts for {count} prompts; give one for all, or one for each"
        )
    return stacked(rows * count if len(rows) == 1 else rows)


# --- latents ---------------------------------------------------------------------------------------------------------


def denoise(plan: Plan, texts: Texts) -> list[Result]:
    """Latents of all jobs, batch by batch; saved at once if asked for. The denoiser is dropped afterwards."""
    config = plan.config
    denoiser = networks.load_denoiser(
        config.denoiser.ckpt_path,
        plan.denoiser_config,
        config.denoiser.dtype,
        allow_random=config.denoiser.allow_random_weights,
    )
    sampler = plan.family.sampler(denoiser, config.sampler)
    size = config.sampler.batch_size
    batches = [plan.jobs[i : i + size] for i in range(0, len(plan.jobs), size)]
    results = []
    main = runtime.current().is_main
    with tqdm(total=len(batches) * sampler.num_steps, desc="denoise", disable=not main) as bar:
        for jobs in batches:
            done = _denoise_batch(plan, sampler, texts, jobs, bar.update)
            if config.output.save_latent:
                _save_latents(plan, texts, done)
            results += done
    del denoiser, sampler
    gc.collect()
    return results


def _denoise_batch(
    plan: Plan, sampler: Sampler, texts: Texts, jobs: Sequence[Job], tick: Callable[[], object]
) -> list[Result]:
    """One batch, filled up with copies of its last job if it is a smaller one, so that it needs no graph of its own."""
    started = time.perf_counter()
    width = min(plan.config.sampler.batch_size, len(plan.jobs))
    filled = [*jobs, *[jobs[-1]] * (width - len(jobs))]
    seeds = [job.seed for job in filled]
    noise = initial_noise(seeds, plan.latent_shape)
    text = picked(texts.arrays, [job.row for job in filled])
    request = SampleRequest(
        noise,
        text,
        plan.size,
        plan.config.sampler.fps,
        negative=None if texts.negative is None else picked(texts.negative, [job.row for job in filled]),
        step_noise=seeded_noise(seeds, plan.latent_shape, "step"),
        edit_noise=seeded_noise(seeds, plan.latent_shape, "edit"),
    )
    latents = noise
    for step in sampler.steps(request):
        latents = step
        tick()
    seconds = (time.perf_counter() - started) / len(jobs)
    return [Result(job, latents[i], seconds={"denoise": seconds}) for i, job in enumerate(jobs)]


def _save_latents(plan: Plan, texts: Texts, results: Sequence[Result]) -> None:
    """``denoised_latents/STEM.npy``, (1, C, T, H, W) float32, for decoding later."""
    folder = outputs.make_run_folder(plan.folder, "denoised_latents")
    for result in results:
        stem = outputs.free_stem(folder, result.job.stem)
        result.latents_file = folder / f"{stem}.npy"
        outputs.write_array(result.latents_file, result.latents[None])
        outputs.write_json(folder / f"{stem}.json", record(plan, texts, result))


@contextlib.contextmanager
def _latents_kept_on_failure(plan: Plan, texts: Texts, results: Sequence[Result]) -> Iterator[None]:
    """Denoising is the expensive part: if what follows fails or is stopped, its result is saved for decoding later."""
    try:
        yield
    except BaseException:
        undone = [result for result in results if not result.video and not result.latents_file]
        _save_latents(plan, texts, undone)
        if undone:
            logger.error("decoding stopped; the latents are in %s", undone[0].latents_file.parent)
        raise


def _report(plan: Plan, results: Sequence[Result], seconds: float) -> None:
    kind = ("video" if plan.config.output.use_vae_decode else "latents file") + ("s" if len(results) > 1 else "")
    seeds = sorted({results[0].job.seed, results[-1].job.seed})
    logger.info("%d %s, seed %s, in %.0f s: %s", len(results), kind, "...".join(map(str, seeds)), seconds, plan.folder)
