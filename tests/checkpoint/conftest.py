"""Writers of PyTorch's file formats, byte by byte, because the tests run without PyTorch."""

import pickle
import struct
import zipfile
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest

STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C


class Opcodes(bytes):
    """A value that is already written as pickle opcodes."""


@dataclass
class TorchPickle:
    """What ``torch.save`` writes for nested dicts of arrays, in pickle protocol 2."""

    legacy: bool = False
    storages: dict = field(default_factory=dict)

    def dump(self, value) -> bytes:
        return b"\x80\x02" + self.encode(value) + b"."

    def encode(self, value) -> bytes:
        if isinstance(value, Opcodes):
            return bytes(value)
        if isinstance(value, dict):
            return b"}(" + b"".join(self.encode(part) for item in value.items() for part in item) + b"u"
        if isinstance(value, np.ndarray):
            return self.tensor(value)
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.encode, value)) + b"t"
        if isinstance(value, str):
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        if value is None:
            return b"N"
        return b"J" + struct.pack("<i", value)

    def tensor(self, array: np.ndarray, shape=None, strides=None, offset=0) -> Opcodes:
        key = str(len(self.storages))
        self.storages[key] = array
        items = tuple(stride // array.itemsize for stride in array.strides)
        storage = f"ctorch\n{STORAGES[array.dtype.name]}\n".encode()
        identity = b"(" + self.encode("storage") + storage + self.encode(key) + self.encode("cpu")
        identity += self.encode(array.size) + (b"N" if self.legacy else b"") + b"tQ"
        arguments = identity + b"".join(map(self.encode, (offset, shape or array.shape, strides or items)))
        hooks = b"\x89ccollections\nOrderedDict\n)R"
        return Opcodes(b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + hooks + b"tR")


def write_zip(path, value, pickler=None, omit=(), compression=zipfile.ZIP_STORED):
    pickler = pickler or TorchPickle()
    content = {"data.pkl": pickler.dump(value), "byteorder": b"little", "version": b"3\n"}
    content |= {f"data/{key}": array.tobytes() for key, array in pickler.storages.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            if name not in omit:
                archive.writestr(f"archive/{name}", data)
    return path


def write_legacy(path, value, pickler=None):
    pickler = pickler or TorchPickle(legacy=True)
    body = pickler.dump(value)
    parts = [pickle.dumps(MAGIC, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2), body]
    parts.append(pickle.dumps(list(pickler.storages), 2))
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in pickler.storages.values()]
    path.write_bytes(b"".join(parts))
    return path


@pytest.fixture(params=[write_zip, write_legacy], ids=["zip", "legacy"])
def torch_save(request):
    """``torch.save`` in either format: ``torch_save(path, nested dict)``."""
    return request.param


@pytest.fixture
def save_zip():
    return write_zip


@pytest.fixture
def torch_pickle():
    return TorchPickle


@pytest.fixture
def opcodes():
    return Opcodes


@pytest.fixture
def arrays():
    """Named arrays of every kind that checkpoints have."""
    numbers = np.random.default_rng(0)
    return {
        "block.weight": numbers.standard_normal((3, 4)).astype(np.float32),
        "block.half": numbers.standard_normal(5).astype(np.float16),
        "block.brain": numbers.standard_normal((2, 3)).astype(ml_dtypes.bfloat16),
        "ids": np.arange(4),
        "mask": np.array([True, False, True]),
        "scalar": np.array(2.5, np.float32),
    }


@pytest.fixture
def assert_same():
    """Compares two mappings of arrays: names, dtypes, shapes and bits."""

    def compare(found, wanted):
        assert set(found) == set(wanted)
        for name, array in wanted.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
            assert np.ascontiguousarray(found[name]).tobytes() == np.ascontiguousarray(array).tobytes(), name

    return compare
