"""What the training commands share: the run's folder, the update made from its settings, the loop, the result."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
from mindspore import nn

from mindone import runtime
from mindone.config import save_config
from mindone.data.loader import Loader
from mindone.data.table import VideoRow
from mindone.errors import EXIT_INTERRUPTED, UserError
from mindone.parallel.collectives import broadcast_parameters, from_first_rank
from mindone.train.ema import Ema
from mindone.train.loop import Every, Prepare, Training, fit
from mindone.train.optim import AdamW
from mindone.train.run_folder import (
    STATE,
    Found,
    TrainingCheckpoints,
    TrainState,
    find_run,
    new_run_folder,
    read_state,
    warn_of_changes,
)
from mindone.train.schedule import make_schedule
from mindone.train.step import LossScale, TrainStep
from mindone.train.tracker import Trackers, make_trackers

logger = logging.getLogger(__name__)

# Memory for decoded clips and caches, over all processes of a rank: a small data set is read once.
CACHE_BYTES = 4 << 30

# Settings that may differ in a resumed run without changing its numbers.
HARMLESS = {
    *("ckpt_save_interval", "ckpt_save_steps", "ckpt_max_keep", "log_interval", "resume", "output_path"),
    *("add_datetime", "sample_every", "sample_prompts", "device_target", "mode", "debug", "use_parallel"),
    *("max_device_memory", "jit_level", "profile", "num_parallel_workers", "prefetch_size", "max_bad_fraction"),
    *("csv_path", "video_folder", "text_embed_folder", "vae_latent_folder", "vae_checkpoint", "latent_statistics"),
    *("t5_model_name_or_path", "pretrained_model_path", "vae2d_checkpoint", "lpips_checkpoint", "seed"),
}


@dataclass(frozen=True)
class Run:
    """A new run, or one that goes on from ``found``; all ranks have the same."""

    config: Any
    folder: Path
    seed: int
    found: Found | None = None


@contextlib.contextmanager
def open_run(config: Any) -> Iterator[Run]:
    """The run of ``config.train``, its folder with the settings in it, and within this context a log file.

    Raises:
        UserError: what should be resumed is not there, or the folder cannot be made.
    """
    import mindspore as ms

    found = find_run(config.output_path, config.resume)
    folder = found.folder if found else new_run_folder(config.output_path, config.add_datetime)
    seed = from_first_rank(runtime.random_seed() if config.seed is None else config.seed)
    if found:
        seed = _resumed_seed(found, config)
    current = runtime.current()
    if current.is_main:
        save_config(config, folder / "args.yaml")
    ms.set_seed(seed)
    what = f"resumes step {found.checkpoint.step} of" if found else "starts"
    with _log_file(folder / f"log_{current.rank}.txt"):
        logger.info("this run %s %s (seed %d, %d ranks on %s)", what, folder, seed, current.world_size, current.device)
        yield Run(config, folder, seed, found)


def _resumed_seed(found: Found, config: Any) -> int:
    seed = read_state(found.checkpoint.file(STATE)).seed
    if config.seed not in (None, seed):
        logger.warning("the run to resume has seed %d, which is kept", seed)
    return seed


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def existing_rows(rows: Sequence[VideoRow], files: Callable[[VideoRow], Sequence[Path]], csv_path: str) -> list:
    """The rows all of whose files are there; says how many are not.

    Raises:
        UserError: none is left.
    """
    kept = [row for row in rows if all(path.is_file() for path in files(row))]
    if len(kept) < len(rows):
        logger.warning("filter_data: %d of %d rows of %s have no files", len(rows) - len(kept), len(rows), csv_path)
    if not kept:
        raise UserError(f"no row of {csv_path} has its files; check the folders, or leave out filter_data")
    return kept


def make_loader(config: Any, run: Run, dataset: Any) -> Loader:
    """Batches of a rank, as the settings say."""
    current = runtime.current()
    return Loader(
        dataset,
        config.batch_size,
        seed=run.seed,
        num_workers=config.num_parallel_workers,
        prefetch=config.prefetch_size,
        rank=current.rank,
        world_size=current.world_size,
        max_bad_fraction=config.max_bad_fraction,
    )


def cache_bytes(config: Any) -> int:
    """The memory that each loading process may use for what it has read."""
    return CACHE_BYTES // max(1, config.num_parallel_workers)


@dataclass(frozen=True)
class Length:
    """Updates of a run, and between its checkpoints."""

    total: int
    save: int


def run_length(config: Any, batches_per_epoch: int) -> Length:
    """``train_steps`` counts if given, ``epochs`` otherwise; likewise for checkpoints.

    Raises:
        UserError: that is no update at all.
    """
    per_update = config.gradient_accumulation_steps
    total = config.train_steps if config.train_steps > 0 else config.epochs * batches_per_epoch // per_update
    if total < 1:
        raise UserError(
            f"{config.epochs} epochs of {batches_per_epoch} batches are less than one update of "
            f"gradient_accumulation_steps={per_update}; use more epochs, or a smaller batch or accumulation"
        )
    every_epochs = max(1, config.ckpt_save_interval * batches_per_epoch // per_update)
    return Length(total, config.ckpt_save_steps if config.ckpt_save_steps > 0 else every_epochs)


def make_step(config: Any, loss: nn.Cell) -> TrainStep:
    """The training update of the trainable parameters in ``loss``."""
    parameters = loss.trainable_params()
    if not parameters:
        raise UserError("nothing is trained: all parameters are frozen by the settings")
    scale = LossScale()
    if config.dtype == "fp16":
        dynamic = config.loss_scaler_type == "dynamic"
        scale = LossScale(config.init_loss_scale, dynamic, config.loss_scale_factor, config.scale_window)
    return TrainStep(
        loss,
        AdamW(parameters, config.betas, config.optim_eps, config.weight_decay),
        Ema(parameters, config.ema_decay) if config.use_ema else None,
        config.max_grad_norm if config.clip_grad else None,
        config.gradient_accumulation_steps,
        scale,
        config.drop_overflow_update,
    )


def train(
    run: Run,
    network: nn.Cell,
    loss: nn.Cell,
    loader: Loader,
    prepare: Prepare,
    model_config: Callable[[], Mapping[str, Any]],
    part_names: Sequence[str] = (),
    make_hooks: Callable[[TrainStep, Trackers], Sequence[Every]] = lambda step, trackers: (),
) -> TrainingCheckpoints:
    """Trains ``network``, which ``loss`` holds, to the end of the run.

    Returns:
        The run's checkpoints, to export the result.
    Raises:
        SystemExit: a signal ended the run early, and its state is saved: code 0 for SIGTERM, 130 for Ctrl+C.
    """
    config, current = run.config, runtime.current()
    length = run_length(config, len(loader))
    broadcast_parameters(list(network.get_parameters()))
    step = make_step(config, loss)
    checkpoints = TrainingCheckpoints(run.folder, step, network, model_config, config.ckpt_max_keep)
    state = checkpoints.restore(run.found.checkpoint) if run.found else TrainState(seed=run.seed)
    now = fingerprint(config)
    warn_of_changes(state.fingerprint, now)
    state.fingerprint = now
    schedule = make_schedule(
        config.scheduler,
        config.start_learning_rate,
        config.end_learning_rate,
        config.warmup_steps,
        config.decay_steps,
        length.total,
    )
    trackers = Trackers()
    if current.is_main:
        trackers = make_trackers(run.folder, length.total, config.log_interval, state.step)
    _introduce(network, step, loader, length)
    training = Training(
        step,
        loader,
        prepare,
        schedule,
        length.total,
        checkpoints,
        state,
        trackers,
        length.save,
        part_names,
        make_hooks(step, trackers),
    )
    _leave_if_stopped(fit(training))
    _report(run, step, loader)
    return checkpoints


def _introduce(network: nn.Cell, step: TrainStep, loader: Loader, length: Length) -> None:
    count = sum(int(np.prod(parameter.shape)) for parameter in network.get_parameters())
    trained = sum(int(np.prod(parameter.shape)) for parameter in step.parameters)
    samples = loader.batch_size * loader.world_size * step.accumulation_steps
    logger.info("parameters: %s, of which %s are trained", f"{count:,}", f"{trained:,}")
    logger.info(
        "data: %d samples, %d batches per epoch; %d updates of %d samples",
        len(loader.dataset),
        len(loader),
        length.total,
        samples,
    )
    logger.info("the first step compiles the network, which takes a while")


def _leave_if_stopped(ended: Signals | None) -> None:
    if ended is not None:
        raise SystemExit(EXIT_INTERRUPTED if ended == Signals.SIGINT else 0)


def _report(run: Run, step: TrainStep, loader: Loader) -> None:
    if step.skipped:
        logger.warning("%d updates were left out because they were not finite", step.skipped)
    bad = loader.bad_samples
    logger.info("bad samples: %d", len(bad))
    if bad and runtime.current().is_main:
        loader.save_bad_samples(run.folder / "bad_samples.csv")


def fingerprint(config: Any) -> dict[str, Any]:
    """The settings that change the numbers of a training, by name, and the number of ranks."""
    return {**_leaves(config), "ranks": runtime.current().world_size}


def _leaves(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            found |= _leaves(value)
        elif field.name not in HARMLESS:
            found[field.name] = value
    return found
