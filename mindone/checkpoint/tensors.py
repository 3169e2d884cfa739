"""`TensorFile`: a mapping from names to arrays that are read only when they are asked for."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mindone.errors import UserError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MAX_DIMENSIONS = 32
# Far more than any network has: a file with more is made to fill the memory.
MAX_TENSORS = 200_000
# More than any size, stride or position in bytes; beyond it lie the limits of numpy.
MAX_NUMBER = 1 << 48
_MAX_QUOTED = 300

# The names of dtypes in settings and options.
FLOAT_DTYPES = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": BFLOAT16}

# MindSpore's names of dtypes, as it prints them and as its checkpoint files carry them.
MINDSPORE_DTYPES = {
    "Bool": np.dtype(np.bool_),
    "Int8": np.dtype(np.int8),
    "Int16": np.dtype(np.int16),
    "Int32": np.dtype(np.int32),
    "Int64": np.dtype(np.int64),
    "UInt8": np.dtype(np.uint8),
    "UInt16": np.dtype(np.uint16),
    "UInt32": np.dtype(np.uint32),
    "UInt64": np.dtype(np.uint64),
    "Float16": np.dtype(np.float16),
    "Float32": np.dtype(np.float32),
    "Float64": np.dtype(np.float64),
    "BFloat16": BFLOAT16,
    "Complex64": np.dtype(np.complex64),
    "Complex128": np.dtype(np.complex128),
}


class MappedFile(mmap.mmap):
    """The read-only memory map of a file, which stays open as ``handle`` as long as the map is in use."""

    def __new__(cls, handle: int) -> MappedFile:
        content = super().__new__(cls, handle, 0, access=mmap.ACCESS_READ)
        content.handle = os.dup(handle)
        weakref.finalize(content, os.close, content.handle)
        return content


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its dtype and shape, and a function that reads it as a (read-only) array."""

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    stored: tuple[MappedFile, int] | None = None
    """the file that holds its bytes in row-major order, and the position of the first; None if none does"""
    flat: Callable[[int, int], np.ndarray] | None = None
    """reads ``(begin, count)`` of the flattened array alone; None if that is not possible"""

    def part(self, begin: int, count: int) -> np.ndarray:
        """``count`` values of the flattened array from ``begin`` on, without reading the others if that is possible."""
        if self.flat is not None:
            return self.flat(begin, count)
        if self.stored is not None:
            content, offset = self.stored
            return view(content, offset + begin * self.dtype.itemsize, self.dtype, (count,))
        return self.read().reshape(-1)[begin : begin + count]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class TensorFile(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint: ``file[name]`` reads one; names, shapes and dtypes cost nothing.

    Arrays are read-only views of the mapped file wherever its format allows it.

    Attributes:
        path: where the tensors come from, for messages.
        entries: name → `Entry`, in the order of the file.
        metadata: the strings stored beside the tensors.
        is_complete: False if a file that lacks its last tensors would have looked the same.
    """

    def __init__(
        self,
        path: str | Path,
        entries: Mapping[str, Entry],
        metadata: Mapping[str, str] | None = None,
        is_complete: bool = True,
    ):
        self.path = Path(path)
        self.entries = dict(entries)
        self.metadata = dict(metadata or {})
        self.is_complete = is_complete

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __repr__(self) -> str:
        return f"TensorFile({str(self.path)!r}, {len(self)} tensors)"

    def shape(self, name: str) -> tuple[int, ...]:
        return self.entries[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self.entries[name].dtype

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries.values())

    def under(self, prefix: str) -> TensorFile:
        """The tensors whose names start with ``prefix``, without it."""
        kept = {name[len(prefix) :]: entry for name, entry in self.entries.items() if name.startswith(prefix)}
        return TensorFile(self.path, kept, self.metadata)

    def renamed(self, names: Mapping[str, str]) -> TensorFile:
        """The same tensors, some under new names.

        Raises:
            UserError: two tensors get the same name.
        """
        entries: dict[str, Entry] = {}
        for name, entry in self.entries.items():
            new = names.get(name, name)
            if new in entries:
                raise UserError(f"{self.path} holds two tensors for {new}; one of them is {name}")
            entries[new] = entry
        return TensorFile(self.path, entries, self.metadata)


def one_line(text: str) -> str:
    """A text from a file as part of a message: short, and without characters that steer a terminal."""
    text = text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "..."
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def as_tensor_file(source: TensorFile | Mapping[str, Any] | Iterable[tuple[str, Any]]) -> TensorFile:
    """Any collection of named arrays or MindSpore tensors as a `TensorFile` that converts each when it is read."""
    if isinstance(source, TensorFile):
        return source
    pairs = source.items() if isinstance(source, Mapping) else source
    return TensorFile("<memory>", {name: entry_of(value) for name, value in pairs})


def entry_of(value: Any) -> Entry:
    """The `Entry` of a numpy array or of a MindSpore tensor or parameter."""
    if not hasattr(value, "asnumpy"):
        array = np.asarray(value)
        return Entry(array.dtype, array.shape, lambda: array)
    dtype = MINDSPORE_DTYPES[str(value.dtype)]
    # MindSpore has a numpy bfloat16 of its own, which is not equal to that of ml_dtypes but has the same bits.
    return Entry(dtype, tuple(value.shape), lambda: value.asnumpy().view(dtype))


def is_float(dtype: np.dtype) -> bool:
    """Whether a dtype holds real numbers; those of ml_dtypes do not say so by their kind alone."""
    return dtype.kind in "fV"


# Bits from which on a float is infinite or NaN, by its bytes: of positive ones, and of negative ones with the sign.
_NOT_FINITE = {
    np.dtype(np.float32): (np.int32, 0x7F800000, np.uint32, 0xFF800000),
    np.dtype(np.float16): (np.int16, 0x7C00, np.uint16, 0xFC00),
    BFLOAT16: (np.int16, 0x7F80, np.uint16, 0xFF80),
}
_FINITE_BLOCK = 1 << 19


def is_finite(array: np.ndarray) -> bool:
    """Whether an array is free of NaN and infinity.

    Of floats the bits are compared as integers, block by block: so the values pass through the processor's cache once,
    nothing is allocated, and the check is a few times as fast as `numpy.isfinite`.
    """
    if array.dtype.kind in "biuO" or not array.size:
        return True
    if array.dtype not in _NOT_FINITE or not array.flags.c_contiguous:
        wide = array if array.dtype.kind in "fc" else array.astype(np.float32)
        return bool(np.isfinite(wide).all())
    signed, positive, unsigned, negative = _NOT_FINITE[array.dtype]
    flat = array.reshape(-1)
    step = _FINITE_BLOCK // array.itemsize
    for start in range(0, flat.size, step):
        block = flat[start : start + step]
        if block.view(signed).max() >= positive or block.view(unsigned).max() >= negative:
            return False
    return True


def float_dtype(name: str) -> np.dtype:
    """The numpy dtype of ``fp32``, ``fp16`` or ``bf16``.

    Raises:
        UserError: another name.
    """
    if name not in FLOAT_DTYPES:
        raise UserError(f"dtype={name} is not known; use one of {', '.join(FLOAT_DTYPES)}")
    return FLOAT_DTYPES[name]


def cast(tensors: TensorFile, dtype: str) -> TensorFile:
    """The same tensors with all floating ones converted to ``fp32``, ``fp16`` or ``bf16`` when they are read.

    Raises:
        UserError: an unknown dtype.
    """
    wanted = float_dtype(dtype)
    entries = {name: _cast_entry(entry, wanted) for name, entry in tensors.entries.items()}
    return TensorFile(tensors.path, entries, tensors.metadata)


def _cast_entry(entry: Entry, dtype: np.dtype) -> Entry:
    if entry.dtype == dtype or not is_float(entry.dtype):
        return entry
    return Entry(dtype, entry.shape, lambda: narrowed(entry.read(), dtype))


def narrowed(array: np.ndarray, dtype: np.dtype, out: np.ndarray | None = None) -> np.ndarray:
    """The array as another floating dtype, in ``out`` if given.

    Raises:
        UserError: a finite value is too large for it.
    """
    out = np.empty(array.shape, dtype) if out is None else out
    try:
        with np.errstate(over="raise"):
            np.copyto(out, array, casting="unsafe")
    except FloatingPointError as error:
        largest = np.abs(array[np.isfinite(array)]).max()
        hint = "; use bf16 or fp32" if dtype == np.float16 else ""
        raise UserError(f"the value {largest:.4g} is too large for {dtype.name}{hint}") from error
    return out


def map_file(path: str | Path) -> MappedFile:
    """The read-only memory map of a file.

    Raises:
        UserError: it is missing, a folder, unreadable or empty.
    """
    try:
        with open(path, "rb") as file:
            return MappedFile(file.fileno())
    except ValueError as error:
        raise UserError(f"{path} is empty; copy or download it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def view(content: mmap.mmap, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A read-only array over the bytes of a mapped file, which the caller has checked to be there."""
    forget_pages(content)
    return np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)


def stored_entry(content: MappedFile, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Entry:
    """The `Entry` of a tensor whose bytes lie in row-major order at ``offset`` of a mapped file, and inside it."""
    return Entry(dtype, shape, partial(view, content, offset, dtype, shape), (content, offset))


def forget_pages(content: mmap.mmap) -> None:
    """Gives back the memory of what was read so far; arrays over it stay valid and are read again if needed."""
    if hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED)
