"""The plan of a training in buckets as a file and a table: what trains where, at what cost, and what is left out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindone import runtime
from mindone.checkpoint.atomic import atomic_write
from mindone.data.plan import BucketEpoch, BucketPlan
from opensora.config.plan import PlanDataConfig
from opensora.families import settle
from opensora.networks import autoencoder_skeleton, denoiser_config
from opensora.start import start
from opensora.training.contents import Contents
from opensora.training.denoiser import read_rows
from opensora.training.planning import Buckets, make_buckets, plan_of_buckets

logger = logging.getLogger(__name__)

# A training step costs a forward pass, and twice that for the gradients.
FORWARD_PASSES = 3
INCOMPLETE = "of buckets whose last batch is incomplete"


@dataclass(frozen=True)
class Group:
    """The buckets of one resolution and length, whatever their aspect ratios are."""

    resolution: str
    num_frames: int
    sizes: int
    """sizes that have batches"""
    samples: int
    batch_size: int
    """per rank"""
    batches: int
    left_over: int
    """samples that do not fill a batch"""
    flops: float
    """of a step, per rank, the mean over its batches"""


def plan_data(config: PlanDataConfig) -> Path:
    """Writes the plan of an epoch, prints what is in it, and returns its file.

    Raises:
        UserError: the table or the buckets cannot be used, or there is no batch.
    """
    start(config.runtime)
    report, epoch = planned(config)
    write_plan(config.plan.plan_path, report, epoch)
    print(report)
    logger.info("the plan is in %s", config.plan.plan_path)
    return Path(config.plan.plan_path)


def planned(config: PlanDataConfig) -> tuple[str, BucketEpoch]:
    """The report on an epoch, and its batches.

    Raises:
        UserError: as for `plan_data`.
    """
    family, config = settle(config, config.model.model_version, config.model.model_name, config.autoencoder.vae_type)
    weights = config.autoencoder.vae_checkpoint
    autoencoder = autoencoder_skeleton(
        family.autoencoder_preset, weights if weights and Path(weights).exists() else None
    )
    network = denoiser_config(family.denoiser_preset, None, config.model.denoiser, "model.denoiser")
    rows = read_rows(config.data)
    buckets = make_buckets(config, family, rows, autoencoder.spatial_compression)
    seed = runtime.random_seed() if config.runtime.seed is None else config.runtime.seed
    plan = plan_of_buckets(buckets, seed, config.plan.plan_ranks, Contents(rows).digest)
    epoch = plan.epoch(config.plan.plan_epoch)
    text_tokens = config.text.model_max_length or family.model_max_length
    flops = np.array(
        [
            FORWARD_PASSES
            * network.forward_flops(autoencoder.latent_size(bucket.size), text_tokens)
            * bucket.batch_size
            for bucket in plan.buckets
        ]
    )
    return "\n".join(describe(plan, buckets, config.plan.plan_epoch, flops)), epoch


def write_plan(path: str | Path, report: str, epoch: BucketEpoch) -> None:
    """A line per batch, below the report as comments."""
    with atomic_write(path) as file:
        file.write("".join(f"# {line}".rstrip() + "\n" for line in report.splitlines()).encode())
        file.write(b"# samples are numbers of the table's rows, from 0\n")
        file.write(b"batch,bucket,frames,height,width,samples\n")
        for number in range(len(epoch)):
            batch = epoch[number]
            bucket = int(epoch.steps[number])
            sizes = ",".join(map(str, batch.size))
            file.write(f"{number},{bucket},{sizes},{' '.join(map(str, batch.indices))}\n".encode())


# --- the report ------------------------------------------------------------------------------------------------------


def describe(plan: BucketPlan, buckets: Buckets, number: int, flops: np.ndarray) -> Iterator[str]:
    """The lines of a report on an epoch; ``flops`` are those of a step in each bucket, per rank."""
    epoch = plan.epoch(number)
    counts = np.bincount(epoch.steps, minlength=len(plan.buckets))
    groups = grouped(plan, buckets, epoch, counts, flops)
    yield f"plan {plan.digest}: epoch {number} of seed {plan.seed}, batches for {plan.ranks} ranks"
    used = epoch.samples
    yield f"{plan.length} samples, {used} of them in {len(epoch)} batches of {epoch.shapes()} shapes"
    yield ""
    yield from _table(groups, float(counts @ flops))
    rejected = {reason: len(rows) for reason, rows in buckets.reasons(plan.draw(number)).items()}
    rejected[INCOMPLETE] = sum(group.left_over for group in groups)
    if any(rejected.values()):
        yield ""
        yield f"{plan.length - used} samples are left out:"
        yield from (f"  {count:>9}  {reason}" for reason, count in rejected.items() if count)
    yield ""
    by_rank, steps = work_by_rank(plan, epoch, counts, flops), flops[epoch.steps] / 1e12
    uneven = by_rank.max() / by_rank.mean() - 1
    yield f"imbalance between ranks {uneven:.1%}; a step takes {steps.min():.3g} to {steps.max():.3g} TFLOPs per rank"


def work_by_rank(plan: BucketPlan, epoch: BucketEpoch, counts: np.ndarray, flops: np.ndarray) -> np.ndarray:
    """(ranks,) FLOPs of the epoch, by the samples that each rank gets of the batches."""
    work = np.zeros(plan.ranks)
    used, first = np.unique(epoch.steps, return_index=True)
    for bucket, number in zip(used, first):
        parts = [epoch[int(number)].part(rank, plan.ranks)[1] for rank in range(plan.ranks)]
        shares = np.array([len(part) for part in parts]) / plan.buckets[bucket].batch_size
        work += counts[bucket] * flops[bucket] * shares
    return work


def grouped(
    plan: BucketPlan, buckets: Buckets, epoch: BucketEpoch, counts: np.ndarray, flops: np.ndarray
) -> list[Group]:
    """The buckets that have samples, by resolution and length; ``counts`` are the batches of each."""
    whole = np.array([bucket.batch_size for bucket in plan.buckets]) * plan.ranks
    groups, first = [], 0
    for resolution in buckets.rules.resolutions:
        for length in resolution.lengths:
            here = slice(first, first + len(resolution.sizes))
            first = here.stop
            held, batches = epoch.held[here], counts[here]
            if not held.any():
                continue
            cost = float((batches * flops[here]).sum() / max(1, batches.sum()))
            left_over = int((held - batches * whole[here]).sum())
            numbers = (int((batches > 0).sum()), int(held.sum()), length.batch_size, int(batches.sum()), left_over)
            groups.append(Group(resolution.name, length.num_frames, *numbers, cost))
    return groups


COLUMNS = ("resolution", "frames", "sizes", "samples", "batch", "batches", "left over", "TFLOPs", "of all")


def _table(groups: Sequence[Group], total: float) -> Iterator[str]:
    lines = [COLUMNS]
    for group in groups:
        numbers = (group.num_frames, group.sizes, group.samples, group.batch_size, group.batches, group.left_over)
        share = group.batches * group.flops / total
        lines.append((group.resolution, *map(str, numbers), f"{group.flops / 1e12:.3g}", f"{share:.1%}"))
    widths = [max(map(len, column)) for column in zip(*lines)]
    for name, *numbers in lines:
        yield "  ".join([name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])])
