"""The story of a training run, whatever it trains: its folder, the step, the loop, the end.

A script builds network, loss and data, and then::

    with open_run(config, mesh) as run:
        step = make_step(config.optimizer, dtype, network, loss, mesh)
        training = make_training(config, run, network, network_config, step, loader, inputs, contents)
        run_training(run, training)
        training.checkpoints.export()
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from mindspore import Parameter, nn

from mindone import runtime
from mindone.checkpoint import MODEL_LAYOUT, Layout
from mindone.checkpoint.slices import cut_of, whole_shape
from mindone.config import save_config
from mindone.data.loader import Dataset, Loader
from mindone.data.plan import PLANNED_RANKS, Plan
from mindone.data.table import VideoRow
from mindone.errors import UserError
from mindone.parallel.collectives import Mean, broadcast_parameters, from_first_rank
from mindone.parallel.mesh import Mesh
from mindone.parallel.zero import Slices, held_bytes
from mindone.signals import exit_code
from mindone.train.checkpoints import STATE, Saved, TrainingCheckpoints, TrainState, read_state
from mindone.train.ema import Ema
from mindone.train.intervals import updates_of
from mindone.train.loop import Every, Inputs, Training, fit
from mindone.train.optim import make_optimizer
from mindone.train.profiler import ProfileUpdates
from mindone.train.run_folder import RESULT, Found, check_changes, find_run, open_folder, remove_unless_used
from mindone.train.schedule import WITHOUT_DECAY, Schedule, make_schedule
from mindone.train.skipped import SkippedUpdates
from mindone.train.step import LossScale, SpikeGuard, TrainStep
from mindone.train.tracker import Trackers, make_trackers
from opensora.config.train import Data, Optim, TrainConfig
from opensora.config.vae import TrainVaeConfig, VaeData
from opensora.failures import within_memory
from opensora.passport import passport
from opensora.training.contents import Contents

logger = logging.getLogger(__name__)

# Memory for decoded clips and caches, over all processes of a rank: a small data set is read once.
CACHE_BYTES = 4 << 30

# A run's settings, in its folder.
SETTINGS = "args.yaml"

# Settings that may differ in a resumed run without changing its numbers, or whose effect is compared instead of them.
HARMLESS_GROUPS = {"samples", "parallel", "validation", "runtime"}
HARMLESS = {
    *("ckpt_save_interval", "ckpt_save_steps", "ckpt_max_keep", "ckpt_keep_every", "log_interval", "output_path"),
    *("resume", "allow_changes", "overwrite", "add_datetime", "batch_size", "epochs", "train_steps", "decay_steps"),
    *("num_parallel_workers", "prefetch_size", "max_bad_fraction", "sample_timeout", "filter_data", "held_out"),
    *("csv_path", "video_folder", "video_column", "caption_column", "text_embed_folder", "vae_latent_folder"),
    *("vae_checkpoint", "t5_model_name_or_path", "pretrained_model_path", "vae2d_checkpoint", "lpips_checkpoint"),
    *("latent_statistics", "max_skipped_updates", "use_recompute", "num_recompute_blocks"),
}


@dataclass(frozen=True)
class Run:
    """A new run, or one that goes on from ``found``; all ranks have the same."""

    folder: Path
    seed: int
    mesh: Mesh
    found: Found | None = None

    @property
    def planned_ranks(self) -> int | None:
        """How many ranks the batches of the run that goes on were planned for; None if they do not depend on it."""
        before = read_state(self.found.checkpoint.file(STATE)).fingerprint if self.found else {}
        return before.get(PLANNED_RANKS)


@contextlib.contextmanager
def open_run(config: TrainConfig | TrainVaeConfig, mesh: Mesh) -> Iterator[Run]:
    """The run that ``config.train`` asks for, its folder with the settings in it, and a log file within this context.

    Raises:
        UserError: what should be resumed is not there, or the folder cannot be made or has another run in it.

    What is refused within this context before the first update leaves no folder behind.
    """
    import mindspore as ms

    loop, given = config.train, config.runtime.seed
    found = find_run(loop.output_path, loop.resume)
    folder = open_folder(loop.output_path, loop.add_datetime, found, mesh, loop.overwrite)
    seed = from_first_rank(runtime.random_seed() if given is None else given, mesh)
    if found:
        seed = _resumed_seed(found, given)
    ms.set_seed(seed)
    what = f"resumes step {found.checkpoint.step} of {found.folder} in" if found else "starts"
    try:
        if mesh.is_main:
            save_config(config, folder / SETTINGS)
        with _log_file(folder / f"log_{mesh.rank}.txt"):
            device = runtime.current().device
            logger.info("this run %s %s (seed %d, %d ranks on %s)", what, folder, seed, mesh.world_size, device)
            yield Run(folder, seed, mesh, found)
    except UserError:
        if mesh.is_main:
            remove_unless_used(folder)
        raise


def _resumed_seed(found: Found, given: int | None) -> int:
    seed = read_state(found.checkpoint.file(STATE)).seed
    if given not in (None, seed):
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


# --- data ------------------------------------------------------------------------------------------------------------


def existing_rows(
    rows: Sequence[VideoRow], files: Callable[[VideoRow], Sequence[Path]], csv_path: str
) -> list[VideoRow]:
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


def make_loader(dataset: Dataset, data: Data | VaeData, plan: Plan, run: Run) -> Loader:
    """The planned batches, loaded as the settings say."""
    return Loader(
        dataset,
        plan,
        mesh=run.mesh,
        num_workers=data.num_parallel_workers,
        prefetch=data.prefetch_size,
        max_bad_fraction=data.max_bad_fraction,
        sample_timeout=data.sample_timeout,
    )


def cache_bytes(data: Data | VaeData) -> int:
    """The memory that each loading process may use for what it has read."""
    return CACHE_BYTES // max(1, data.num_parallel_workers)


# --- step and loop ---------------------------------------------------------------------------------------------------


def make_step(
    optim: Optim,
    dtype: str,
    network: nn.Cell,
    loss: nn.Cell,
    mesh: Mesh,
    trained: Sequence[Parameter] | None = None,
    zero_stage: int = 0,
) -> TrainStep:
    """The training update of the trainable parameters in ``loss``, which are those of ``network``, or of ``trained``.

    Args:
        zero_stage: what is in slices, one per rank: the optimizer's states and averages (1), the gradients (2), and the
            weights, for which ``network`` has been spread (3).
    Raises:
        UserError: there are none, or the optimizer cannot work on slices.
    """
    broadcast_parameters([each for each in network.get_parameters() if not cut_of(each)], mesh)
    parameters = loss.trainable_params() if trained is None else list(trained)
    if not parameters:
        raise UserError("nothing is trained: all parameters are frozen by the settings")
    if zero_stage and mesh.world_size == 1:
        logger.warning("zero_stage=%d has no effect: this process is alone", zero_stage)
    slices = Slices(parameters, mesh) if zero_stage and mesh.world_size > 1 else None
    scale = LossScale()
    if dtype == "fp16":
        dynamic = optim.loss_scaler_type == "dynamic"
        scale = LossScale(optim.init_loss_scale, dynamic, optim.loss_scale_factor, optim.scale_window)
    optimizer = make_optimizer(
        optim.optim,
        slices.parameters if slices else parameters,
        optim.betas,
        optim.optim_eps,
        optim.weight_decay,
        optim.group_strategy,
        optim.nesterov,
        optim.instability_beta,
        optim.clip_threshold,
        slices.owners if slices else None,
    )
    return TrainStep(
        loss,
        optimizer,
        _averages(optim, parameters, slices) if optim.use_ema else None,
        optim.max_grad_norm if optim.clip_grad else None,
        optim.gradient_accumulation_steps,
        scale,
        optim.drop_overflow_update,
        Mean(mesh) if mesh.world_size > 1 else None,
        SpikeGuard(optim.max_loss_factor) if optim.max_loss_factor else None,
        slices,
        zero_stage > 1,
    )


def _averages(optim: Optim, parameters: Sequence[Parameter], slices: Slices | None) -> Ema:
    if slices is None:
        return Ema(parameters, optim.ema_decay)
    return Ema(slices.parameters, optim.ema_decay, changed=slices.refresh)


@dataclass(frozen=True)
class Length:
    """Updates of a run, of an epoch (batches that are left over are a part of one), and between checkpoints."""

    total: int
    per_epoch: float
    save: int

    def of(self, group: object, name: str, unit: str = "updates") -> int:
        """The updates that a setting says, in updates, epochs or percent; ``unit`` is that of a bare number."""
        value = getattr(group, name)
        return updates_of(f"{value} {unit}" if isinstance(value, int) else value, name, self.per_epoch, self.total)


def run_length(config: TrainConfig | TrainVaeConfig, batches_per_epoch: int) -> Length:
    """``train_steps`` counts if given, ``epochs`` otherwise; likewise for checkpoints.

    Raises:
        UserError: that is no update at all.
    """
    loop, per_update = config.train, config.optimizer.gradient_accumulation_steps
    total = loop.train_steps if loop.train_steps > 0 else loop.epochs * batches_per_epoch // per_update
    if total < 1:
        raise UserError(
            f"{loop.epochs} epochs of {batches_per_epoch} batches are less than one update of "
            f"gradient_accumulation_steps={per_update}; use more epochs, or a smaller batch or accumulation"
        )
    per_epoch = batches_per_epoch / per_update
    save_steps = updates_of(loop.ckpt_save_steps, "ckpt_save_steps", per_epoch, total)
    every_epochs = max(1, loop.ckpt_save_interval * batches_per_epoch // per_update)
    return Length(total, per_epoch, save_steps if save_steps > 0 else every_epochs)


def make_training(
    config: TrainConfig | TrainVaeConfig,
    run: Run,
    network: Saved,
    network_config: Mapping[str, Any],
    step: TrainStep,
    loader: Loader,
    inputs: Inputs,
    contents: Contents,
    part_names: Sequence[str] = (),
    layout: Layout = MODEL_LAYOUT,
    weights: str = "",
) -> Training:
    """All that the loop needs, from the first update or from the checkpoint on.

    Args:
        network: is saved, with ``network_config``; the step trains parameters of it.
        contents: what it trains on.
        part_names: of what the loss cell returns beside the loss.
        layout: how the files of the saved network are called.
        weights: tells those that the run depends on and does not save, see `opensora.training.adapter`.
    Raises:
        UserError: the run to resume is complete, or had other settings or data.
    """
    loop, optim, length = config.train, config.optimizer, run_length(config, len(loader))
    now = fingerprint(config, loader.plan, contents.digest + weights, length)
    checkpoints = TrainingCheckpoints(
        run.folder,
        step,
        network,
        network_config,
        run.mesh,
        loop.ckpt_max_keep,
        length.of(loop, "ckpt_keep_every"),
        layout,
        passport(type(network).__name__, now, run.seed),
    )
    state = _first_state(config, run, checkpoints, now, length.total, contents)
    trackers = (
        make_trackers(run.folder, length.total, length.of(loop, "log_interval"), state.step)
        if run.mesh.is_main
        else Trackers()
    )
    _introduce(network, step, loader, optim.gradient_accumulation_steps, length)
    return Training(
        step,
        loader,
        inputs,
        _schedule(optim, length),
        length.total,
        checkpoints,
        state,
        _skipped(run, optim.max_skipped_updates),
        optim.gradient_accumulation_steps,
        trackers,
        length.save,
        part_names,
        _profiling(config, run, length.total - state.step),
    )


def _skipped(run: Run, most: int) -> SkippedUpdates:
    """The table of updates that were left out, one per rank."""
    suffix = "" if run.mesh.is_main else f"_{run.mesh.rank}"
    return SkippedUpdates(run.folder / f"skipped_updates{suffix}.csv", run.seed, most)


def _profiling(config: TrainConfig | TrainVaeConfig, run: Run, left: int) -> list[Every]:
    """On the main rank, if it is asked for."""
    if not (config.runtime.profile and run.mesh.is_main):
        return []
    return [Every(1, ProfileUpdates(run.folder / "profile", left))]


def _first_state(
    config: TrainConfig | TrainVaeConfig,
    run: Run,
    checkpoints: TrainingCheckpoints,
    now: Mapping[str, Any],
    total_steps: int,
    contents: Contents,
) -> TrainState:
    """That of a new run, or of the checkpoint to go on from, which fills network and step."""
    state = TrainState(seed=run.seed)
    if run.found:
        _check_resumed(config, run.found, now, total_steps, contents)
        state = checkpoints.restore(run.found.checkpoint)
    state.fingerprint = now
    if run.mesh.is_main:
        contents.save(run.folder)
    return state


def _schedule(optim: Optim, length: Length) -> Schedule:
    return make_schedule(
        optim.scheduler,
        optim.start_learning_rate,
        optim.end_learning_rate,
        length.of(optim, "warmup_steps"),
        length.of(optim, "decay_steps"),
        length.total,
        initial_lr=optim.initial_learning_rate,
    )


def _check_resumed(
    config: TrainConfig | TrainVaeConfig,
    found: Found,
    now: Mapping[str, Any],
    total_steps: int,
    contents: Contents,
) -> None:
    done = found.checkpoint.step
    if done > total_steps:
        raise UserError(
            f"the run in {found.folder} is at step {done} already, past the {total_steps} of this command; "
            "give a larger train_steps"
        )
    if done == total_steps and (found.folder / RESULT).is_dir():
        complete = f"the run in {found.folder} is complete: all its {done} updates are done"
        if config.train.resume != "auto":
            raise UserError(f"{complete}, and the result is in {found.folder / RESULT}; give a larger train_steps")
        logger.info("%s; its result is written again", complete)
    before = read_state(found.checkpoint.file(STATE)).fingerprint
    difference = contents.difference(found.folder)
    for name in ("data", "plan"):
        if difference and before.get(name, now.get(name)) != now.get(name):
            now = {**now, name: f"{now[name]} ({difference})"}
            break
    check_changes(before, now, config.train.allow_changes)


def _introduce(network: Saved, step: TrainStep, loader: Loader, micro_batches: int, length: Length) -> None:
    count = sum(math.prod(whole_shape(parameter)) for parameter in network.get_parameters())
    trained = sum(math.prod(whole_shape(parameter)) for parameter in step.parameters)
    logger.info("parameters: %s, of which %s are trained", f"{count:,}", f"{trained:,}")
    held = {"weights": held_bytes(network.get_parameters())}
    held |= {
        group: held_bytes(array for array in arrays.values() if isinstance(array, Parameter))
        for group, arrays in step.state().arrays.items()
    }
    if any(own != whole for own, whole in held.values()):
        texts = (f"{own:,} of {whole:,} bytes of {group}" for group, (own, whole) in held.items())
        logger.info("this rank holds %s", ", ".join(texts))
    epoch = loader.plan.epoch(0)
    one_shape = epoch.shapes() == 1
    logger.info(
        "data: %d samples, %d batches in the first epoch; %d updates of %d %s",
        len(loader.dataset),
        len(epoch),
        length.total,
        len(epoch[0]) * micro_batches if one_shape else micro_batches,
        "samples" if one_shape else "batches",
    )
    if one_shape:
        logger.info("the first step compiles the network, which takes a while")
    else:
        logger.info(
            "the batches of the first epoch have %d shapes; the first batch of each shape compiles the network, which "
            "takes a while",
            epoch.shapes(),
        )


def run_training(run: Run, training: Training) -> None:
    """Trains to the end.

    Raises:
        UserError: not enough memory, too many bad samples, or updates that were not finite, so that there is no result.
        SystemExit: a signal ended the run early, and its state is saved; the code is 143 for SIGTERM, 130 for Ctrl+C.
    """
    remedy = "use a smaller batch_size with more gradient_accumulation_steps, smaller videos, or use_recompute"
    try:
        with within_memory("training", remedy):
            ended = fit(training)
    finally:
        _report_bad_samples(run, training.loader)
    if ended is not None:
        raise SystemExit(exit_code(ended))
    skipped = training.step.state().numbers["skipped"]
    if skipped:
        logger.warning("%d updates were left out because they were not finite", skipped)
    training.skipped.check_end(training.state.step)


def _report_bad_samples(run: Run, loader: Loader) -> None:
    bad = loader.bad_samples
    if not len(bad):
        return
    path = run.folder / ("bad_samples.csv" if run.mesh.is_main else f"bad_samples_{run.mesh.rank}.csv")
    bad.save(path)
    logger.warning("%d samples could not be used: they are listed in %s", len(bad), path)


def fingerprint(config: TrainConfig | TrainVaeConfig, plan: Plan, contents: str, length: Length) -> dict[str, Any]:
    """What changes the numbers of a training, by name.

    Ranks do not: a batch may be shared out otherwise. Nor does a run's length, unless the learning rate depends on it.
    """
    optim = config.optimizer
    decay = length.of(optim, "decay_steps") or length.total - length.of(optim, "warmup_steps")
    return {
        **_leaves(config),
        **plan.identity(),
        "updates of decay": None if optim.scheduler in WITHOUT_DECAY else decay,
        "data": contents,
    }


def _leaves(group: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(group):
        value = getattr(group, field.name)
        if is_dataclass(value):
            found |= {} if field.name in HARMLESS_GROUPS else _leaves(value)
        elif field.name not in HARMLESS:
            found[field.name] = value
    return found
