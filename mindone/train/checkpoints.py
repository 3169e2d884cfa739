"""What a training run saves: the network, the state of its step, and how far it is."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mindspore import Parameter

from mindone.checkpoint import MODEL_LAYOUT, Layout, load_into, read_tensors, save_model, save_safetensors
from mindone.checkpoint.atomic import UNFINISHED, atomic_folder
from mindone.checkpoint.load import save_config, save_tensors
from mindone.checkpoint.run import RunCheckpoint, RunCheckpoints
from mindone.checkpoint.slices import (
    SLICES,
    cut_for,
    cut_of,
    index_slices,
    part,
    read_slices,
    whole_shape,
    write_slices,
)
from mindone.checkpoint.tensors import TensorFile
from mindone.errors import UserError
from mindone.parallel.collectives import any_rank, barrier
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

    What is spread over ranks (`mindone.parallel.zero`) each rank writes itself, as slices in the place of the one file;
    the folder, on a disk that all share, is read by any number of ranks. The result of a run is whole.

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
        """Saves a checkpoint: each rank its slices, the main rank all else; the others wait.

        Raises:
            UserError: a rank cannot write.
        """
        found = self.step.state()
        arrays, state.numbers = found.arrays, dict(found.numbers)
        groups = {MODEL: self._model(), **{name: self._group(name, arrays) for name in arrays}}
        spread = self._write_slices(groups, state.step)
        if self.mesh.is_main:
            writers: dict[str, Any] = {STATE: (json.dumps(asdict(state), indent=2) + "\n").encode()}
            for group in groups:
                if group in spread:
                    writers[group] = partial(self._place_slices, group=group)
                else:
                    writers[_file(group)] = partial(
                        self._save_group, group=group, arrays=arrays.get(group, {}), step=state.step
                    )
            self._store.save(state.step, writers)
            self._remove_slices()
        barrier(self.mesh)

    def export(self, config: Mapping[str, Any] | None = None, step: int | None = None) -> Path:
        """Writes the run's result as a model folder and returns it.

        Args:
            config: the content of its ``config.json`` if it differs from that at first.
            step: updates that were made, for the passport.
        """
        target = self.folder / RESULT
        averages = self.step.state().arrays.get(AVERAGES, {})
        spread = self._write_slices({MODEL: self._model(self._by_place(averages))}, step)
        if self.mesh.is_main:
            with atomic_folder(target) as folder:
                if spread:
                    index_slices(self._staging / MODEL)
                    whole = read_slices(self._staging / MODEL)
                    save_tensors(folder, whole, config or self.config, self.layout, whole.metadata)
                    self._remove_slices()
                else:
                    self._save_model(folder, step, config or self.config, self._by_place(averages))
            self._store.clean()
        barrier(self.mesh)
        return target

    def restore(self, checkpoint: RunCheckpoint) -> TrainState:
        """Fills network and step from a checkpoint, bit by bit as they were.

        Raises:
            UserError: the checkpoint belongs to another network or step.
        """
        load_into(self.network, self._open(checkpoint, MODEL))
        arrays = {}
        for group, wanted in self.step.state().arrays.items():
            if group == AVERAGES and not (checkpoint.path / AVERAGES).is_dir():
                logger.warning("the checkpoint has no averaged weights: the average begins at the present ones")
                continue
            arrays[group] = self._read_group(self._open(checkpoint, group), group, wanted)
        state = read_state(checkpoint.file(STATE))
        self.step.load_state(StepState(arrays, state.numbers))
        if self.mesh.is_main:
            self._store.clean()
        return state

    # --- what every rank has whole ---

    def _passport(self, step: int | None) -> dict[str, str]:
        return self.passport | ({} if step is None else {"step": str(step)})

    def _save_model(
        self, path: Path, step: int | None, config: Mapping[str, Any], instead: Mapping[str, Any] | None = None
    ) -> None:
        passport = self._passport(step)
        save_model(path, self.network, config, instead=instead, layout=self.layout, passport=passport)

    def _save_group(self, path: Path, group: str, arrays: Mapping[str, Any], step: int) -> None:
        if group in (MODEL, AVERAGES):
            self._save_model(path, step, self.config, self._by_place(arrays))
        else:
            save_safetensors(path, {name: _array(value) for name, value in arrays.items()})

    def _open(self, checkpoint: RunCheckpoint, group: str) -> TensorFile:
        if (checkpoint.path / group / SLICES).is_file():
            return read_slices(checkpoint.path / group)
        is_model = group in (MODEL, AVERAGES)
        return read_tensors(checkpoint.file(f"{group}/{self.layout.weights}" if is_model else _file(group)))

    def _read_group(self, tensors: TensorFile, group: str, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        if group != AVERAGES:
            return _read(tensors, wanted)
        places = self._places()
        found = _read(tensors, {places[name]: value for name, value in wanted.items()}, whole=False)
        return {name: found[places[name]] for name in wanted}

    def _by_place(self, averages: Mapping[str, Any]) -> dict[str, Any]:
        places = self._places()
        return {places[name]: value for name, value in averages.items()}

    def _places(self) -> dict[str, str]:
        """The names that parameters have in the network's files, by their own."""
        return {parameter.name: place for place, parameter in self.network.parameters_and_names()}

    # --- what is spread over ranks ---

    @property
    def _staging(self) -> Path:
        """Where ranks write their slices, on the disk of the checkpoints."""
        return self._store.folder / f"{UNFINISHED}slices"

    def _model(self, instead: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {**dict(self.network.parameters_and_names()), **(instead or {})}

    def _group(self, name: str, arrays: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        return self._model(self._by_place(arrays[name])) if name == AVERAGES else arrays[name]

    def _write_slices(self, groups: Mapping[str, Mapping[str, Any]], step: int | None) -> list[str]:
        """Writes this rank's slices of the groups that have any, waits for the others, and returns those groups.

        What is whole in them is the main rank's.
        """
        spread = [name for name, arrays in groups.items() if any(cut_of(array) for array in arrays.values())]
        if not spread:
            return []
        if self.mesh.is_main:
            self._remove_slices()
        barrier(self.mesh)
        failure = None
        try:
            for group in spread:
                held = {name: value for name, value in groups[group].items() if cut_of(value) or self.mesh.is_main}
                cuts = {name: cut_of(value) or cut_for(value.shape, 1, 0) for name, value in held.items()}
                passport = self._passport(step) if group in (MODEL, AVERAGES) else {}
                write_slices(self._staging / group, held, cuts, self.mesh.rank, self.mesh.world_size, passport)
        except UserError as error:
            failure = error
        if any_rank(failure is not None, self.mesh):
            raise failure or UserError("another rank cannot write its slices of the checkpoint; its log says why")
        return spread

    def _remove_slices(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)

    def _place_slices(self, path: Path, group: str) -> None:
        """Brings the slices of a group to their place in a checkpoint, and makes a folder of a model complete."""
        os.rename(self._staging / group, path)
        index_slices(path)
        if group in (MODEL, AVERAGES):
            save_config(path / self.layout.config, self.config)


def _file(group: str) -> str:
    return group if group in (MODEL, AVERAGES) else f"{group}.safetensors"


def _array(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.asnumpy()


def _read(tensors: TensorFile, wanted: Mapping[str, Any], whole: bool = True) -> dict[str, np.ndarray]:
    """The arrays of a file that ``wanted`` has names and shapes for; with ``whole`` the file has no others."""
    path = tensors.path
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted] if whole else []
    if missing or unexpected:
        names = ", ".join((missing or unexpected)[:3])
        what = "lacks" if missing else "has more than is trained now:"
        raise UserError(f"{path} {what} {names}; resume with the settings of that run (what is trained differs)")
    arrays = {}
    for name, value in wanted.items():
        if tensors.shape(name) != whole_shape(value):
            raise UserError(f"{path}: {name} has shape {tensors.shape(name)}, the network {whole_shape(value)}")
        cut = cut_of(value)
        arrays[name] = part(tensors.entries[name], cut) if cut else np.asarray(tensors[name])
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
