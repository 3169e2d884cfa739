"""How much TeaCache may leave out: the threshold whose videos are near enough to those without a cache.

A few of the run's own videos are made with several thresholds, and their distance from the exact ones is measured by
LPIPS. What was measured is kept beside the outputs, so that it is done once per model and recipe.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from mindone import runtime
from mindone.diffusion.step_cache import TeaCache
from mindone.errors import UserError
from mindone.models.lpips import LPIPS, load_lpips, random_lpips
from opensora import outputs
from opensora.config.generate import Cache
from opensora.families.cached import TeaCached, teacache_rule
from opensora.generate.latents import Clips, batches, denoise_batch, load_denoiser
from opensora.generate.pixels import load_autoencoder
from opensora.generate.plan import Plan
from opensora.generate.progress import Steps
from opensora.generate.references import encode_references
from opensora.generate.results import OF_THE_RUN, without
from opensora.generate.texts import encode_texts

logger = logging.getLogger(__name__)

KEPT = "step_cache.json"
PROBES = 4
"""Videos that are measured."""
SHARES = (0.85, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Of the steps, that thresholds are looked for which compute so many."""
GRID = 64


@dataclass(frozen=True)
class Measured:
    """What a threshold costs and saves: steps that compute, seconds per video, and the mean LPIPS."""

    threshold: float
    computed: float
    steps: int
    seconds: float
    lpips: float


def calibrated(plan: Plan) -> Plan:
    """The plan with the threshold that ``max_lpips`` asks for; the plan itself if it does not ask.

    Raises:
        UserError: there is no measurement, and several ranks to make one.
    """
    cache = plan.config.cache
    if cache.max_lpips is None or not plan.jobs:
        return plan
    place = Path(plan.config.output.output_path) / KEPT
    key, kept = recipe_key(plan), read_kept(place)
    if key not in kept:
        if runtime.current().world_size > 1:
            raise UserError(
                f"max_lpips is measured by one process, and {place} holds nothing about this recipe; run it once "
                "without use_parallel"
            )
        kept[key] = [asdict(row) for row in measure(plan)]
        outputs.write_json(place, kept)
    rows = [Measured(**row) for row in kept[key]]
    threshold = choose(rows, cache.max_lpips)
    scale = " (random features: a scale of its own)" if cache.lpips_random else ""
    logger.info("%s", table(rows, threshold, scale))
    if not threshold:
        logger.warning("no threshold keeps within max_lpips=%g, so that every step computes", cache.max_lpips)
    return replace(plan, config=replace(plan.config, cache=replace(cache, rel_l1_thresh=threshold)))


