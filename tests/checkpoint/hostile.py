"""Checkpoint files that are made to mislead a reader: built by hand, and by chance from sound ones with a fixed seed.

``python hostile.py FOLDER`` reads them all under a limit of memory and prints what became of each as JSON.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
ADDRESS_SPACE = 6 << 30
LONG = 1_000_000
LONE = b"\xed\xa0\x80"


# --- safetensors -----------------------------------------------------------------------------------------------------


def safetensors(header: bytes | dict, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype="F32", shape=(1,), offsets=(0, 4)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def hostile_safetensors() -> Iterator[tuple[str, bytes]]:
    yield "header_of_4_tb", safetensors(b"{}", length=4 << 40)
    yield "header_of_2_64", safetensors(b"{}", length=2**64 - 1)
    yield "negative_offsets", safetensors({"a": one(offsets=(-4, 0))}, bytes(4))
    yield "overlap", safetensors({"a": one(), "b": one()}, bytes(4))
    yield "hole", safetensors({"a": one(), "b": one(offsets=(8, 12))}, bytes(12))
    yield "backwards", safetensors({"a": one(offsets=(4, 0))}, bytes(4))
    yield "beyond_the_end", safetensors({"a": one(shape=(1 << 40,), offsets=(0, 1 << 42))}, bytes(4))
    yield "huge_offsets", safetensors({"a": one(shape=(2**62,), offsets=(0, 2**64))})
    yield "empty_but_huge", safetensors({"a": one(shape=(0, 2**62, 2**62), offsets=(0, 0))})
    yield "shape_that_overflows", safetensors({"a": one(shape=(2**32, 2**32), offsets=(0, 0))})
    yield "unknown_dtype", safetensors({"a": one("F31")}, bytes(4))
    yield "wrong_dtype", safetensors({"a": one("F64")}, bytes(4))
    yield "dtype_with_escapes", safetensors({"a": one("\x1b[2J" * 1000)}, bytes(4))
    yield "shape_of_texts", safetensors({"a": one(shape=("1",))}, bytes(4))
    yield "shape_of_floats", safetensors({"a": one(shape=(1.0,))}, bytes(4))
    yield "long_shape", safetensors({"a": one(shape=(1,) * 100_000)}, bytes(4))
    yield "long_number", safetensors(json.dumps({"a": one()}).replace("[1]", f"[1{'0' * 5000}]").encode(), bytes(4))
    entry = json.dumps(one())
    yield "twins", safetensors(f'{{"a": {entry}, "a": {entry}}}'.encode(), bytes(4))
    yield "half_a_character", safetensors(f'{{"\\ud800": {entry}}}'.encode(), bytes(4))
    yield "no_utf8", safetensors(b'{"' + LONE + b'": ' + entry.encode() + b"}", bytes(4))
    yield "metadata_of_numbers", safetensors({"__metadata__": {"a": 1}})
    yield "metadata_is_a_list", safetensors({"__metadata__": [1]})
    yield "deep", safetensors(b'{"a":' * 200_000)
    yield "lists_in_lists", safetensors(b"[" + b"[]," * 10_000_000 + b"[]]")
    yield "a_long_name", safetensors({"x" * 1_000_000: one("F31")}, bytes(4))
    many = ",".join(f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(210_000))
    yield "many_tensors", safetensors(f"{{{many}}}".encode())
    yield "not_a_number", safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,Infinity]}}', bytes(4))


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def storage(key: str, count: int, kind: bytes = b"FloatStorage") -> bytes:
    return b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(shape: bytes, strides: bytes, offset: int = 0, count: int = 4, key: str = "0") -> bytes:
    arguments = storage(key, count) + number(offset) + shape + strides + b"\x89N"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def sizes(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def state_dict(value: bytes) -> bytes:
    return b"\x80\x02}" + text("w") + value + b"s."


SOUND = state_dict(tensor(sizes(2, 2), sizes(2, 1)))


def hostile_pickles() -> Iterator[tuple[str, bytes]]:
    """Pickles in the place of a state dict."""
    for code in range(256):
        if bytes([code]) not in b"NMKJ]}):.\x88\x89":
            yield f"opcode_{code:02x}", b"\x80\x02" + bytes([code]) * 3
    yield "unicode_of_2_62", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a."
    yield "bytes_of_2_40", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a."
    yield "negative_long", b"\x80\x02\x8b" + struct.pack("<i", -5) + b"a."
    yield "long_of_2_gb", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a."
    yield "many_digits", b"\x80\x02I" + b"9" * 1_000_000 + b"\n."
    yield "memo_far_away", b"\x80\x02Nr\xff\xff\xff\xffj\xfe\xff\xff\xff."
    yield "nested_tuples", b"\x80\x02N" + b"\x85" * 200_000 + b"."
    yield "nested_lists", b"\x80\x02" + b"](" * 200_000 + b"e" * 200_000 + b"."
    yield "many_dicts", b"\x80\x02" + b"}" * 20_000_000 + b"."
    yield "many_memos", b"\x80\x04N" + b"\x94" * 20_000_000 + b"."
    ones = b"\x80\x02](" + b"K\x01" * 1_000_000 + b"eq\x00"
    yield "copies_of_a_list", ones + b"ctorch\nSize\nh\x00\x85R" * 100_000 + b"."
    pairs = b"\x80\x02](" + b"(X\x01\x00\x00\x00aNt" * 300_000 + b"eq\x00"
    yield "copies_of_pairs", pairs + b"ccollections\nOrderedDict\nh\x00\x85R" * 100_000 + b"."
    yield "name_with_escapes", b"\x80\x02c\x1b[2J" + b"x" * 100_000 + b"\ny\n."
    yield "size_of_2_70", state_dict(tensor(sizes(2, 2), sizes(2, 1), count=2**70))
    yield "outside", state_dict(tensor(sizes(2, 2), sizes(4, 1)))
    yield "negative_offset", state_dict(tensor(sizes(2), sizes(1), offset=-1))
    yield "negative_stride", state_dict(tensor(sizes(2), sizes(-1), offset=1))
    yield "repeated", state_dict(tensor(sizes(1 << 40), sizes(0)))
    yield "empty_but_huge", state_dict(tensor(sizes(0, 2**62), sizes(2**62, 2**62)))
    yield "many_dimensions", state_dict(tensor(sizes(*[1] * 1000), sizes(*[1] * 1000)))
    yield "storage_as_shape", state_dict(tensor(storage("0", 4), sizes(1)))
    yield "no_storage", state_dict(tensor(sizes(1), sizes(1), key="9"))
    yield "runs_a_program", b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R."
    yield "takes_an_attribute", b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93."


def archive(pickle_text: bytes, data: bytes = bytes(16), compression=zipfile.ZIP_STORED, extra: int = 0) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as content:
        content.writestr("a/data.pkl", pickle_text)
        content.writestr("a/data/0", data)
        for i in range(extra):
            content.writestr(f"a/data/x{i}", b"")
    return file.getvalue()


def legacy(pickle_text: bytes, keys: bytes = b"\x80\x02]" + text("0") + b"a.", data: bytes = bytes(16)) -> bytes:
    system = pickle.dumps({"little_endian": True}, 2)
    return MAGIC + pickle.dumps(1001, 2) + system + pickle_text + keys + struct.pack("<q", 4) + data


def hostile_archives() -> Iterator[tuple[str, bytes]]:
    yield "bomb", archive(SOUND, bytes(1 << 28), zipfile.ZIP_DEFLATED)
    yield "bomb_of_bz2", archive(SOUND, bytes(1 << 26), zipfile.ZIP_BZIP2)
    yield "bomb_as_pickle", archive(bytes(1 << 28), compression=zipfile.ZIP_DEFLATED)
    yield "long_pickle", archive(SOUND + bytes(1 << 27))
    yield "many_records", archive(SOUND, extra=400_000)
    sound = archive(SOUND)
    directory = sound.index(b"PK\x01\x02")
    for name, place, value in (
        ("stored_size_of_4_gb", 20, 2**32 - 2),
        ("size_of_4_gb", 24, 2**32 - 2),
        ("record_outside", 42, 2**32 - 2),
        ("encrypted", 8, 1),
        ("other_compression", 10, 8),
        ("wrong_crc", 16, 12345),
    ):
        changed = bytearray(sound)
        width = 2 if place in (8, 10) else 4
        changed[directory + place : directory + place + width] = value.to_bytes(width, "little")
        yield name, bytes(changed)
    end = sound.rindex(b"PK\x05\x06")
    for name, place, value in (("directory_of_4_gb", 12, 2**32 - 2), ("directory_elsewhere", 16, 2**32 - 2)):
        changed = bytearray(sound)
        changed[end + place : end + place + 4] = value.to_bytes(4, "little")
        yield name, bytes(changed)
    yield "no_directory", sound[:end]


# --- MindSpore -------------------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    output = b""
    while number >= 0x80:
        output, number = output + bytes([number & 0x7F | 0x80]), number >> 7
    return output + bytes([number])


def field(key: int, content: bytes) -> bytes:
    return varint(key << 3 | 2) + varint(len(content)) + content


def value(tag: bytes = b"w", dims: bytes = b"\x08\x01", dtype: bytes = b"Float32", data: bytes = bytes(4)) -> bytes:
    return field(1, field(1, tag) + field(2, dims + field(2, dtype) + field(3, data)))


def hostile_ckpt() -> Iterator[tuple[str, bytes]]:
    yield "message_of_2_63", b"\x0a" + varint(2**63) + b"a"
    yield "number_without_end", b"\x0a" + b"\xff" * 1000
    yield "dims_of_2_60", value(dims=b"\x08" + varint(2**60))
    yield "empty_but_huge", value(dims=b"\x08\x00" + b"\x08" + varint(2**62), data=b"")
    yield "dims_that_overflow", value(dims=(b"\x08" + varint(2**32)) * 2)
    yield "many_dims", value(dims=b"\x08\x01" * 1_000_000)
    yield "many_packed_dims", value(dims=field(1, b"\x01" * 50_000_000))
    yield "many_parts", value(data=b"", dims=field(3, b"") * 10_000_000)
    yield "many_small_tensors", b"".join(value(str(i).encode()) for i in range(210_000))
    yield "a_tensor_in_many_pieces", value() * 200_000
    yield "a_long_name", value(tag=b"x" * 10_000_000)
    yield "name_with_escapes", value(tag=b"\x1b[2J" * 100, dims=b"\x08\x07")
    yield "name_without_utf8", value(tag=LONE)
    yield "unknown_dtype", value(dtype=b"Float31" * 500)
    yield "too_few_bytes", value(data=bytes(3))
    yield "twins", value() + value(b"v") + value()
    yield "groups", b"\x0b" * 1000
    yield "name_as_number", field(1, b"\x08\x01")
    yield "checksum_that_does_not_fit", value() + b"crc_num" + (zlib.crc32(value()) ^ 1).to_bytes(10, "big")
    yield "only_a_checksum", b"crc_num" + bytes(9) + b"\x01"


# --- folders, and chance ---------------------------------------------------------------------------------------------


def hostile_indexes() -> Iterator[tuple[str, bytes]]:
    for name, shard in (
        ("outside", "../secret.safetensors"),
        ("from_the_root", "/etc/passwd"),
        ("with_nul", "a\0b"),
        ("long", "x" * 100_000),
        ("backslash", "..\\secret"),
        ("itself", "model.safetensors.index.json"),
        ("escapes", "\x1b[2J"),
    ):
        yield name, json.dumps({"weight_map": {"w": shard}}).encode()
    yield "deep", b'{"weight_map":' * 200_000
    yield "list", b'{"weight_map": ["a"]}'
    yield "numbers", b'{"weight_map": {"a": 1}}'
    yield "half_a_character", b'{"weight_map": {"a": "\\ud800"}}'


def mutations(sound: bytes, numbers: np.random.Generator, count: int) -> Iterator[bytes]:
    """Bytes turned, cut, inserted, doubled, moved, and numbers replaced by extreme ones."""
    extremes = [struct.pack("<q", value) for value in (0, -1, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, -(1 << 63))]
    for _ in range(count):
        content = bytearray(sound)
        for _ in range(int(numbers.integers(1, 4))):
            first, second = sorted(numbers.integers(0, len(content), 2).tolist())
            second = min(second, first + 40)
            kind = numbers.integers(6)
            if kind == 0:
                content[first] = numbers.integers(256)
            elif kind == 1:
                del content[first:second]
            elif kind == 2:
                content[first:first] = numbers.bytes(5)
            elif kind == 3:
                content[first:first] = content[first:second]
            elif kind == 4:
                content[first : first + 8] = extremes[numbers.integers(len(extremes))]
            else:
                content[first] ^= 1 << int(numbers.integers(8))
        yield bytes(content)


def write(folder: Path, seed: int = 0, by_chance: int = 150) -> None:
    """All of them: ``hand/`` must be refused, ``chance/`` may also be readable."""
    hand, chance = folder / "hand", folder / "chance"
    hand.mkdir(parents=True)
    chance.mkdir()
    for name, content in hostile_safetensors():
        (hand / f"{name}.safetensors").write_bytes(content)
    for name, content in hostile_pickles():
        (hand / f"{name}.pth").write_bytes(archive(content))
        if len(content) < LONG:
            (hand / f"{name}.old.pth").write_bytes(legacy(content))
    for name, content in hostile_archives():
        (hand / f"{name}.zip.pth").write_bytes(content)
    for name, content in hostile_ckpt():
        (hand / f"{name}.ckpt").write_bytes(content)
    for name, content in hostile_indexes():
        (hand / name).mkdir()
        (hand / name / "model.safetensors.index.json").write_bytes(content)
    numbers = np.random.default_rng(seed)
    header = {"a": one(shape=(2, 2), offsets=(0, 16)), "b": one("BF16", (3,), (16, 22)), "__metadata__": {"x": "y"}}
    sound = {
        "a.safetensors": safetensors(header, bytes(22)),
        "b.pth": archive(SOUND),
        "c.old.pth": legacy(SOUND),
        "d.ckpt": value() + value(b"v", b"\x08\x02\x08\x03", b"Float16", bytes(12)),
    }
    for name, content in sound.items():
        for number, changed in enumerate(mutations(content, numbers, by_chance)):
            (chance / f"{number:03}_{name}").write_bytes(changed)


def read(path: Path) -> dict:
    """What became of one file: number of tensors or the reader's sentence, seconds, and the peak of memory so far."""
    from mindone import runtime
    from mindone.checkpoint import read_tensors
    from mindone.errors import UserError

    start, found = time.perf_counter(), {"path": str(path)}
    try:
        tensors = read_tensors(path)
        found["tensors"] = sum(1 for _, array in tensors.items() if array.nbytes >= 0)
    except UserError as error:
        found["refused"] = str(error)
    except BaseException as error:  # noqa: BLE001 - anything else is what is looked for
        found["raised"] = repr(error)[:500]
    found["seconds"] = time.perf_counter() - start
    found["peak"] = runtime.peak_memory()
    return found


def main(folder: Path) -> None:
    write(folder)
    paths = sorted([*(folder / "hand").iterdir(), *(folder / "chance").iterdir()])
    # In a process of its own: making the files took memory, too.
    if not (child := os.fork()):
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        (folder / "result.json").write_text(json.dumps([read(path) for path in paths]))
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
