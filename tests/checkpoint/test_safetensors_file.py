import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindone.checkpoint import read_tensors, save_safetensors
from mindone.errors import UserError


def raw(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def tensor(dtype="F32", shape=(1,), begin=0, end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_every_dtype_and_the_metadata_survive_a_round_trip(tmp_path, arrays, assert_same):
    save_safetensors(tmp_path / "a.safetensors", arrays, {"step": "3"})
    found = read_tensors(tmp_path / "a.safetensors")
    assert_same(found, arrays)
    assert found.metadata == {"step": "3"}
    assert all((found.shape(name), found.dtype(name)) == (a.shape, a.dtype) for name, a in arrays.items())


def test_the_formats_own_library_reads_what_we_write_and_writes_what_we_read(tmp_path, arrays, assert_same):
    # Without a framework the library knows no bfloat16.
    known = {name: array for name, array in arrays.items() if array.dtype != ml_dtypes.bfloat16}
    save_safetensors(tmp_path / "ours.safetensors", known)
    assert_same(load_file(tmp_path / "ours.safetensors"), known)
    save_file(known, tmp_path / "theirs.safetensors")
    assert_same(read_tensors(tmp_path / "theirs.safetensors"), known)


def test_arrays_that_are_not_contiguous_are_written_in_order(tmp_path):
    array = np.arange(12.0).reshape(3, 4)
    save_safetensors(tmp_path / "a.safetensors", {"t": array.T, "part": array[:, 1:3], "empty": array[:0]})
    found = read_tensors(tmp_path / "a.safetensors")
    assert np.array_equal(found["t"], array.T)
    assert np.array_equal(found["part"], array[:, 1:3])
    assert found["empty"].shape == (0, 4)


def test_reading_needs_neither_mindspore_nor_torch(tmp_path, arrays):
    save_safetensors(tmp_path / "a.safetensors", arrays)
    program = "import sys; from mindone.checkpoint import read_tensors; dict(read_tensors(sys.argv[1]).items()); "
    program += "print([name for name in ('mindspore', 'torch') if name in sys.modules])"
    command = [sys.executable, "-c", program, str(tmp_path / "a.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_file_cut_anywhere_is_refused(tmp_path, arrays):
    save_safetensors(tmp_path / "whole.safetensors", arrays)
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut.safetensors"):
            read_tensors(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        ({"a": tensor(), "b": tensor(begin=2, end=6)}, b"123456", "begins at byte 2"),
        ({"a": tensor(), "b": tensor(begin=8, end=12)}, b"123456789012", "begins at byte 8"),
        ({"a": tensor(begin=4, end=8)}, b"12345678", "begins at byte 4"),
        ({"a": tensor()}, b"12345", "1 bytes follow"),
        ({"a": tensor(end=400, shape=(100,))}, b"1234", "cut"),
        ({"a": tensor(shape=(2,))}, b"1234", "has 4 bytes"),
        ({"a": tensor(shape=(-1,), end=-4)}, b"", "shape"),
        ({"a": tensor(shape=(True,))}, b"1234", "shape"),
        ({"a": tensor(shape=(1,) * 40)}, b"1234", "shape"),
        ({"a": tensor(begin=-4, end=0)}, b"1234", "data_offsets"),
        ({"a": tensor(dtype="F99")}, b"1234", "F99"),
        ({"a": tensor(dtype=["F32"])}, b"1234", "dtype"),
        ({"a": {"dtype": "F32"}}, b"1234", "lacks"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
        (
            b'{"a": ' + json.dumps(tensor()).encode() + b', "a": ' + json.dumps(tensor()).encode() + b"}",
            b"1234",
            "twice",
        ),
        (b"[1, 2]", b"", "not a JSON object"),
        (b"{oops", b"", "not readable"),
        (b'{"a": \xff}', b"", "not readable"),
        (b"[" * 100_000, b"", "too many parts"),
    ],
)
def test_a_header_that_does_not_describe_the_file_is_refused(tmp_path, header, data, reason):
    with pytest.raises(UserError, match=reason):
        read_tensors(raw(tmp_path / "bad.safetensors", header, data))


@pytest.mark.parametrize("length", [2**63, 10**9, 10_000])
def test_an_absurd_header_size_is_refused_without_reading_it(tmp_path, length):
    with pytest.raises(UserError, match="header"):
        read_tensors(raw(tmp_path / "bad.safetensors", {}, length=length))


def test_a_dtype_the_format_lacks_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(UserError, match="complex128"):
        save_safetensors(tmp_path / "a.safetensors", {"a": np.zeros(2, np.complex128)})
    assert not list(tmp_path.iterdir())
