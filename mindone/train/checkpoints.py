"""What a training run saves: the network, the state of its step, and how far it is."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mindspore import Parameter

from mindone.checkpoint import MODEL_LAYOUT, Layout, load_into, read_tensors, save_model, save_safetensors
from mindone.checkpoint.atomic import atomic_folder
from mindone.checkpoint.run import RunCheckpoint, RunCheckpoints
from mindone.errors import UserError
from mindone.parallel.collectives import barrier
from mindone.parallel.mesh import Mesh
from mindone.train.run_folder import CHECKPOINTS, RESULT
from mindone.train.step import AVERAGES, Step, StepState

logger = logging.getLogger(__name__)

STATE, MODEL = "state.json", "model"


class Saved(Protocol):
    """What a training saves as its model: a network, or an adapter of one."""

    def parameters_and_names(self) -> Iterable[tuple[str, Parameter]]:
        """Parameters by the names that they have in files."""
        ...

    def get_parameters(self) -> Iterable[Parameter]:
        """All parameters of the network."""
        ...


@dataclass
class TrainState:
    """What a run has to remember beside its arrays."""

    step: int = 0
    """finished updates"""
    loader: dict[str, int] = field(default_factory=lambda: {"epoch": 0, "batch": 0})
    """epoch and number of the next batch"""
    seed: int = 0
    samples: int = 0
    """seen by all ranks"""
    numbers: dict[str, Any] = field(default_factory=dict)
    """of the step, see `StepState`"""
    clock_seconds: float = 0.0
    clock_steps: int = 0
    fingerprint: dict[str, Any] = field(default_factory=dict)
    """settings that change the numbers"""


class TrainingCheckpoints:
    """Saves and restores all of a training.

    Args:
        folder: of the run.
        step: its state is saved in a file per group; averages stand in for weights of the network.
        network: what is saved as a model; the averaged parameters are among its own.
        config: the content of its ``config.json``.
        layout: how the files of its folder are called.
        keep_last: how many checkpoints are kept; 0 keeps all.
        keep_every: checkpoints of steps that are a multiple of it are kept as well; 0 is none.
        passport: where the weights come from; it and the step stand in the metadata of their files.
    """

    def __init__(
        self,
        folder: Path,
        step: Step,
        network: Saved,
        config: Mapping[str, Any],
        mesh: Mesh,
        keep_last: int = 3,
        keep_every: int = 0,
        layout: Layout = MODEL_LAYOUT,
        passport: Mapping[str, str] | None = None,
    ):
        self.layout, self.passport = layout, dict(passport or {})
        self.folder, self.step, self.network, self.config, self.mesh = folder, step, network, config, mesh
        self._store = RunCheckpoints(folder / CHECKPOINTS, keep_last, keep_every)

    def save(self, state: TrainState) -> None:
        """Saves a checkpoint, on the main rank; the others wait."""
        found = self.step.state()
        arrays, state.numbers = found.arrays, dict(found.numbers)
        if self.mesh.is_main:
            writers: dict[str, Any] = {
                MODEL: lambda path: self._save_model(path, state.step, self.config),
                STATE: (json.dumps(asdict(state), indent=2) + "\n").encode(),
            }
            for group in arrays:
                writers[_file(group)] = lambda path, group=group: self._save_group(
                    path, group, arrays[group], state.step
                )
            self._store.save(state.step, writers)
        barrier(self.mesh)

    def export(self, config: Mapping[str, Any] | None = None, step: int | None = None) -> Path:
        """Writes the run's result as a model folder and returns it.

        Args:
            config: the content of its ``config.json`` if it differs from that at first.
            step: updates that were made, for the passport.
        """
        target = self.folder / RESULT
        if self.mesh.is_main:
            with atomic_folder(target) as folder:
                averages = self.step.state().arrays.get(AVERAGES, {})
                self._save_model(folder, step, config or self.config, self._by_place(averages))
        barrier(self.mesh)
        return target

    def restore(self, checkpoint: RunCheckpoint) -> TrainState:
        """Fills network and step from a checkpoint, bit by bit as they were.

        Raises:
            UserError: the checkpoint belongs to another network or step.
        """
        load_into(self.network, read_tensors(checkpoint.file(f"{MODEL}/{self.layout.weights}")))
        arrays = {}
        for group, wanted in self.step.state().arrays.items():
            if group == AVERAGES and not (checkpoint.path / AVERAGES).is_dir():
                logger.warning("the checkpoint has no averaged weights: the average begins at the present ones")
                continue
            path = checkpoint.file(f"{AVERAGES}/{self.layout.weights}" if group == AVERAGES else _file(group))
            arrays[group] = self._read_group(path, group, wanted)
        state = read_state(checkpoint.file(STATE))
        self.step.load_state(StepState(arrays, state.numbers))
        if self.mesh.is_main:
            self._store.clean()
        return state

    def _save_model(
        self, path: Path, step: int | None, config: Mapping[str, Any], instead: Mapping[str, Any] | None = None
    ) -> None:
        passport = self.passport | ({} if step is None else {"step": str(step)})
        save_model(path, self.network, config, instead=instead, layout=self.layout, passport=passport)

    def _save_group(self, path: Path, group: str, arrays: Mapping[str, Any], step: int) -> None:
        if group == AVERAGES:
            self._save_model(path, step, self.config, self._by_place(arrays))
        else:
            save_safetensors(path, {name: _array(value) for name, value in arrays.items()})

    def _read_group(self, path: Path, group: str, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        if group != AVERAGES:
            return _read(path, wanted)
        places = self._places()
        found = _read(path, {places[name]: value for name, value in wanted.items()}, whole=False)
        return {name: found[places[name]] for name in wanted}

    def _by_place(self, averages: Mapping[str, Any]) -> dict[str, Any]:
        places = self._places()
        return {places[name]: value for name, value in averages.items()}

    def _places(self) -> dict[str, str]:
        """The names that parameters have in the network's files, by their own."""
        return {parameter.name: place for place, parameter in self.network.parameters_and_names()}


def _file(group: str) -> str:
    return group if group == AVERAGES else f"{group}.safetensors"


def _array(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.asnumpy()


def _read(path: Path, wanted: Mapping[str, Any], whole: bool = True) -> dict[str, np.ndarray]:
    """The arrays of a file that ``wanted`` has names and shapes for; with ``whole`` the file has no others."""
    tensors = read_tensors(path)
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted] if whole else []
    if missing or unexpected:
        names = ", ".join((missing or unexpected)[:3])
        what = "lacks" if missing else "has more than is trained now:"
        raise UserError(f"{path} {what} {names}; resume with the settings of that run (what is trained differs)")
    arrays = {name: np.asarray(tensors[name]) for name in wanted}
    for name, array in arrays.items():
        if array.shape != tuple(wanted[name].shape):
            raise UserError(f"{path}: {name} has shape {array.shape}, the network {tuple(wanted[name].shape)}")
    return arrays


def read_state(path: Path) -> TrainState:
    """The state in a checkpoint's ``state.json``.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {name: content.pop(name) for name in [each.name for each in fields(TrainState)] if name in content}
        # Runs of before the numbers of a step had a place of their own have them beside the others.
        known.setdefault("numbers", content)
        return TrainState(**known)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the state of a training run: {error}") from error
