"""Checkpoints of a training run: whole folders, or none, so a save that is killed leaves the one before it.

A run's folder holds ``step-00000100`` and so on. Each is filled under a temporary name, ``manifest.json`` (size and
SHA-256 of each file) is written, everything is flushed to disk, and only then does the folder get its name. A step that
is saved again becomes ``step-00000100-2`` before the first one goes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindone.checkpoint.atomic import UNFINISHED, atomic_folder, remove_folder, sha256
from mindone.checkpoint.files import read_json
from mindone.errors import UserError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
Writer = Callable[[Path], Any] | bytes
_STEP = re.compile(r"step-(\d{8,})(?:-(\d+))?")


@dataclass(frozen=True)
class RunCheckpoint:
    """One complete checkpoint: its folder, the step after which it was saved, and what was stored with it."""

    path: Path
    step: int
    metadata: Mapping[str, Any]

    def verify(self) -> None:
        """Compares every file with its SHA-256.

        Raises:
            UserError: a file has changed since it was saved.
        """
        verify_manifest(self.path)

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            UserError: the checkpoint has no such file.
        """
        path = self.path / name
        if not path.is_file():
            raise UserError(f"the checkpoint {self.path} has no {name}; was it saved by another kind of run?")
        return path


class RunCheckpoints:
    """The checkpoints in a run's folder, of which those written last are kept.

    Their order is that of writing, not of their steps: a run that begins anew in a used folder goes on from its own.

    Args:
        keep_last: how many are kept; 0 keeps all.
        keep_every: checkpoints of steps that are a multiple of it are kept as well; 0 is none.
    """

    def __init__(self, folder: str | Path, keep_last: int = 3, keep_every: int = 0):
        for name, value in (("keep_last", keep_last), ("keep_every", keep_every)):
            if value < 0:
                raise UserError(f"{name}={value} has to be 0 or more")
        self.folder, self.keep_last, self.keep_every = Path(folder), keep_last, keep_every

    def save(
        self, step: int, writers: Mapping[str, Writer], metadata: Mapping[str, Any] | None = None
    ) -> RunCheckpoint:
        """Saves one checkpoint and then drops the oldest ones beyond ``keep_last``.

        Args:
            step: finished steps; a checkpoint of the same step is replaced.
            writers: name in the checkpoint → its bytes, or a function that writes a file or folder to the path it gets.
            metadata: JSON values stored in the manifest.
        Raises:
            UserError: the folder cannot be written, or the disk is full; earlier checkpoints are untouched.
        """
        path = self._free_name(step)
        with atomic_folder(path) as temporary:
            for name, writer in writers.items():
                _write(temporary / _inside(self.folder, name), writer)
            content = {"step": step, "written": self._next_number(), "metadata": dict(metadata or {})}
            content["files"] = _described(temporary)
            _write(temporary / MANIFEST, (json.dumps(content, indent=2) + "\n").encode("utf-8"))
        self._drop_old()
        return RunCheckpoint(path, step, content["metadata"])

    def all(self) -> list[RunCheckpoint]:
        """The complete checkpoints in the order of writing; an incomplete one is named in a warning and left out."""
        found = []
        for path in self._step_folders():
            try:
                content = _manifest(path)
                _check_sizes(path, content["files"])
                found.append((_number(content), RunCheckpoint(path, content["step"], content["metadata"])))
            except UserError as error:
                logger.warning("left out: %s", error)
        return [checkpoint for _, checkpoint in sorted(found, key=lambda item: item[0])]

    def latest(self) -> RunCheckpoint | None:
        """The newest checkpoint that is complete and whose files have their SHA-256, or None."""
        for checkpoint in reversed(self.all()):
            try:
                checkpoint.verify()
                return checkpoint
            except UserError as error:
                logger.warning("left out: %s", error)
        return None

    def clean(self) -> None:
        """Removes what killed runs left unfinished, and says so. Only for a folder that no other process writes to."""
        for path in sorted(self.folder.glob(f"{UNFINISHED}*")):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            logger.warning("removed %s: a save that was interrupted left it unfinished", path)

    def _step_folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if path.is_dir() and _STEP.fullmatch(path.name)]
        return sorted(found, key=_order)

    def _free_name(self, step: int) -> Path:
        used = [_order(path)[1] for path in self._step_folders() if _order(path)[0] == step]
        return self.folder / (f"step-{step:08d}-{max(used) + 1}" if used else f"step-{step:08d}")

    def _next_number(self) -> int:
        """One more than that of every checkpoint so far: clocks may be set back, and copies get new times."""
        numbers = [0]
        for path in self._step_folders():
            with contextlib.suppress(UserError):
                numbers.append(_number(_manifest(path)))
        return max(numbers) + 1

    def _drop_old(self) -> None:
        # Damaged ones do not count as kept, or they could push out the last good one.
        latest_of_step: dict[int, Path] = {}
        for checkpoint in self.all():
            latest_of_step.pop(checkpoint.step, None)
            latest_of_step[checkpoint.step] = checkpoint.path
        keep = set(list(latest_of_step.values())[-self.keep_last :])
        if self.keep_every:
            keep |= {path for step, path in latest_of_step.items() if step % self.keep_every == 0}
        first_kept = min(map(_order, keep))
        for path in self._step_folders():
            if path not in keep and (_order(path)[0] in latest_of_step or _order(path) < first_kept):
                remove_folder(path)


