"""Reading and writing the ``.ckpt`` files of MindSpore without MindSpore.

A file is a protocol buffer: ``repeated Value value = 1`` with ``Value {string tag = 1; TensorProto tensor = 2}`` and
``TensorProto {repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3}``, and may end in ``crc_num``
and ten bytes with the CRC-32 of all before. A large tensor is a row of values with the same tag. The format does not
say how many tensors there are: of a file without the checksum that was cut between two of them, only a network (or
another checkpoint) can tell that something is missing.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mindone.checkpoint.atomic import atomic_write
from mindone.checkpoint.safetensors_file import write_array
from mindone.checkpoint.tensors import (
    MAX_DIMENSIONS,
    MAX_NUMBER,
    MAX_TENSORS,
    MINDSPORE_DTYPES,
    Entry,
    MappedFile,
    TensorFile,
    as_tensor_file,
    map_file,
    one_line,
    stored_entry,
)
from mindone.errors import UserError

CHECKSUM_MARK = b"crc_num"
CHECKSUM_BYTES = len(CHECKSUM_MARK) + 10
# MindSpore writes large tensors in parts of this many bytes; a protocol buffer must stay below 2 GiB.
PART_BYTES = 1 << 29
MAX_PARTS = 10_000
MAX_NAME = 4096
CRC_BLOCK = 1 << 26
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DTYPE_NAMES = {dtype: name for name, dtype in MINDSPORE_DTYPES.items()}

Span = tuple[int, int]


@dataclass
class _Value:
    dtype_name: str
    dims: tuple[int, ...]
    parts: list[Span] = field(default_factory=list)


def read_ckpt(path: str | Path) -> TensorFile:
    """Maps one MindSpore checkpoint file.

    Raises:
        UserError: cut, damaged (the checksum is verified if there is one), encrypted or of another format.
    """
    content = map_file(path)
    end = _end_of_values(path, content)
    values: dict[str, _Value] = {}
    last = None
    try:
        for number, span in _fields(content, (0, end)):
            if number != 1 or not isinstance(span, tuple):
                raise ValueError("an unknown part")
            name, value = _value(content, span)
            if len(values) == MAX_TENSORS:
                raise ValueError(f"it has more than {MAX_TENSORS} tensors")
            if name in values and (name != last or value.dims != values[name].dims):
                raise ValueError(f"tensor {name} occurs twice")
            parts = values.setdefault(name, _Value(value.dtype_name, value.dims)).parts
            parts += value.parts
            if len(parts) > MAX_PARTS:
                raise ValueError(f"tensor {name} has more than {MAX_PARTS} parts")
            last = name
    except (ValueError, UnicodeDecodeError) as error:
        _damaged(path, str(error))
    entries = {name: _entry(path, content, name, value) for name, value in values.items() if value.dtype_name != "str"}
    return TensorFile(path, entries, is_complete=end < len(content))


def _damaged(path: str | Path, reason: str) -> NoReturn:
    raise UserError(
        f"{path} is not a sound MindSpore checkpoint: {one_line(reason)}; it may be cut or encrypted: copy or save it "
        "again"
    )


def _end_of_values(path: str | Path, content: mmap.mmap) -> int:
    end = len(content) - CHECKSUM_BYTES
    if end < 0 or content[end : end + len(CHECKSUM_MARK)] != CHECKSUM_MARK:
        return len(content)
    checksum = 0
    with memoryview(content) as view_of_all:
        for start in range(0, end, CRC_BLOCK):
            with view_of_all[start : min(start + CRC_BLOCK, end)] as block:
                checksum = zlib.crc32(block, checksum)
    if checksum != int.from_bytes(content[end + len(CHECKSUM_MARK) :], "big"):
        _damaged(path, "its checksum does not fit its content")
    return end


# --- protocol buffer -------------------------------------------------------------------------------------------------


def _varint(content: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("it ends inside a number")


def _fields(content: mmap.mmap, span: Span) -> Iterator[tuple[int, int | Span]]:
    """(field number, value) of a message; the value of a text, bytes or inner message is its place in the file."""
    position, end = span
    while position < end:
        key, position = _varint(content, position, end)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = _varint(content, position, end)
            yield number, value
        elif kind in (BYTES, FIXED64, FIXED32):
            size, position = (
                _varint(content, position, end) if kind == BYTES else (8 if kind == FIXED64 else 4, position)
            )
            if position + size > end:
                raise ValueError(f"it ends {position + size - end} bytes too early")
            yield number, (position, position + size)
            position += size
        else:
            raise ValueError("an unknown part")


def _text(content: mmap.mmap, span: int | Span) -> str:
    if isinstance(span, int):
        raise ValueError("a number in place of a text")
    if span[1] - span[0] > MAX_NAME:
        raise ValueError(f"a name of {span[1] - span[0]} bytes")
    return content[span[0] : span[1]].decode("utf-8")


def _value(content: mmap.mmap, span: Span) -> tuple[str, _Value]:
    name, tensor = None, None
    for number, inner in _fields(content, span):
        if number == 1:
            name = _text(content, inner)
        elif number == 2 and isinstance(inner, tuple):
            tensor = _tensor(content, inner)
    if name is None or tensor is None:
        raise ValueError("a value without name or tensor")
    return name, tensor


def _tensor(content: mmap.mmap, span: Span) -> _Value:
    dims: list[int] = []
    value = _Value("", ())
    for number, inner in _fields(content, span):
        if number == 1:
            dims += [inner] if isinstance(inner, int) else _packed(content, inner)
            if len(dims) > MAX_DIMENSIONS or max(dims, default=0) > MAX_NUMBER:
                raise ValueError("a tensor without a proper shape")
        elif number == 2:
            value.dtype_name = _text(content, inner)
        elif number == 3 and isinstance(inner, tuple):
            value.parts.append(inner)
            if len(value.parts) > MAX_PARTS:
                raise ValueError(f"a tensor of more than {MAX_PARTS} parts")
    value.dims = tuple(dims)
    return value


def _packed(content: mmap.mmap, span: Span) -> list[int]:
    position, end = span
    if end - position > 10 * MAX_DIMENSIONS:
        raise ValueError("a tensor without a proper shape")
    numbers = []
    while position < end:
        number, position = _varint(content, position, end)
        numbers.append(number)
    return numbers


def _entry(path: str | Path, content: MappedFile, name: str, value: _Value) -> Entry:
    if value.dtype_name not in MINDSPORE_DTYPES:
        what = one_line(f"tensor {name} has the dtype {value.dtype_name}")
        raise UserError(f"{path}: {what}, which is not known")
    dtype, shape = MINDSPORE_DTYPES[value.dtype_name], value.dims
    size = sum(end - start for start, end in value.parts)
    if shape == (0,) and size == dtype.itemsize:
        # Older releases write a scalar this way.
        shape = ()
    if len(value.parts) == 1:
        entry = stored_entry(content, value.parts[0][0], dtype, shape)
    else:
        entry = Entry(dtype, shape, partial(_joined, content, dtype, shape, value.parts))
    if len(shape) > MAX_DIMENSIONS or entry.nbytes != size:
        _damaged(path, f"tensor {name} of {value.dtype_name} {list(shape)} has {size} bytes")
    return entry


def _joined(content: mmap.mmap, dtype: np.dtype, shape: tuple[int, ...], parts: list[Span]) -> np.ndarray:
    return np.frombuffer(b"".join(content[start:end] for start, end in parts), dtype).reshape(shape)


# --- writing ---------------------------------------------------------------------------------------------------------


def save_ckpt(path: str | Path, tensors: TensorFile | Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
    """Writes named arrays as a MindSpore checkpoint with its checksum, whole or not at all, one tensor at a time.

    Raises:
        UserError: a dtype that MindSpore does not know, or a place that cannot be written.
    """
    source = as_tensor_file(tensors)
    with atomic_write(path, source.nbytes) as file:
        output = _Summed(file)
        for name, entry in source.entries.items():
            if entry.dtype not in DTYPE_NAMES:
                raise UserError(f"tensor {name} has the dtype {entry.dtype}, which a MindSpore checkpoint cannot hold")
            _write_tensor(output, name, entry)
        file.write(CHECKSUM_MARK + output.checksum.to_bytes(10, "big"))


class _Summed:
    """A stream that keeps the CRC-32 of what passes."""

    def __init__(self, file: Any):
        self.file, self.checksum = file, 0

    def write(self, block: Any) -> None:
        self.checksum = zlib.crc32(block, self.checksum)
        self.file.write(block)


def _write_tensor(output: _Summed, name: str, entry: Entry) -> None:
    flat = np.ascontiguousarray(entry.read()).reshape(-1)
    dims = b"".join(b"\x08" + _number(size) for size in entry.shape)
    description = dims + _framed(2, DTYPE_NAMES[entry.dtype].encode())
    step = PART_BYTES // entry.dtype.itemsize
    for start in range(0, max(flat.size, 1), step):
        part = flat[start : start + step]
        content_head = b"\x1a" + _number(part.nbytes)
        tensor_size = len(description) + len(content_head) + part.nbytes
        head = _framed(1, name.encode()) + b"\x12" + _number(tensor_size)
        output.write(b"\x0a" + _number(len(head) + tensor_size) + head + description + content_head)
        write_array(output, part)


def _number(value: int) -> bytes:
    output = bytearray()
    while value >= 0x80:
        output.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*output, value])


def _framed(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | BYTES]) + _number(len(content)) + content
