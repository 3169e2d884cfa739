"""Reading the ``.bin``, ``.pt`` and ``.pth`` files of PyTorch without PyTorch and without running what is in them.

The zip format holds ``*/data.pkl``, which describes the tensors, and one uncompressed record ``*/data/KEY`` for each
storage. The older format is a row of pickles (magic number, version, system, content, keys of the storages) followed by
the storages, each an 8-byte count of items and the items.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from mindone.checkpoint.pickle_text import DamagedPickle, Global, RefusedPickle, read_pickle
from mindone.checkpoint.selection import Selection, left_in_words, select_nested
from mindone.checkpoint.tensors import (
    BFLOAT16,
    MAX_DIMENSIONS,
    MAX_NUMBER,
    MAX_TENSORS,
    Entry,
    MappedFile,
    TensorFile,
    forget_pages,
    map_file,
    one_line,
    stored_entry,
)
from mindone.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# A pickle only describes the tensors: what is longer is no checkpoint, or made to fill the memory.
MAX_PICKLE = 1 << 26
# So much of a list of records makes a few hundred megabytes of Python objects.
MAX_DIRECTORY = 1 << 24
ZIP_LOCAL_HEADER, ZIP_END, ZIP_COMMENT, ZIP64_LOCATOR, ZIP64_END = 30, 22, 65535, 20, 56
# What Python's zip reader lets through for damaged archives.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
    KeyError,
    OverflowError,
)

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "UntypedStorage": np.dtype("u1"),
}
DTYPES = {
    "torch.float32": np.dtype("<f4"),
    "torch.float64": np.dtype("<f8"),
    "torch.float16": np.dtype("<f2"),
    "torch.bfloat16": BFLOAT16,
    "torch.int64": np.dtype("<i8"),
    "torch.int32": np.dtype("<i4"),
    "torch.int16": np.dtype("<i2"),
    "torch.int8": np.dtype("i1"),
    "torch.uint8": np.dtype("u1"),
    "torch.uint16": np.dtype("<u2"),
    "torch.uint32": np.dtype("<u4"),
    "torch.uint64": np.dtype("<u8"),
    "torch.bool": np.dtype(np.bool_),
    "torch.complex64": np.dtype("<c8"),
    "torch.complex128": np.dtype("<c16"),
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "torch.float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
# Plain data beside the weights: it is passed over.
_INERT = frozenset(
    [
        "torch.device",
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
        "torch.strided",
        "argparse.Namespace",
        "_codecs.encode",
        "torch.serialization._get_layout",
        "numpy.ndarray",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy.core.numeric._frombuffer",
        "numpy._core.numeric._frombuffer",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "builtins.set",
        "builtins.frozenset",
        "builtins.complex",
        "builtins.int",
        "builtins.float",
        "builtins.str",
        "builtins.bool",
        "builtins.list",
        "builtins.dict",
        "__builtin__.set",
        "__builtin__.frozenset",
        "pathlib.PosixPath",
        "datetime.datetime",
        "datetime.timedelta",
    ]
)


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype
    key: str
    count: int
    offset: int = 0


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_zip(path: str | Path, weights: str = "model") -> tuple[TensorFile, Selection]:
    """Maps a file that ``torch.save`` wrote in its zip format, and says what of it was taken.

    Raises:
        UserError: cut, damaged, not from PyTorch, or it wants to run something.
    """
    content = map_file(path)
    _check_directory(path, content)
    try:
        with zipfile.ZipFile(path) as archive:
            records = {info.filename: info for info in archive.infolist()}
            root = _archive_root(path, records)
            if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
                raise UserError(f"{path} is a compressed zip file; PyTorch does not compress, unpack or save it again")
            if f"{root}byteorder" in records and _small(path, archive, f"{root}byteorder") != b"little":
                raise UserError(f"{path} has big-endian numbers; save it again on a little-endian machine")
            pickle = _small(path, archive, f"{root}data.pkl")
    except UserError:
        raise
    except ZIP_ERRORS as error:
        _damaged(path, str(error))
    result = _interpret(path, io.BytesIO(pickle))

    def locate(storage: _Storage) -> int:
        info = records.get(f"{root}data/{storage.key}")
        if info is None:
            _damaged(path, f"its storage {storage.key} is missing")
        if {info.file_size, info.compress_size} != {storage.count * storage.dtype.itemsize}:
            _damaged(path, f"its storage {storage.key} has {info.file_size} bytes")
        return _record_start(path, content, info)

    return _tensor_file(path, content, result, locate, weights)


def _check_directory(path: str | Path, content: MappedFile) -> None:
    """Refuses a list of records that would fill the memory: Python's zip reader makes an object of each."""
    end = content.rfind(b"PK\x05\x06", max(0, len(content) - ZIP_END - ZIP_COMMENT))
    if end < 0:
        _damaged(path, "it is cut: a zip file ends in a list of its records")
    size = int.from_bytes(content[end + 12 : end + 16], "little")
    wide = end - ZIP64_LOCATOR - ZIP64_END
    if content[end - ZIP64_LOCATOR : end - ZIP64_LOCATOR + 4] == b"PK\x06\x07" and wide >= 0:
        size = max(size if size < 0xFFFFFFFF else 0, int.from_bytes(content[wide + 40 : wide + 48], "little"))
    if size > MAX_DIRECTORY:
        _damaged(path, f"its list of records has {size} bytes")


