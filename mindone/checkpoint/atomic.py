"""Files and folders that appear whole or not at all: written beside their place, flushed to disk, renamed into it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mindone.errors import UserError

logger = logging.getLogger(__name__)

# The start of every unfinished file's or folder's name; a reader that lists a folder leaves such names out.
UNFINISHED = ".tmp-"
_READ_BLOCK = 1 << 22
_WRITE_BEHIND = 1 << 23
# What the system says when a place takes no more, or fails.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FAILED = (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS)
# Folders that are being filled → the places they will have: messages name those.
_unfinished: dict[Path, Path] = {}


@contextlib.contextmanager
def atomic_write(path: str | Path, size: int = 0) -> Iterator[BinaryIO]:
    """An open binary file that becomes ``path`` when the block ends, and vanishes when the block fails.

    What was at ``path`` stays until the new content is complete and on disk. The file may also be written through its
    ``name`` by a library that wants a path. Missing parent folders are made; the mode is 0666 less the umask.

    Args:
        size: how many bytes it will have, if that is known: then a disk without that room is found at once.
    Raises:
        UserError: the place cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = _beside(path)
    with _readable_errors(path):
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_room(path, size)
        file = open(temporary, "xb")  # noqa: SIM115
    try:
        with _failed_disk(path, temporary, size):
            with file:
                yield file
            sync_file(temporary)
        with _readable_errors(path):
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new empty folder that becomes ``path`` when the block ends, and vanishes when the block fails.

    Every file in it is flushed to disk before the rename. A folder that is at ``path`` already is moved aside and
    deleted after the new one has taken its place.

    Raises:
        UserError: the place cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary, old = _beside(path), _beside(path)
    with _readable_errors(path):
        if path.exists() and not path.is_dir():
            raise UserError(f"cannot write {path}: it is a file; give the name of a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    _unfinished[temporary] = path
    try:
        with _failed_disk(path, temporary):
            yield temporary
            sync_tree(temporary)
        with _readable_errors(path):
            if path.exists():
                os.rename(path, old)
            os.rename(temporary, path)
            sync_folder(path.parent)
    finally:
        del _unfinished[temporary]
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def require_new_folder(path: str | Path) -> None:
    """Refuses a folder that has files already, which `atomic_folder` would delete.

    Raises:
        UserError: it has.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} has files already; give the name of a new folder")


def remove_folder(path: str | Path) -> bool:
    """Deletes a folder that vanishes from its place at once, so that no one finds it half deleted.

    Returns:
        Whether it is gone; one that the system holds fast (mounted, or owned by another) stays, with a warning.
    """
    path = Path(path)
    aside = _beside(path)
    try:
        os.rename(path, aside)
    except OSError as error:
        logger.warning("%s stays: it cannot be deleted (%s)", path, error.strerror or error)
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def require_writable(folder: str | Path, size: int = 0) -> None:
    """Makes a folder if it is missing and tries to write into it, so that a long run fails when it starts.

    Args:
        size: how many bytes there has to be room for.
    Raises:
        UserError: nothing can be written there, or there is less room.
    """
    folder = Path(folder)
    probe = folder / f"{UNFINISHED}{secrets.token_hex(6)}-probe"
    with _readable_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"x")
        finally:
            probe.unlink(missing_ok=True)
        _require_room(probe, size, folder)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_behind(file: BinaryIO, begun: int) -> int:
    """Lets the system begin to write what ``file`` got since byte ``begun``, and returns how far it has begun.

    So the disk works while the rest of a large file is being made, and the final flush has little left to do. Without
    it the system waits with the writing; where it takes no such advice, nothing happens.
    """
    position = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    if position - begun < _WRITE_BEHIND or not hasattr(os, "posix_fadvise"):
        return begun
    os.posix_fadvise(file.fileno(), begun, position - begun, os.POSIX_FADV_DONTNEED)
    return position


def sync_file(path: Path) -> None:
    """Returns once the file's content is on disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Returns once the folder's list of names is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """`sync_file` and `sync_folder` for everything in a folder, and for itself."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync_file(Path(place, name))
        sync_folder(Path(place))


def _beside(path: Path) -> Path:
    # A part of the name is enough to tell leftovers of a killed process apart, and keeps within the limit of 255 bytes.
    return path.parent / f"{UNFINISHED}{secrets.token_hex(6)}-{path.name[:40]}"


def _place(path: Path) -> Path:
    """The place that a file will have in the end, if a folder above it is being filled under a temporary name."""
    for folder in path.parents:
        if folder in _unfinished:
            return _place(_unfinished[folder] / path.relative_to(folder))
    return path


@contextlib.contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {_place(path)}: {error.strerror or error}") from error


@contextlib.contextmanager
def _failed_disk(path: Path, temporary: Path, size: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(path, size, _written(temporary)) from error
        if error.errno in _FAILED:
            raise UserError(f"cannot write {_place(path)}: {error.strerror}") from error
        raise


def _require_room(path: Path, size: int, named: Path | None = None) -> None:
    free = _free(path.parent)
    if size and free is not None and free < size:
        raise _full(named or path, size)


def _free(folder: Path) -> int | None:
    """Bytes that can still be written there; None where the system does not know."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None


def _full(path: Path, size: int, written: int = 0) -> UserError:
    folder = next((folder for folder in path.parents if folder.is_dir()), Path("."))
    needed = f"{size:,} bytes are needed" if size else f"more than the {written:,} bytes written so far are needed"
    free = _free(folder)
    there = "" if free is None else f", {free + written:,} are free"
    return UserError(f"cannot write {_place(path)}: the disk is full ({needed}{there}); free some space and repeat")


def _written(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