def _order(path: Path) -> tuple[int, int]:
    """(step, how often that step was saved) of a checkpoint's folder."""
    match = _STEP.fullmatch(path.name)
    return int(match[1]), int(match[2] or 1)


def check_saved_size(path: Path) -> None:
    """Compares the size of a file with the manifest of the checkpoint it belongs to, if it belongs to one.

    Raises:
        UserError: it is not as long as it was when it was saved.
    """
    for folder in path.absolute().parents[:2]:
        try:
            described = _manifest(folder)["files"].get(path.absolute().relative_to(folder).as_posix())
        except UserError:  # No manifest, or that of another program.
            continue
        size = path.stat().st_size
        if described and described["size"] != size:
            raise UserError(f"{path} has {size} of the {described['size']} bytes that were saved; copy it again")


def verify_manifest(folder: str | Path) -> int:
    """Compares the files of a checkpoint folder with its manifest and returns how many there are.

    Raises:
        UserError: no readable manifest, or a file is missing or has changed.
    """
    folder = Path(folder)
    files = _manifest(folder)["files"]
    _check_sizes(folder, files)
    for name, described in files.items():
        if sha256(folder / name) != described["sha256"]:
            raise UserError(f"{folder / name} has changed since it was saved (SHA-256); use another checkpoint")
    return len(files)


def _inside(folder: Path, name: str) -> str:
    if ".." in Path(name).parts or Path(name).is_absolute() or name == MANIFEST:
        raise UserError(f"{name} cannot be the name of a file in the checkpoint folder {folder}")
    return name


def _write(path: Path, writer: Writer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(writer, bytes):
        path.write_bytes(writer)
    else:
        writer(path)


def _described(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)} for path in files
    }


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} is not a complete checkpoint: {MANIFEST} is not there")
    try:
        content = read_json(path, "manifest")
        files = content["files"]
        if not isinstance(content["step"], int) or not isinstance(content["metadata"], dict):
            raise TypeError("step or metadata")
        if not all({"size", "sha256"} <= set(described) for described in files.values()):
            raise TypeError("files")
    except (UserError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is not a complete checkpoint: {MANIFEST} is damaged") from error
    return content


def _number(manifest: Mapping[str, Any]) -> int:
    """The place of a checkpoint in the order of writing; 0 for those that do not say theirs."""
    number = manifest.get("written")
    return number if isinstance(number, int) else 0


def _check_sizes(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, described in files.items():
        path = folder / _inside(folder, name)
        size = path.stat().st_size if path.is_file() else None
        if size != described["size"]:
            state = "is missing" if size is None else f"has {size} of {described['size']} bytes"
            raise UserError(f"{folder} is not a complete checkpoint: {name} {state}")