def _small(path: str | Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a record that is no tensor."""
    record = archive.getinfo(name)
    if record.file_size > MAX_PICKLE or record.compress_size != record.file_size:
        _damaged(path, f"{name} has {record.file_size} bytes")
    return archive.read(name)


def _archive_root(path: str | Path, records: dict[str, zipfile.ZipInfo]) -> str:
    roots = [name.removesuffix("data.pkl") for name in records if name.split("/", 1)[-1] == "data.pkl"]
    if len(roots) != 1:
        raise UserError(f"{path} is a zip file, but not one of PyTorch")
    if f"{roots[0]}constants.pkl" in records:
        raise UserError(f"{path} is a TorchScript program, not a checkpoint; save the state_dict of the model instead")
    return roots[0]


def _record_start(path: str | Path, content: MappedFile, info: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed record begin: behind its local header, whose length varies by alignment."""
    header = content[info.header_offset : info.header_offset + ZIP_LOCAL_HEADER]
    if len(header) < ZIP_LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        _damaged(path, f"the record {info.filename} is not where it should be")
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = info.header_offset + ZIP_LOCAL_HEADER + names
    if info.header_offset < 0 or start + info.file_size > len(content):
        _damaged(path, f"it is cut inside {info.filename}")
    return start


def read_torch_legacy(path: str | Path, weights: str = "model") -> tuple[TensorFile, Selection]:
    """Maps a file that ``torch.save`` wrote before PyTorch 1.6, or with the older format asked for.

    Raises:
        UserError: cut, damaged, not from PyTorch, or it wants to run something.
    """
    content = map_file(path)
    if _interpret_next(path, content) != LEGACY_MAGIC:
        raise UserError(f"{path} is a pickle, but not a checkpoint of PyTorch")
    _interpret_next(path, content)
    system = _interpret_next(path, content)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UserError(f"{path} has big-endian numbers; save it again on a little-endian machine")
    storages: dict[str, _Storage] = {}
    result = _interpret_next(path, content, storages)
    starts = _legacy_starts(path, content, storages)
    return _tensor_file(path, content, result, lambda storage: starts[storage.key], weights)


def _legacy_starts(path: str | Path, content: MappedFile, storages: dict[str, _Storage]) -> dict[str, int]:
    keys = _interpret_next(path, content)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        _damaged(path, "its list of storages does not fit its tensors")
    starts, position = {}, content.tell()
    for key in keys:
        storage = storages[key]
        if int.from_bytes(content[position : position + 8], "little") != storage.count:
            _damaged(path, f"it is cut before storage {key}")
        starts[key] = position + 8
        position += 8 + storage.count * storage.dtype.itemsize
        if position > len(content):
            _damaged(path, f"it is cut inside storage {key}")
    return starts


def _interpret_next(path: str | Path, content: MappedFile, storages: dict[str, _Storage] | None = None) -> Any:
    """Interprets the pickle at the position of the file, and leaves it behind that one's end."""
    start = content.tell()
    stream = io.BytesIO(content[start : start + MAX_PICKLE])
    result = _interpret(path, stream, storages)
    content.seek(start + stream.tell())
    return result


# --- what the pickle says --------------------------------------------------------------------------------------------


def _interpret(path: str | Path, stream: Any, storages: dict[str, _Storage] | None = None) -> Any:
    calls: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": _rebuild,
        "torch._utils._rebuild_tensor_v2": _rebuild,
        "torch._utils._rebuild_tensor_v3": _rebuild_typed,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
        "torch._tensor._rebuild_from_type_v2": lambda function, _, arguments, state: calls[function.name](*arguments),
        "collections.OrderedDict": _ordered_dict,
        "collections.defaultdict": lambda *_: {},
        "torch.Size": _few,
    }
    try:
        return read_pickle(stream, calls, _is_plain, partial(_storage, {} if storages is None else storages))
    except RefusedPickle as error:
        raise UserError(
            f"{path} wants to run {one_line(str(error))}, which a checkpoint has no need of; it was refused and "
            "nothing was run; use the safetensors file of the model, or one from a source you trust"
        ) from error
    except DamagedPickle as error:
        _damaged(path, str(error))


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    if not all(isinstance(key, str) for key, _ in pairs):
        raise DamagedPickle("a key is not a text")
    return dict(pairs)


