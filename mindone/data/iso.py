"""What the boxes of an MP4 or MOV file (ISO 14496-12) say that PyAV tells with decoded frames only.

Nothing here is needed to read a film: whatever is not as nearly all files have it is answered by "not sure".
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEADER_BYTES = 1 << 16
"""Within so many bytes of the beginning, or behind the frames, is the box with all headers."""
LONGEST_HEADER = 1 << 20

# a, b, u, c, d, v, x, y, w: what is in place already
_IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
# Where the matrix stands in boxes of version 0 and 1
_PLACES = {b"mvhd": (36, 48), b"tkhd": (40, 52)}
# H.264's profiles (profile_idc) whose parameter sets say how colours are sampled; in the others there are half as many.
_WITH_CHROMA = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))
UNSPECIFIED_SHAPE, SQUARE = 0, 1
BASELINE = 66


class Stored(NamedTuple):
    """What an H.264 film with square pixels says of its frames: their size, and whether the order in which they are
    shown is known before they are decoded."""

    height: int
    width: int
    order_known: bool


def is_iso(start: bytes) -> bool:
    """Whether a file that starts so is an MP4 or MOV, by its first box."""
    return start[4:8] == b"ftyp"


def movie_box(path: str | Path, start: bytes) -> bytes:
    """The content of the box with all headers (``moov``); nothing if it is long or not at one of the usual places.

    Args:
        start: the file's first `HEADER_BYTES`.
    """
    content, offset = start, 0
    for _ in range(2):
        behind = 0
        for kind, at, behind in _boxes(content, 0, len(content)):
            if kind == b"moov" and behind - at <= LONGEST_HEADER:
                return content[at:behind] if behind <= len(content) else _read(path, offset + at, behind - at)
        if not behind:
            break
        offset += behind
        content = _read(path, offset, HEADER_BYTES)
    return b""


def is_upright(movie: bytes) -> bool:
    """Whether the film and all its tracks are surely shown as they are stored, neither turned nor mirrored.

    Args:
        movie: as `movie_box` gives it.
    """
    matrices = 0
    for kind, at, end in _boxes(movie, 0, len(movie)):
        for box in _boxes(movie, at, end) if kind == b"trak" else [(kind, at, end)]:
            if box[0] in _PLACES:
                matrices += 1
                if not _is_identity(movie, *box):
                    return False
    return matrices > 1


def stored_frames(movie: bytes) -> Stored | None:
    """What the one H.264 track says in its own parameter set; None if its pixels are not square, or not sure.

    The set is that of ITU-T H.264, 7.3.2.1.1, in the box of ISO 14496-15, 5.3.3.1.

    Args:
        movie: as `movie_box` gives it.
    """
    place = movie.find(b"avcC") + 4
    if place < 4 or movie.count(b"avcC") > 1 or len(movie) < place + 12 or movie[place + 5] & 31 != 1:
        return None
    (length,) = struct.unpack_from(">H", movie, place + 6)
    try:
        return _stored_frames(movie[place + 8 : place + 8 + length])
    except ValueError:
        # it ends before
        return None


def _is_identity(content: bytes, kind: bytes, at: int, end: int) -> bool:
    place = at + _PLACES[kind][content[at : at + 1] == b"\1"]
    return content[place : min(place + len(_IDENTITY), end)] == _IDENTITY


def _boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of what is in each box between two places; the last one may end beyond ``content``."""
    while at + 8 <= min(end, len(content)):
        size, kind = struct.unpack_from(">I4s", content, at)
        head = 8
        if size == 1 and at + 16 <= len(content):
            (size,), head = struct.unpack_from(">Q", content, at + 8), 16
        if size < head:
            return
        yield kind, at + head, at + size
        at += size


def _read(path: str | Path, offset: int, length: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(length)


class _Bits:
    """Reads bits one after the other; a ValueError where there are none left."""

    def __init__(self, content: bytes):
        self._bits, self._at = f"{int.from_bytes(b'1' + content, 'big'):b}"[6:], 0

    def take(self, count: int = 1) -> int:
        """An unsigned number of so many bits."""
        self._at += count
        if self._at > len(self._bits):
            raise ValueError("no bits are left")
        return int(self._bits[self._at - count : self._at], 2)

    def number(self) -> int:
        """An Exp-Golomb number (H.264, 9.1)."""
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.take(zeros + 1) - 1


@functools.lru_cache(maxsize=1024)
def _stored_frames(parameters: bytes) -> Stored | None:
    """`stored_frames` of a sequence parameter set; scaling lists, fields and rarer things are not sure."""
    profile, bits = parameters[1] if len(parameters) > 1 else 0, _Bits(parameters[4:].replace(b"\0\0\3", b"\0\0"))
    bits.number()
    if profile in _WITH_CHROMA:
        has_half_chroma = bits.number() == 1
        bits.number(), bits.number(), bits.take()
        if not has_half_chroma or bits.take():
            return None
    bits.number()
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        return None
    bits.number(), bits.take()
    width, height = 16 * (bits.number() + 1), 16 * (bits.number() + 1)
    if not bits.take():
        return None
    bits.take()
    if bits.take():
        left, right, top, bottom = (2 * bits.number() for _ in range(4))
        width, height = width - left - right, height - top - bottom
    has_usability = bits.take()
    if has_usability and bits.take() and bits.take(8) not in (UNSPECIFIED_SHAPE, SQUARE):
        return None
    order_known = profile == BASELINE or order == 2 or (has_usability and _bounds_order(bits))
    return Stored(height, width, bool(order_known))


def _bounds_order(bits: _Bits) -> bool:
    """Whether the rest of the usability information (H.264, E.1.1), behind the shape of pixels, bounds reordering."""
    if bits.take():
        bits.take()
    if bits.take():
        bits.take(4)
        if bits.take():
            bits.take(24)
    if bits.take():
        bits.number(), bits.number()
    if bits.take():
        bits.take(65)
    has_buffers = [bits.take() and _skip_buffer(bits) for _ in range(2)]
    if any(has_buffers):
        bits.take()
    bits.take()
    return bits.take() == 1


def _skip_buffer(bits: _Bits) -> bool:
    """Goes behind the parameters of a decoder's buffer (H.264, E.1.2)."""
    count = bits.number() + 1
    bits.take(8)
    for _ in range(count):
        bits.number(), bits.number(), bits.take()
    bits.take(20)
    return True
