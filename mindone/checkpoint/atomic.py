"""Files and folders that appear whole or not at all: written beside their place, flushed to disk, renamed into it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mindone.errors import UserError

# The start of every unfinished file's or folder's name; a reader that lists a folder leaves such names out.
UNFINISHED = ".tmp-"
_READ_BLOCK = 1 << 22
_WRITE_BEHIND = 1 << 23


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """An open binary file that becomes ``path`` when the block ends, and vanishes when the block fails.

    What was at ``path`` stays until the new content is complete and on disk. The file may also be written through its
    ``name`` by a library that wants a path. Missing parent folders are made; the mode is 0666 less the umask.

    Raises:
        UserError: the place cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = _beside(path)
    with _readable_errors(path):
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(temporary, "xb")  # noqa: SIM115
    try:
        with _full_disk(path):
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
    try:
        with _full_disk(path):
            yield temporary
            sync_tree(temporary)
        with _readable_errors(path):
            if path.exists():
                os.rename(path, old)
            os.rename(temporary, path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: str | Path) -> None:
    """Deletes a folder that vanishes from its place at once, so that no one finds it half deleted."""
    path = Path(path)
    aside = _beside(path)
    os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


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


@contextlib.contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"cannot write {path}: the disk is full; free some space and repeat") from error
        raise