def recipe_key(plan: Plan) -> str:
    """A digest of what the measurement depends on: weights, sampler, size and LPIPS, not which videos are made."""
    config = plan.config
    said = {
        "weights": plan.weights,
        "version": plan.family.name,
        "size": plan.size(plan.jobs[0]),
        "dtype": config.denoiser.dtype,
        "loras": config.denoiser.loras,
        "sampler": without(vars(config.sampler), *OF_THE_RUN),
        "coefficients": config.cache.teacache_coefficients,
        "order": config.cache.teacache_order,
        "warmup": config.cache.teacache_warmup,
        "lpips": None if config.cache.lpips_random else config.cache.lpips_checkpoint,
    }
    text = json.dumps(outputs.plain(said), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_kept(place: Path) -> dict[str, list[dict[str, float]]]:
    """Earlier measurements by `recipe_key`; none if there is no file.

    Raises:
        UserError: the file is something else.
    """
    if not place.exists():
        return {}
    try:
        kept = json.loads(place.read_text())
        for rows in kept.values():
            [Measured(**row) for row in rows]
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{place} holds no measurements of step caches ({error}); remove it") from error
    return kept


def choose(rows: Sequence[Measured], max_lpips: float) -> float:
    """The threshold that computes least of those within ``max_lpips``; 0, which skips nothing, if there is none."""
    within = [row for row in rows if row.lpips <= max_lpips]
    return min(within, key=lambda row: row.computed).threshold if within else 0.0


def table(rows: Sequence[Measured], chosen: float, scale: str = "") -> str:
    """Speed and quality of every threshold, the chosen one with an arrow."""
    lines = [f"rel_l1_thresh  steps computed  fewer blocks  seconds a video  LPIPS{scale}"]
    for row in rows:
        fewer, mark = row.steps / row.computed, " <-" if row.threshold == chosen else ""
        lines.append(
            f"{row.threshold:13.4g}  {row.computed:7.1f} of {row.steps:<3d}  {fewer:11.2f}x  {row.seconds:15.2f}  "
            f"{row.lpips:.4f}{mark}"
        )
    return "\n".join(lines)


# --- the measurement -------------------------------------------------------------------------------------------------


def measure(plan: Plan) -> list[Measured]:
    """Makes the first videos without leaving steps out, and then with every candidate."""
    size = plan.size(plan.jobs[0])
    chosen = [job for job in plan.jobs if plan.size(job) == size][: min(PROBES, plan.config.sampler.batch_size)]
    requests = [plan.request(job) for job in chosen]
    jobs = [replace(job, row=row) for row, job in enumerate(chosen)]
    output = replace(plan.config.output, preview_every=0)
    probe = replace(plan, config=replace(plan.config, output=output), requests=requests, jobs=jobs)
    clips = Clips(probe, encode_texts(probe), encode_references(probe))
    # Prompts with and without a negative one are not of one batch.
    jobs = batches(probe, clips.texts)[0][0]
    probe = replace(probe, jobs=jobs)
    rule = teacache_rule(replace(plan.config.cache, rel_l1_thresh=0.0), plan.family.name)
    step_cache = TeaCached(rule)
    sampler = plan.family.sampler(load_denoiser(plan), plan.config.sampler, step_cache)
    made, spent = [], []
    with Steps((len(SHARES) + 2) * sampler.num_steps, runtime.current().is_main) as progress:
        # So that no seconds of compiling are counted: a run in which each of the graphs runs.
        step_cache.rule = replace(rule, threshold=math.inf)
        denoise_batch(clips, sampler, jobs, len(jobs), progress)
        thresholds = [0.0]
        for number in range(len(SHARES) + 1):
            if number == 1:
                thresholds += candidates(rule, np.stack(step_cache.distances, 1))
            if number >= len(thresholds):
                break
            step_cache.rule = replace(rule, threshold=thresholds[number])
            before, started = step_cache.spent.computed, time.perf_counter()
            made.append(denoise_batch(clips, sampler, jobs, len(jobs), progress))
            seconds = (time.perf_counter() - started) / len(jobs)
            spent.append((step_cache.spent.computed - before, sampler.num_steps, seconds))
    del sampler, step_cache
    gc.collect()
    distances = _distances(probe, made, size[0])
    return [Measured(*row) for row in zip(thresholds, *zip(*spent), distances)]


def candidates(rule: TeaCache, distances: np.ndarray) -> list[float]:
    """Thresholds that compute about `SHARES` of the steps, in rising order.

    Args:
        distances: (B, steps - 1) of exact runs; those of a run that leaves steps out are a little different.
    """
    changes = np.array([[rule.change(float(each)) for each in row] for row in distances])
    low, high = max(float(changes.min()), 1e-6), max(float(changes.sum(1).max()), 2e-6)
    grid = np.geomspace(low, high * 1.01, GRID)
    shares = np.array([np.mean([replace(rule, threshold=t).schedule(row)[0] for row in distances]) for t in grid])
    return sorted({float(f"{grid[np.abs(shares - share).argmin()]:.4g}") for share in SHARES})


def _distances(plan: Plan, made: Sequence[Sequence[np.ndarray]], frames: int) -> list[float]:
    """Mean LPIPS of each set of latents from the first one, over videos and frames."""
    autoencoder, lpips = load_autoencoder(plan), _Mean(_lpips(plan.config.cache))
    videos = [
        [np.clip(autoencoder.decode(latents[None], frames).asnumpy()[0], -1, 1) for latents in group] for group in made
    ]
    found = []
    for group in videos:
        pairs = [(a, b) for first, second in zip(videos[0], group) for a, b in zip(_frames(first), _frames(second))]
        found.append(float(np.mean([float(lpips(Tensor(a[None]), Tensor(b[None])).asnumpy()) for a, b in pairs])))
    return found


def _frames(video: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(video.transpose(1, 0, 2, 3), np.float32)


class _Mean(nn.Cell):
    """The usual LPIPS: the mean over the pictures of a batch."""

    def __init__(self, lpips: LPIPS):
        super().__init__(auto_prefix=False)
        self.lpips = lpips

    def construct(self, first: Tensor, second: Tensor) -> Tensor:
        return self.lpips(first, second)[0].mean()


def _lpips(cache: Cache) -> LPIPS:
    return random_lpips("alex") if cache.lpips_random else load_lpips(cache.lpips_checkpoint, "alex")
