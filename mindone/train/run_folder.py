"""The folder of a training run, what is saved in it, and how a run is found again.

::

    <output_path>/<date and time>/
        args.yaml  result.log  log_<rank>.txt  tensorboard/  samples/
        ckpt/step-00000100/{model/, ema/, optimizer.safetensors, state.json, manifest.json}
        model/                      the result: averaged weights if an EMA is kept, the trained ones otherwise

``model`` and ``ema`` are model folders (``config.json`` and ``model.safetensors``) that any command takes as weights.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindone import runtime
from mindone.checkpoint import load_into, read_tensors, save_model, save_safetensors
from mindone.checkpoint.atomic import atomic_folder
from mindone.checkpoint.find import CHECKPOINTS, EMA, MODEL
from mindone.checkpoint.run import RunCheckpoint, RunCheckpoints
from mindone.errors import UserError
from mindone.parallel.collectives import barrier, from_first_rank
from mindone.train.step import TrainStep

logger = logging.getLogger(__name__)

STATE, OPTIMIZER = "state.json", "optimizer.safetensors"


@dataclass
class TrainState:
    """What a run has to remember beside its tensors."""

    step: int = 0
    """finished updates"""
    loader: dict[str, int] = field(default_factory=lambda: {"epoch": 0, "batch": 0})
    """epoch and number of the next batch"""
    seed: int = 0
    loss_scale: float = 1.0
    finite_in_a_row: int = 0
    skipped: int = 0
    clock_seconds: float = 0.0
    clock_steps: int = 0
    fingerprint: dict[str, Any] = field(default_factory=dict)
    """settings that change the numbers"""


@dataclass(frozen=True)
class Found:
    """The run to go on with: its folder and its checkpoint."""

    folder: Path
    checkpoint: RunCheckpoint


def new_run_folder(output_path: str | Path, add_datetime: bool = True) -> Path:
    """A folder for a new run, the same on all ranks.

    Raises:
        UserError: it cannot be made.
    """
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(from_first_rank(int(time.time()))))
    folder = Path(output_path) / stamp if add_datetime else Path(output_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_path={output_path} cannot be made: {error.strerror}") from error
    return folder


def find_run(output_path: str | Path, resume: bool | str) -> Found | None:
    """The run that ``resume`` asks for: True is the newest one under ``output_path`` that has a checkpoint.

    A path may be a run's folder, its ``ckpt`` folder or one checkpoint. None if ``resume`` is False, or True and there
    is nothing to resume yet, so that one command can start a run and also continue it.

    Raises:
        UserError: a path without a complete checkpoint.
    """
    if not resume:
        return None
    if resume is not True:
        return _run_at(Path(resume))
    output_path = Path(output_path)
    folders = [output_path, *output_path.iterdir()] if output_path.is_dir() else []
    runs = [folder for folder in folders if (folder / CHECKPOINTS).is_dir()]
    for folder in sorted(runs, key=lambda folder: (folder / CHECKPOINTS).stat().st_mtime, reverse=True):
        checkpoint = RunCheckpoints(folder / CHECKPOINTS).latest()
        if checkpoint:
            return Found(folder, checkpoint)
    logger.warning("there is no run to resume in %s: a new one begins", output_path)
    return None


def _run_at(path: Path) -> Found:
    if not path.is_dir():
        raise UserError(f"resume={path} is not a folder; give the folder of a run, or True for the newest one")
    if path.parent.name == CHECKPOINTS:
        for checkpoint in RunCheckpoints(path.parent).all():
            if checkpoint.path.name == path.name:
                checkpoint.verify()
                return Found(path.parent.parent, checkpoint)
    folder = path.parent if path.name == CHECKPOINTS else path
    checkpoint = RunCheckpoints(folder / CHECKPOINTS).latest()
    if checkpoint is None:
        raise UserError(f"resume={path} has no complete checkpoint; give the folder of a run")
    return Found(folder, checkpoint)


class TrainingCheckpoints:
    """Saves and restores all of a training: network, EMA, optimizer and `TrainState`.

    Args:
        folder: of the run.
        network: what is saved as a model; the trained parameters are among its own.
        model_config: gives the content of its ``config.json``.
    """

    def __init__(
        self,
        folder: Path,
        step: TrainStep,
        network: nn.Cell,
        model_config: Callable[[], Mapping[str, Any]],
        keep_last: int = 3,
    ):
        self.folder, self.step, self.network, self.model_config = folder, step, network, model_config
        self._store = RunCheckpoints(folder / CHECKPOINTS, keep_last)

    def save(self, state: TrainState) -> None:
        """Saves a checkpoint, on the main rank; the others wait."""
        if runtime.current().is_main:
            writers: dict[str, Any] = {
                MODEL: lambda path: save_model(path, self.network, self.model_config()),
                OPTIMIZER: lambda path: save_safetensors(path, self._optimizer_tensors()),
                STATE: (json.dumps(asdict(state), indent=2) + "\n").encode(),
            }
            if self.step.ema:
                writers[EMA] = self._save_averaged
            self._store.save(state.step, writers)
        barrier()

    def export(self) -> Path:
        """Writes the run's result as a model folder and returns it."""
        target = self.folder / MODEL
        if runtime.current().is_main:
            with atomic_folder(target) as folder:
                if self.step.ema:
                    self._save_averaged(folder)
                else:
                    save_model(folder, self.network, self.model_config())
        barrier()
        return target

    def restore(self, checkpoint: RunCheckpoint) -> TrainState:
        """Fills network, EMA and optimizer from a checkpoint, bit by bit as they were.

        Raises:
            UserError: the checkpoint belongs to another network or optimizer.
        """
        load_into(self.network, read_tensors(checkpoint.file(f"{MODEL}/model.safetensors")))
        _fill(self.step.optimizer.state(), checkpoint.file(OPTIMIZER))
        if self.step.ema and (checkpoint.path / EMA).is_dir():
            _fill(self._averages(), checkpoint.file(f"{EMA}/model.safetensors"), whole=False)
        elif self.step.ema:
            logger.warning("the checkpoint has no averaged weights: the average begins at the present ones")
            self.step.ema.restart()
        state = read_state(checkpoint.file(STATE))
        self.step.skipped = state.skipped
        if self.step.loss_scale.dynamic:
            self.step.loss_scale.value, self.step.loss_scale.good = state.loss_scale, state.finite_in_a_row
        if runtime.current().is_main:
            self._store.clean()
        return state

    def _save_averaged(self, path: Path) -> None:
        with self.step.ema.applied():
            save_model(path, self.network, self.model_config())

    def _averages(self) -> dict[str, Parameter]:
        """The averages by the names that the weights have in the network."""
        names = {id(parameter): name for name, parameter in self.network.parameters_and_names()}
        ema = self.step.ema
        return {names[id(parameter)]: average for parameter, average in zip(ema.parameters, ema.averages)}

    def _optimizer_tensors(self) -> dict[str, np.ndarray]:
        return {name: parameter.asnumpy() for name, parameter in self.step.optimizer.state().items()}


