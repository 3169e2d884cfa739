import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from mindone.data.arrays import npz_names, read_npy, read_npz
from mindone.data.errors import BadSample


def entry(header: str, content: bytes = b"") -> bytes:
    """An array with a header of one's own, or with the shape that it says."""
    if header.startswith(("(1", "(2", "(-", "(4")):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {header}}}"
    text = header.encode() + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + content


def archive(path, name: str, content: bytes, method: int = zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "u1", "<i8", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, dtype, shape, save):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    save(tmp_path / "a.npz", x=values, y=np.array(values, order="F"), text="not looked at")
    read = read_npz(tmp_path / "a.npz", ("x", "y", "z"))
    assert set(read) == {"x", "y"} and npz_names(tmp_path / "a.npz") == {"x", "y", "text"}
    for array in read.values():
        assert array.dtype == values.dtype and array.shape == values.shape and (array == values).all()
        assert array.flags.writeable
    np.save(tmp_path / "a.npy", values)
    assert (read_npy(tmp_path / "a.npy") == values).all()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([{}], object), "x holds no numbers but objects"),
        (np.array(["a"]), "x holds no numbers but '<U1'"),
        (np.array([1j]), "x holds no numbers but '<c16'"),
        (np.zeros(2, "i4,f4"), "x holds no numbers"),
        (np.zeros(2, "M8[s]"), "x holds no numbers"),
    ],
)
def test_only_numbers_are_read_and_nothing_is_unpickled(tmp_path, array, reason):
    np.savez(tmp_path / "a.npz", x=array)
    with pytest.raises(BadSample, match=reason):
        read_npz(tmp_path / "a.npz", ("x",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (entry("(1099511627776,)", b"1234"), "takes 1099511627776 bytes, but there are 4"),
        (entry("(2, 4)", b"1234"), "takes 8 bytes, but there are 4"),
        (entry("(4,)", b"12345678"), "takes 4 bytes, but there are 8"),
        (entry("(-1,)"), "impossible shape"),
        (entry("(1.0,)"), "impossible shape"),
        (entry("(1, " * 99 + ")" * 99), "impossible shape"),
        (entry("{'descr': '<f4'}"), "no readable header"),
        (entry("__import__('os').system('false')"), "no readable header"),
        (entry("(" * 4000), "no readable header"),
        (entry(" " * 5000), "header of 5001 bytes"),
        (b"no array at all", "is not an array"),
        (b"", "is not an array"),
    ],
)
def test_headers_that_lie_are_found_before_memory_is_asked_for(tmp_path, content, reason):
    tracemalloc.start()
    try:
        with pytest.raises(BadSample, match=reason):
            read_npz(archive(tmp_path / "a.npz", "x", content), ("x",))
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(BadSample, match=reason):
            read_npy(tmp_path / "a.npy")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_archives_that_explode_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mindone.data.arrays.LARGEST_INFLATED", 1 << 16)
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(1 << 20, np.float32))
    with pytest.raises(BadSample, match="would grow from .* to 4194432 bytes"):
        read_npz(tmp_path / "zeros.npz", ("x",))
    np.savez_compressed(tmp_path / "noise.npz", x=np.random.default_rng(0).random(1 << 18))
    assert read_npz(tmp_path / "noise.npz", ("x",))["x"].shape == (1 << 18,)


def test_sizes_in_an_archives_directory_are_not_believed(tmp_path):
    path = archive(tmp_path / "a.npz", "x", entry("(4,)", b"1234"))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\1\2")
    for offset in (20, 24):  # compressed and uncompressed size
        content[place + offset : place + offset + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(BadSample, match="larger than the file"):
        read_npz(path, ("x",))


def test_changed_bytes_and_missing_files_are_bad_samples(tmp_path):
    file = io.BytesIO()
    np.savez(file, x=np.arange(64))
    content = bytearray(file.getvalue())
    content[300] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BadSample, match="a.npz is damaged or not an npz file .*CRC"):
        read_npz(tmp_path / "a.npz", ("x",))
    for read in (lambda path: read_npz(path, ("x",)), read_npy):
        with pytest.raises(BadSample, match="none is missing"):
            read(tmp_path / "none")
        with pytest.raises(BadSample):
            read(tmp_path)
    assert npz_names(tmp_path / "none") == set()
