"""Reading and writing safetensors files, checked as strictly as the format's description asks.

A file is an 8-byte little-endian length, that many bytes of JSON (name → dtype, shape, data_offsets), and the data.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from mindone.checkpoint.atomic import atomic_write, write_behind
from mindone.checkpoint.tensors import (
    BFLOAT16,
    MAX_DIMENSIONS,
    MAX_NUMBER,
    MAX_TENSORS,
    Entry,
    TensorFile,
    as_tensor_file,
    map_file,
    one_line,
    stored_entry,
)
from mindone.errors import UserError

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The limits of the format's own library.
MAX_HEADER = 100_000_000
# Characters of a header that a list or object takes at least on average, in the shortest description of a tensor.
_HEADER_DENSITY = 12
ALIGNMENT = 8
WRITE_BLOCK = 1 << 26


def read_safetensors(path: str | Path) -> TensorFile:
    """Maps one safetensors file.

    Raises:
        UserError: the file is missing, cut, or its header does not describe its content.
    """
    content = map_file(path)
    header, start = _header(path, content)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(map(_is_text, metadata.values())):
        _damaged(path, "its __metadata__ is not a mapping of strings")
    described = {name: _described(path, name, value) for name, value in header.items()}
    _check_layout(path, described, len(content) - start)
    entries = {
        name: stored_entry(content, start + begin, dtype, shape) for name, (dtype, shape, begin, _) in described.items()
    }
    return TensorFile(path, entries, metadata)


def _damaged(path: str | Path, reason: str) -> NoReturn:
    raise UserError(f"{path} is not a sound safetensors file: {one_line(reason)}; copy or download it again")


def _header(path: str | Path, content: Any) -> tuple[dict[str, Any], int]:
    """The parsed header and the position at which the data begins."""
    if len(content) < 8:
        _damaged(path, f"it has only {len(content)} bytes")
    length = int.from_bytes(content[:8], "little")
    if length > MAX_HEADER:
        _damaged(path, f"its first 8 bytes announce a header of {length} bytes")
    if 8 + length > len(content):
        _damaged(path, f"it is cut inside its header ({len(content)} of {8 + length} bytes)")
    text = content[8 : 8 + length]
    # Lists in lists would become many times as large in memory as they are in the file.
    if text.count(b"data_offsets") > MAX_TENSORS or text.count(b"[") + text.count(b"{") > length // _HEADER_DENSITY + 8:
        _damaged(path, "its header has too many parts")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:  # A UnicodeError is a ValueError.
        _damaged(path, f"its header is not readable ({error})")
    if not isinstance(header, dict):
        _damaged(path, "its header is not a JSON object")
    if not all(_is_text(name) for name in header):
        _damaged(path, "a name in its header is no text")
    return header, 8 + length


def _is_text(value: Any) -> bool:
    """Whether a value is a text that can be printed: JSON allows halves of characters."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _described(path: str | Path, name: str, value: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """dtype, shape, begin and end of one tensor, each checked for itself."""
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= set(value):
        _damaged(path, f"tensor {name} lacks dtype, shape or data_offsets")
    shape, offsets = value["shape"], value["data_offsets"]
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        _damaged(path, f"tensor {name} has the shape {reprlib.repr(shape)}")
    if not _naturals(offsets) or len(offsets) != 2:
        _damaged(path, f"tensor {name} has the data_offsets {reprlib.repr(offsets)}")
    if not isinstance(value["dtype"], str) or value["dtype"] not in DTYPES:
        what = one_line(f"tensor {name} has the dtype {value['dtype']}")
        raise UserError(f"{path}: {what}; known are {', '.join(DTYPES)}")
    dtype, (begin, end) = DTYPES[value["dtype"]], offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        _damaged(path, f"tensor {name} of {value['dtype']} {shape} has {end - begin} bytes")
    return dtype, tuple(shape), begin, end


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < MAX_NUMBER for value in values)


def _check_layout(path: str | Path, described: Mapping[str, tuple], size: int) -> None:
    """Tensors must follow each other without overlap or hole and end where the file ends."""
    position = 0
    for name, (_, _, begin, end) in sorted(described.items(), key=lambda item: item[1][2:]):
        if begin != position:
            _damaged(path, f"tensor {name} begins at byte {begin}, but the one before it ends at {position}")
        position = end
    if position > size:
        _damaged(path, f"it is cut: its tensors need {position} bytes, {size} are there")
    if position < size:
        _damaged(path, f"{size - position} bytes follow its last tensor")


def save_safetensors(
    path: str | Path,
    tensors: TensorFile | Mapping[str, Any] | Iterable[tuple[str, Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes named arrays (numpy or MindSpore, bfloat16 too) as one safetensors file, whole or not at all.

    A lazy mapping (`TensorFile`, `network_tensors`) is streamed: only one tensor is in memory at a time.

    Raises:
        UserError: a dtype that the format does not know, or a place that cannot be written.
    """
    source = as_tensor_file(tensors)
    with atomic_write(path, source.nbytes) as file:
        write_safetensors(file, source, metadata)


def write_safetensors(
    file: Any,
    tensors: TensorFile | Mapping[str, Any] | Iterable[tuple[str, Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """`save_safetensors` into an open binary file."""
    source = as_tensor_file(tensors)
    # Wide dtypes first, as the format's own writer orders them, so that every tensor is aligned to its item size.
    order = sorted(source.entries, key=lambda name: -source.dtype(name).itemsize)
    file.write(_header_bytes(source, order, metadata))
    begun = 0
    for name in order:
        begun = _write_entry(file, source.entries[name], begun)


def _write_entry(file: Any, entry: Entry, begun: int) -> int:
    """Writes the bytes of a tensor, and returns the `write_behind` of the file.

    The system copies them from file to file where they lie in one as they are.
    """
    if entry.stored is None or sys.platform != "linux":
        write_array(file, entry.read())
        return write_behind(file, begun)
    file.flush()
    content, position = entry.stored
    end = position + entry.nbytes
    while position < end:
        sent = os.sendfile(file.fileno(), content.handle, position, min(end - position, WRITE_BLOCK))
        if sent == 0:
            raise UserError("the checkpoint that is being read became shorter; repeat with a file that nothing changes")
        position += sent
        begun = write_behind(file, begun)
    return begun


def _header_bytes(source: TensorFile, order: list[str], metadata: Mapping[str, str] | None) -> bytes:
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = {str(key): str(value) for key, value in metadata.items()}
    position = 0
    for name in order:
        entry = source.entries[name]
        if entry.dtype not in DTYPE_NAMES:
            raise UserError(f"tensor {name} has the dtype {entry.dtype}, which safetensors cannot hold")
        end = position + entry.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_array(file: Any, array: np.ndarray) -> None:
    """Writes the bytes of an array in row-major order, in blocks."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, WRITE_BLOCK):
        file.write(flat[start : start + WRITE_BLOCK].data)
