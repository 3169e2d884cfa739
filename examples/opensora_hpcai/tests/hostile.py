"""Files that go wrong, made by chance from a fixed seed: tables, lists of prompts, caches.

Each generator yields pairs of a name for messages and the file's bytes. What reads them has to end in a right result or
in a `UserError`.
"""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator

import numpy as np

CELLS = (
    "a.mp4", "x/clip.mp4", "../up.mp4", "/etc/passwd", "a red circle, moves left", 'a "red" circle', '"', '""', "'",
    "", " ", "NaN", "null", "nan", "inf", "-3", "0", "24", "29.97", "1e999", "9" * 400, "\0", "\x0b", "\x1c", "\x85",
    "\u2028", "\ufeff", "\u202e", "caf\u00e9", "\U0001f600", "line\nbreak", "line\rbreak", "tab\there", "semi;colon",
    "=1+1", "# comment", "\\", "\\n", "x" * 1000, "." * 5000, "~/a.mp4", "C:\\a.mp4", "a//b/./c.mp4", "con", "%00",
)  # fmt: skip
HEADERS = ("video", "caption", "fps", "num_frames", "height", "width", "", "path", "video ", "\ufeffvideo")
LINE_ENDS = ("\n", "\r\n", "\r", "\n\n", "\x0b", "\u2028")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252")
STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b", b"PAR1", b"\xff\xfe", b"\xef\xbb", b"\x00")

SHAPES = ((), (0,), (1,), (2,), (4,), (4, 3), (1, 4, 3), (2, 4, 3), (5, 4, 2, 3), (1, 0, 2, 3), (3, 1, 1, 1, 1))
DTYPES = ("<f4", "<f8", ">f4", "<f2", "u1", "<i8", "<u8", "?", "<c8", "<U3", "S2", "O", "<M8[s]", "V4", "i4,f4")
VALUES = (0, 1, -1, 2, np.nan, np.inf, 1e300, 255)
KEYS = ("text_emb", "mask", "tokens", "latent_mean", "latent_std", "fps", "ori_size", "num_frames", "size", "made_from")
RECORDS = (b"{}", b"[]", b"1", b'{"text": 3}', b'{"text": "a"}', b"\xff", b"[" * 5000, b'{"a": NaN}', b"null", b"")


def tables(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Tables with wrong cells, quotes, lengths, separators, line ends and encodings, and some that are right."""
    rng = random.Random(seed)
    for number in range(count):
        header = ["video", "caption"] if rng.random() < 0.7 else rng.choices(HEADERS, k=rng.randint(0, 4))
        header = header + ([rng.choice(HEADERS)] if rng.random() < 0.3 else [])
        separator = rng.choice(",,,,,;\t|")
        lines = [separator.join(header)]
        for _ in range(rng.randint(0, 6)):
            cells = [_cell(rng) for _ in range(max(0, len(header) + rng.choice((0, 0, 0, 0, 0, 1, -1))))]
            lines.append(separator.join(cells))
        yield f"table {number}", _damaged(rng, _encoded(rng, _joined(rng, lines)))


def prompts(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Lists of prompts, one a line."""
    rng = random.Random(seed)
    for number in range(count):
        lines = [rng.choice(CELLS) for _ in range(rng.randint(0, 6))]
        yield f"prompts {number}", _damaged(rng, _encoded(rng, _joined(rng, lines)))


def _cell(rng: random.Random) -> str:
    cell = rng.choice(CELLS[:5] + ("24",)) if rng.random() < 0.6 else rng.choice(CELLS)
    quoting = rng.random()
    if quoting < 0.6:
        return '"' + cell.replace('"', '""') + '"'
    return f'"{cell}' if quoting < 0.65 else cell


def _joined(rng: random.Random, lines: list[str]) -> str:
    end = rng.choice(LINE_ENDS) if rng.random() < 0.4 else "\n"
    return end.join(lines) + rng.choice(("", end))


def _encoded(rng: random.Random, text: str) -> bytes:
    encoding = rng.choice(ENCODINGS) if rng.random() < 0.4 else "utf-8"
    return text.encode(encoding, "replace")


def _damaged(rng: random.Random, content: bytes) -> bytes:
    """The bytes as they are, or cut, overwritten in one place, or with another beginning."""
    kind = rng.random()
    place = rng.randrange(len(content) + 1)
    if kind < 0.05:
        return rng.choice(STARTS) + content
    if kind < 0.1:
        return content[:place]
    if kind < 0.2:
        return content[:place] + rng.randbytes(rng.randint(1, 4)) + content[place + 4 :]
    return content


def archives(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """npz files with wrong shapes, dtypes, values, headers, sizes and bytes, and some that are right."""
    rng = random.Random(seed)
    for number in range(count):
        entries = dict(rng.choice((_text_arrays(), _latent_arrays())))
        for key in rng.sample(KEYS, rng.choice((0, 1, 1, 2))):
            entries[key] = _array(rng)
        if rng.random() < 0.2:
            entries["made_from"] = np.frombuffer(rng.choice(RECORDS), np.uint8)
        if rng.random() < 0.1:
            entries.pop(rng.choice(list(entries)))
        yield f"archive {number}", _damaged(rng, _zipped(rng, entries))


def arrays(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """npy files of the same kinds."""
    rng = random.Random(seed)
    for number in range(count):
        right = rng.random() < 0.3
        array = np.zeros((1, 4, 2, 2, 2), np.float32) if right else _array(rng)
        yield f"array {number}", _damaged(rng, _wrong_header(rng, _stored(array)))


def _text_arrays() -> dict[str, np.ndarray]:
    return {"text_emb": np.ones((4, 3), np.float32), "mask": np.array([1, 1, 0, 0], np.uint8), "tokens": np.arange(4)}


def _latent_arrays() -> dict[str, np.ndarray]:
    mean = np.ones((5, 4, 2, 3), np.float32)
    numbers = {"fps": 8.0, "ori_size": [24, 32], "num_frames": 17, "size": [16, 24]}
    return {"latent_mean": mean, "latent_std": mean, **{name: np.asarray(value) for name, value in numbers.items()}}


def _array(rng: random.Random) -> np.ndarray:
    shape, dtype = rng.choice(SHAPES), rng.choice(DTYPES)
    with np.errstate(all="ignore"):
        values = np.full(shape, rng.choice(VALUES), np.float64)
        try:
            array = values.astype(dtype)
        except (TypeError, ValueError):
            array = np.zeros(shape, dtype)
    return np.asfortranarray(array) if rng.random() < 0.2 else array


def _stored(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _wrong_header(rng: random.Random, content: bytes) -> bytes:
    """The array, in one of five cases with a header that lies."""
    if rng.random() > 0.2:
        return content
    shape = rng.choice(("(1099511627776,)", "(-1,)", "(2.5,)", "[4]", "(True,)", "(0, 1099511627776)", "(" * 3000, "x"))
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    version = rng.choice((b"\1\0", b"\1\0", b"\2\0", b"\7\0"))
    length = rng.choice((len(header), len(header), 0, 60000))
    return b"\x93NUMPY" + version + length.to_bytes(2 if version[0] == 1 else 4, "little") + header + b"\0" * 16


def _zipped(rng: random.Random, entries: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, array in entries.items():
            archive.writestr(f"{name}.npy", _wrong_header(rng, _stored(array)))
    return file.getvalue()
