"""``opensora data duplicates``: which videos look like an earlier one of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mindone.errors import UserError
from mindone.progress import progress_bar
from opensora.config.curation import DuplicatesConfig
from opensora.data_tools.likeness import VECTOR, unpacked
from opensora.data_tools.listing import VIDEO
from opensora.data_tools.table import PROBLEM, open_table, write_table

DUPLICATE, HASH = "duplicate_of", "phash"
SHAPE = ("num_frames", "height", "width")
DIGITS = 48
Alike = Callable[[int, np.ndarray], np.ndarray]
_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def duplicates(config: DuplicatesConfig) -> int:
    """Writes the table with the column ``duplicate_of`` and returns how many videos have one.

    Rows with a problem or without a hash are passed on as they are.

    Raises:
        UserError: the table has no hashes or vectors, or one is none.
    """
    by_clip = config.similarity is not None
    rows = open_table(config.table, [VIDEO, HASH, *([VECTOR] if by_clip else [])])
    names, hashes, vectors = [], [], []
    for row in rows:
        usable = row[HASH] and not row.get(PROBLEM)
        names.append(row[VIDEO] if usable else "")
        hashes.append(_bytes(row[HASH]) if usable else np.zeros(DIGITS // 2, np.uint8))
        if by_clip:
            vectors.append(unpacked(row[VECTOR]) if usable and row[VECTOR] else None)
    if not hashes:
        raise UserError(f"{config.table} has no rows")
    ways = [hash_likeness(np.stack(hashes), config.distance)]
    if by_clip:
        ways.append(clip_likeness(vectors, [tuple(map(row.get, SHAPE)) for row in rows], config.similarity))
    earlier = earliest_alike(np.array([name != "" for name in names]), ways)
    found = [names[like] if like >= 0 else "" for like in earlier]
    columns = list(dict.fromkeys([*rows.columns, DUPLICATE]))
    count = write_table(config.output, columns, (row | {DUPLICATE: n} for row, n in zip(rows, found)), rows.texts)
    alike = sum(name != "" for name in found)
    print(f"{config.output}: {count} rows, {alike} look like an earlier one")
    return alike


def hash_likeness(hashes: np.ndarray, distance: int) -> Alike:
    """By hashes (N, 24) uint8 of which at most ``distance`` bits differ."""
    return lambda index, others: _BITS[hashes[others] ^ hashes[index]].sum(-1, dtype=np.int64) <= distance


def clip_likeness(vectors: Sequence[np.ndarray | None], shapes: Sequence[tuple], similarity: float) -> Alike:
    """By the cosine of vectors (D,) of length 1, of videos of the same length and size.

    Raises:
        UserError: vectors are those of different models.
    """
    widths = {len(vector) for vector in vectors if vector is not None}
    if len(widths) > 1:
        raise UserError(f"{VECTOR} has vectors of {sorted(widths)} numbers; measure all of them with the same model")
    nothing = np.zeros(widths.pop() if widths else 1, np.float32)
    table = np.stack([nothing if vector is None else vector for vector in vectors])
    numbers = {shape: number for number, shape in enumerate(dict.fromkeys(shapes))}
    kinds = np.array([numbers[shape] for shape in shapes])
    # a row without a vector is like none, whatever the similarity
    known = np.array([vector is not None for vector in vectors])

    def alike(index: int, others: np.ndarray) -> np.ndarray:
        same = (kinds[others] == kinds[index]) & known[others] & known[index]
        return same & (table[others] @ table[index] >= similarity)

    return alike


def earliest_alike(usable: np.ndarray, ways: Sequence[Alike]) -> np.ndarray:
    """For each row the index of the earliest one that is not itself a duplicate and is alike in one of the ways, or -1.

    Args:
        usable: (N,) bool; the others are neither compared nor found.
        ways: given an index and earlier ones (M,), which of these are like it, (M,) bool.
    """
    found = np.full(len(usable), -1)
    kept = np.empty(len(usable), np.int64)
    count = 0
    for index in progress_bar("duplicates", range(len(usable))):
        if not usable[index]:
            continue
        like = np.flatnonzero(np.logical_or.reduce([alike(index, kept[:count]) for alike in ways]))
        if len(like):
            found[index] = kept[like[0]]
        else:
            kept[count] = index
            count += 1
    return found


def _bytes(text: str) -> np.ndarray:
    try:
        if len(text) != DIGITS:
            raise ValueError
        return np.frombuffer(bytes.fromhex(text), np.uint8)
    except ValueError as error:
        raise UserError(f"{HASH}={text!r} is not a hash of {DIGITS} digits; measure it again") from error