def _fill(parameters: Mapping[str, Parameter], path: Path, whole: bool = True) -> None:
    """Sets parameters from the tensors of a file; with ``whole`` the file has no others."""
    tensors = read_tensors(path)
    missing = [name for name in parameters if name not in tensors]
    unexpected = [name for name in tensors if name not in parameters] if whole else []
    if missing or unexpected:
        names = ", ".join((missing or unexpected)[:3])
        what = "lacks" if missing else "has more than is trained now:"
        raise UserError(f"{path} {what} {names}; resume with the settings of that run (what is trained differs)")
    for name, parameter in parameters.items():
        array = np.asarray(tensors[name])
        if array.shape != tuple(parameter.shape):
            raise UserError(f"{path}: {name} has shape {array.shape}, the network {tuple(parameter.shape)}")
        parameter.set_data(Tensor(np.array(array), parameter.dtype))


def read_state(path: Path) -> TrainState:
    """The state in a checkpoint's ``state.json``.

    Raises:
        UserError: it is damaged.
    """
    try:
        return TrainState(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not the state of a training run: {error}") from error


def warn_of_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Warns of settings that differ from those of the run that is resumed, and returns their names."""
    now = json.loads(json.dumps(now))
    changed = [name for name in now if name in before and before[name] != now[name]]
    for name in changed:
        logger.warning(
            "%s was %s and is %s now: the losses may differ from those of a run without interruption",
            name,
            before[name],
            now[name],
        )
    return changed