def _few(sizes: Any = ()) -> tuple[Any, ...]:
    """The sizes of a tensor."""
    if len(sizes) > MAX_DIMENSIONS:
        raise DamagedPickle("a tensor has too many dimensions")
    return tuple(sizes)


def _is_plain(name: str) -> bool:
    module, _, last = name.rpartition(".")
    return name in _INERT or name in DTYPES or (module in ("torch", "torch.cuda", "torch.storage") and last in STORAGES)


def _storage(storages: dict[str, _Storage], identity: Any) -> _Storage:
    """From the persistent id ``("storage", class, key, device, count[, view])``."""
    kind, storage_class, key, _, count, *rest = identity
    if kind != "storage" or not isinstance(storage_class, Global) or not isinstance(key, (str, int)):
        raise DamagedPickle("a storage is not described as PyTorch does")
    if type(count) is not int or not 0 <= count < MAX_NUMBER:
        raise DamagedPickle("a storage has no proper size")
    dtype = STORAGES[storage_class.name.rpartition(".")[2]]
    storage = storages.setdefault(str(key), _Storage(dtype, str(key), count))
    if rest and rest[0] is not None:
        _, offset, size = rest[0]
        if not 0 <= offset <= offset + size <= count:
            raise DamagedPickle("a view lies outside its storage")
        return _Storage(storage.dtype, storage.key, count, offset)
    return storage


def _rebuild(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    return _checked(_Tensor(storage, storage.dtype, storage.offset + offset, _few(shape), _few(strides)))


def _rebuild_typed(
    storage: _Storage, offset: int, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Global, *_: Any
) -> _Tensor:
    return _checked(_Tensor(storage, DTYPES[dtype.name], storage.offset + offset, _few(shape), _few(strides)))


def _checked(tensor: _Tensor) -> _Tensor:
    """Refuses a tensor that reaches beyond its storage or is larger than it."""
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if not all(type(number) is int and 0 <= number < MAX_NUMBER for number in numbers):
        raise DamagedPickle("a tensor has no proper shape")
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > MAX_DIMENSIONS:
        raise DamagedPickle("a tensor has no proper shape")
    available = tensor.storage.count * tensor.storage.dtype.itemsize // tensor.dtype.itemsize
    size = math.prod(tensor.shape)
    last = tensor.offset + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides))
    if size and (last >= available or size > available):
        raise DamagedPickle("a tensor is larger than its storage")
    return tensor


# --- from nested containers to names ---------------------------------------------------------------------------------


def _tensor_file(
    path: str | Path, content: MappedFile, result: Any, locate: Callable[[_Storage], int], weights: str
) -> tuple[TensorFile, Selection]:
    try:
        selection = select_nested(result, lambda value: isinstance(value, _Tensor), weights)
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    tensors = selection.leaves
    if not tensors:
        other = f", only {left_in_words(selection.left)}" if selection.left else ""
        raise UserError(f"{path} holds no tensors of a network{other}; give the file with the weights")
    if len(tensors) > 1 and not any(math.prod(tensor.shape) for tensor in tensors.values()):
        raise UserError(
            f"all {len(tensors)} tensors in {path} are empty: the weights lie in other files, one per rank; "
            "merge them with the tool of the trainer (DeepSpeed writes zero_to_fp32.py beside them)"
        )
    if len(tensors) > MAX_TENSORS:
        _damaged(path, f"it has {len(tensors)} tensors")
    starts = {tensor.storage.key: locate(tensor.storage) for tensor in tensors.values()}
    entries = {name: _entry(content, starts[tensor.storage.key], tensor) for name, tensor in tensors.items()}
    return TensorFile(path, entries), selection


def _entry(content: MappedFile, start: int, tensor: _Tensor) -> Entry:
    """From the position of its storage."""
    first = start + tensor.offset * tensor.dtype.itemsize
    row_major = tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
    if tensor.strides == row_major and math.prod(tensor.shape):
        return stored_entry(content, first, tensor.dtype, tensor.shape)
    return Entry(tensor.dtype, tensor.shape, partial(_read, content, first, tensor))


def _read(content: MappedFile, first: int, tensor: _Tensor) -> np.ndarray:
    if math.prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, tensor.dtype)
    forget_pages(content)
    span = 1 + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides))
    flat = np.frombuffer(content, tensor.dtype, span, first)
    strides = tuple(stride * tensor.dtype.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)


def _damaged(path: str | Path, reason: str) -> NoReturn:
    raise UserError(f"{path} is not a sound PyTorch file: {one_line(reason)}; copy or download it again")
