"""A look back at training runs: their curves as a picture, and one past update computed again."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from mindone.checkpoint.run import RunCheckpoint, RunCheckpoints
from mindone.config import load
from mindone.data.loader import name_of
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh, make_mesh
from mindone.train.curves import draw_curves, log_rows, read_curves
from mindone.train.loop import Replayed, Training, replay
from mindone.train.run_folder import CHECKPOINTS
from mindone.train.tracker import RESULT_LOG, Trackers
from opensora.config import PlotConfig, ReplayConfig, TrainConfig, TrainVaeConfig
from opensora.start import start
from opensora.training import autoencoder, denoiser
from opensora.training.run import SETTINGS, open_run

logger = logging.getLogger(__name__)

VAE_GROUP = "loss"
"""A group of settings that the training of an autoencoder has and that of a denoiser has not."""


def plot(config: PlotConfig) -> Path:
    """Draws the curves of runs, says where the picture is, and returns its path.

    Raises:
        UserError: a folder has no log, or matplotlib is not installed.
    """
    path = draw_curves([read_curves(folder) for folder in config.runs], config.output)
    print(f"the curves are in {path}")
    return path


@dataclass(frozen=True)
class Update:
    """A past update as it was computed again."""

    step: int
    loss: str
    grad_norm: str
    lr: float
    samples: list[tuple[int, str]]
    """index and name of every sample of this rank, in the order of the batch"""
    is_same: bool | None
    """whether result.log has the same loss and norm to the last bit; None if it has no such update"""


def replay_update(config: ReplayConfig) -> Update:
    """Computes an update of a training again, from the nearest checkpoint before it, and prints it.

    The run's own folder stays as it is.

    Raises:
        UserError: the folder is no run, its settings cannot be read, or its data or weights have changed.
    """
    start(config.device)
    mesh, folder = make_mesh(), Path(config.run)
    settings = read_settings(folder)
    logged = _past_update(folder, config.step)
    nearest = nearest_checkpoint(folder, config.step)
    began = nearest.step if nearest else 0
    logger.info("step %d is computed again from %s", config.step, nearest.path if nearest else "the beginning")
    with tempfile.TemporaryDirectory(prefix="replay-") as work:
        loop = replace(
            settings.train, output_path=work, add_datetime=False, resume=str(nearest.path) if nearest else False
        )
        again = replace(settings, train=loop)
        with _prepared(again, mesh) as training:
            training.total_steps, training.trackers = config.step, Trackers()
            found = replay(training)
        update = _described(found, config.step, training.loader.dataset, logged)
    _print(update, config.step - began)
    return update


@contextlib.contextmanager
def _prepared(settings: TrainConfig | TrainVaeConfig, mesh: Mesh) -> Iterator[Training]:
    """What the run of these settings runs, without what is done between its updates."""
    if isinstance(settings, TrainVaeConfig):
        rows = autoencoder.read_rows(settings.data)
        with open_run(settings, mesh) as run:
            yield autoencoder.prepare(settings, run, rows)[0]
        return
    settings = replace(
        settings,
        samples=replace(settings.samples, sample_every=0),
        validation=replace(settings.validation, validate=False),
    )
    setting = denoiser.make_setting(settings, mesh)
    with open_run(settings, mesh) as run:
        yield denoiser.prepare(settings, setting, run)[0]


def read_settings(folder: Path) -> TrainConfig | TrainVaeConfig:
    """The settings of a training, of a denoiser or of an autoencoder.

    Raises:
        UserError: it is not the folder of one.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"run={folder} has no {SETTINGS}; give the folder of a training run")
    schema = TrainVaeConfig if _is_of_autoencoder(path) else TrainConfig
    return load(schema, ["--config", str(path)])


def _is_of_autoencoder(path: Path) -> bool:
    # What cannot be read is for the reader of settings to refuse.
    with contextlib.suppress(yaml.YAMLError, UnicodeError):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return isinstance(content, dict) and VAE_GROUP in content
    return False


def nearest_checkpoint(folder: Path, step: int) -> RunCheckpoint | None:
    """The last checkpoint before update number ``step``; None: it is computed from the beginning."""
    before = [each for each in RunCheckpoints(folder / CHECKPOINTS).all() if each.step < step]
    return max(before, key=lambda each: each.step, default=None)


def _described(found: Replayed, step: int, dataset: object, logged: tuple[str, str] | None) -> Update:
    loss, norm = (str(value.asnumpy()[()]) for value in (found.result.loss, found.result.grad_norm))
    samples = [(index, name_of(dataset, index)) for batch in found.batches for index in batch.indices]
    return Update(step, loss, norm, found.lr, samples, None if logged is None else logged == (loss, norm))


def _past_update(folder: Path, step: int) -> tuple[str, str] | None:
    """Loss and gradient norm of an update in the run's log, as they stand there; None if it is not in it.

    Raises:
        UserError: the run has not come so far.
    """
    rows = log_rows(folder / RESULT_LOG)
    found = {
        int(row["step"]): (row["loss"], row["grad_norm"])
        for row in rows
        if row.get("grad_norm") and row["step"].isdigit()
    }
    last = max(found, default=step)
    if step > last:
        raise UserError(f"the run in {folder} is at step {last}, so there is no step {step} yet")
    return found.get(step)


def _print(update: Update, computed: int) -> None:
    verdicts = {True: "the same as in result.log, bit by bit", False: "NOT what result.log has", None: "not in the log"}
    print(f"step {update.step}, after {computed} update{'s' * (computed > 1)}: {verdicts[update.is_same]}")
    print(f"loss {update.loss}  grad_norm {update.grad_norm}  lr {update.lr:.9g}")
    for index, name in update.samples:
        print(f"  sample {index}  {name}")
