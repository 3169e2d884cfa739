"""Arrays from ``.npz`` and ``.npy`` files that nobody vouches for: nothing is unpickled or allocated unchecked.

An array's header says how large it is. It is compared with the size of the file, or of the entry of the archive, before
memory is asked for.
"""

from __future__ import annotations

import ast
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mindone.data.errors import BadSample

# A compressed entry that gets larger than this, and by more than this factor, is taken for a trap: float32 numbers
# shrink to half their size at best, and small arrays of zeros do no harm.
LARGEST_INFLATED = 1 << 28
LARGEST_FACTOR = 20

_LONGEST_HEADER = 4096
_MAGIC = b"\x93NUMPY"


class _Damaged(Exception):
    """Why an array cannot be read, without its file's name."""


def read_npz(path: str | Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays called ``names`` that an archive has; others are not looked at.

    Raises:
        BadSample: the file is missing or damaged, or an entry is no array of numbers.
    """
    arrays, name = {}, ""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            whole = os.path.getsize(path)
            for name in sorted(set(names) & set(entries)):
                if entries[name].compress_size > whole:
                    raise _Damaged("says that it is larger than the file")
                arrays[name] = _read_entry(archive, entries[name])
    except FileNotFoundError as error:
        raise BadSample(f"{path} is missing") from error
    except _Damaged as error:
        raise BadSample(f"{path} is damaged: {name} {error}") from error
    except Exception as error:  # zipfile and zlib raise many kinds for damaged files
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        raise BadSample(f"{path} is damaged or not an npz file ({reason})") from error
    return arrays


def npz_names(path: str | Path) -> set[str]:
    """The names of the arrays in an archive, by its directory alone; none if it is not a whole archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception:  # as above; what is not readable has to be made again
        return set()


def read_npy(path: str | Path) -> np.ndarray:
    """The array of an ``.npy`` file.

    Raises:
        BadSample: the file is missing or damaged, or holds no array of numbers.
    """
    try:
        with open(path, "rb") as file:
            return _read_array(file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise BadSample(f"{path} is missing") from error
    except _Damaged as error:
        raise BadSample(f"{path} is damaged or not an npy file: it {error}") from error
    except (OSError, MemoryError, ValueError) as error:
        raise BadSample(f"{path} cannot be read ({error or type(error).__name__})") from error


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.file_size > max(LARGEST_INFLATED, LARGEST_FACTOR * info.compress_size):
        raise _Damaged(f"would grow from {info.compress_size} to {info.file_size} bytes when it is unpacked")
    with archive.open(info) as file:
        return _read_array(file, info.file_size)


def _read_array(file: BinaryIO, size: int) -> np.ndarray:
    """The array in a file of ``size`` bytes, which has to be filled by it exactly."""
    shape, fortran_order, dtype, begin = _read_header(file)
    nbytes = dtype.itemsize
    for side in shape:
        nbytes *= side
    if nbytes != size - begin:
        raise _Damaged(f"says that it has the shape {shape} and takes {nbytes} bytes, but there are {size - begin}")
    array = np.empty(shape[::-1] if fortran_order else shape, dtype)
    content = memoryview(array.reshape(-1)).cast("B") if array.nbytes else memoryview(b"")
    # reading on to the end makes zipfile compare the checksum
    if (array.nbytes and file.readinto(content) != array.nbytes) or file.read(1):
        raise _Damaged("ends too early or too late")
    return array.T if fortran_order else array


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether it is in Fortran's order, dtype, and where the numbers begin."""
    start = file.read(8)
    if start[:6] != _MAGIC or start[6:7] not in (b"\1", b"\2", b"\3"):
        raise _Damaged("is not an array")
    count = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(count), "little")
    if length > _LONGEST_HEADER:
        raise _Damaged(f"has a header of {length} bytes")
    try:
        fields = ast.literal_eval(file.read(length).decode("latin-1").strip())
        shape, fortran_order, descr = fields["shape"], fields["fortran_order"], fields["descr"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise _Damaged("has no readable header") from error
    if (
        not isinstance(shape, tuple)
        or not all(type(side) is int and 0 <= side < 1 << 60 for side in shape)
        or len(shape) > 32
    ):
        raise _Damaged(f"has the impossible shape {str(shape)[:60]}")
    return shape, bool(fortran_order), _number_type(descr), 8 + count + length


def _number_type(descr: object) -> np.dtype:
    try:
        dtype = np.dtype(descr) if isinstance(descr, str) else None
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    # bool, integers, floats; "O" would be unpickled, texts and complex numbers are no data of any cache
    if dtype is None or dtype.kind not in "biuf":
        what = "objects (allow_pickle=False)" if dtype is not None and dtype.hasobject else f"{str(descr)[:40]!r}"
        raise _Damaged(f"holds no numbers but {what}")
    return dtype
