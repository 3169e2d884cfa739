"""The folder of a training run: how a new one is made, and how a run is found again.

::

    <output_path>/<date and time>/
        args.yaml  result.log  log_<rank>.txt  tensorboard/  samples/
        rows.npy                                       a hash per row of the table
        bad_samples.csv  skipped_updates.csv           if there were any
        ckpt/step-00000100/{model/, ema/, optimizer.safetensors, state.json, manifest.json}
        model/                      the result: averaged weights if an EMA is kept, the trained ones otherwise

``model`` and ``ema`` are model folders (``config.json`` and ``model.safetensors``) that any command takes as weights.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mindone.checkpoint.atomic import require_writable
from mindone.checkpoint.find import CHECKPOINTS
from mindone.checkpoint.run import RunCheckpoint, RunCheckpoints
from mindone.errors import UserError
from mindone.folders import make_run_folder, time_stamp
from mindone.parallel.collectives import barrier, from_first_rank
from mindone.parallel.mesh import Mesh
from mindone.train.tracker import RESULT_LOG, VALIDATION_LOG, has_updates

logger = logging.getLogger(__name__)

RESULT = "model"
# What is there before the first update, and tells nothing without one.
STARTED = ("args.yaml", RESULT_LOG, VALIDATION_LOG, "log_*.txt", "rows.npy", "tensorboard", CHECKPOINTS)

# True: the newest run has to be there; auto: it may be; a path: this run, or this checkpoint of it.
Resume = bool | Literal["auto"] | str


@dataclass(frozen=True)
class Found:
    """The run to go on with: its folder and its checkpoint."""

    folder: Path
    checkpoint: RunCheckpoint


def open_folder(
    output_path: str | Path, add_datetime: bool, found: Found | None, mesh: Mesh, overwrite: bool = False
) -> Path:
    """The folder of a run, the same on all ranks: a new one, or that of a run of ``output_path`` that goes on.

    A run from elsewhere goes on in a new folder, with the log of its updates so far; its own folder stays as it is.

    Args:
        add_datetime: put a new run into a subfolder named by date and time.
        overwrite: a new run may use the folder of another one.
    Raises:
        UserError: it cannot be made or written, or has a run in it already.
    """
    if found and found.folder.resolve() in (Path(output_path).resolve(), *_subfolders(output_path)):
        if mesh.is_main:
            require_writable(found.folder / CHECKPOINTS)
        return found.folder
    now = time_stamp(from_first_rank(int(time.time()), mesh))
    folder = Path(output_path) / now if add_datetime else Path(output_path)
    if _is_used(folder) and not overwrite:
        raise UserError(
            f"{folder} has a training run already; go on with it by --resume True, choose another output_path, "
            "or begin anew in it by --overwrite True"
        )
    # Every rank has looked before the first one begins to write.
    barrier(mesh)
    make_run_folder(output_path, now if add_datetime else None)
    if mesh.is_main:
        require_writable(folder / CHECKPOINTS)
    if found and mesh.is_main and (found.folder / RESULT_LOG).is_file():
        shutil.copyfile(found.folder / RESULT_LOG, folder / RESULT_LOG)
    barrier(mesh)
    return folder


def _subfolders(output_path: str | Path) -> list[Path]:
    path = Path(output_path)
    return [folder.resolve() for folder in path.iterdir() if folder.is_dir()] if path.is_dir() else []


def _is_used(folder: Path) -> bool:
    """Whether an update was made in it: a start that failed leaves nothing that could be lost."""
    return has_updates(folder / RESULT_LOG) or any((folder / CHECKPOINTS).glob("step-*"))


def remove_unless_used(folder: Path) -> None:
    """Takes what a start has written out of a run's folder, and the folder if nothing else is in it.

    A run that made an update stays as it is, and so does a list of bad samples.
    """
    if _is_used(folder):
        return
    for name in STARTED:
        for path in folder.glob(name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def find_run(output_path: str | Path, resume: Resume) -> Found | None:
    """The run that ``resume`` asks for; None if it asks for none, or is ``auto`` and there is none yet.

    True and ``auto`` take the newest run in ``output_path`` that has a checkpoint. A path may be a run's folder, its
    ``ckpt`` folder or one checkpoint.

    Raises:
        UserError: there is nothing to resume.
    """
    if not resume:
        return None
    if resume is not True and resume != "auto":
        return _run_at(Path(resume))
    output_path = Path(output_path)
    folders = [output_path, *output_path.iterdir()] if output_path.is_dir() else []
    runs = [folder for folder in folders if (folder / CHECKPOINTS).is_dir()]
    for folder in sorted(runs, key=lambda folder: (folder / CHECKPOINTS).stat().st_mtime, reverse=True):
        checkpoint = RunCheckpoints(folder / CHECKPOINTS).latest()
        if checkpoint:
            return Found(folder, checkpoint)
    if resume is True:
        raise UserError(
            f"resume=True, but no run in {output_path} has a complete checkpoint; "
            "leave it out to begin a run, or use --resume auto to begin or go on"
        )
    logger.info("there is no run to resume in %s: a new one begins", output_path)
    return None


def check_changes(before: Mapping[str, Any], now: Mapping[str, Any], allowed: bool = False) -> None:
    """Compares the settings that change a run's numbers with those of the run that is resumed.

    Args:
        allowed: only warn of what differs.
    Raises:
        UserError: something differs; the message lists it.
    """
    now = json.loads(json.dumps(now))
    changed = [
        f"{name} was {before[name]} and is {now[name]}" for name in now if before.get(name, now[name]) != now[name]
    ]
    if changed and not allowed:
        raise UserError(
            f"the run to resume had other settings: {'; '.join(changed)}; give the same ones, or --allow_changes True"
        )
    for change in changed:
        logger.warning("%s now: the losses may differ from those of a run without interruption", change)


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
