"""``opensora data duplicates``: which videos look like an earlier one of the table."""

from __future__ import annotations

import numpy as np

from mindone.errors import UserError
from mindone.progress import progress_bar
from opensora.config.curation import DuplicatesConfig
from opensora.data_tools.listing import VIDEO
from opensora.data_tools.table import PROBLEM, open_table, write_table

DUPLICATE, HASH = "duplicate_of", "phash"
DIGITS = 48
_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def duplicates(config: DuplicatesConfig) -> int:
    """Writes the table with the column ``duplicate_of`` and returns how many videos have one.

    Rows with a problem or without a hash are passed on as they are.

    Raises:
        UserError: the table has no hashes, or one is not a hash.
    """
    rows = open_table(config.table, [VIDEO, HASH])
    names, hashes = [], []
    for row in rows:
        usable = row[HASH] and not row.get(PROBLEM)
        names.append(row[VIDEO] if usable else "")
        hashes.append(_bytes(row[HASH]) if usable else np.zeros(DIGITS // 2, np.uint8))
    if not hashes:
        raise UserError(f"{config.table} has no rows")
    earlier = earliest_alike(np.stack(hashes), np.array([name != "" for name in names]), config.distance)
    found = [names[like] if like >= 0 else "" for like in earlier]
    columns = list(dict.fromkeys([*rows.columns, DUPLICATE]))
    count = write_table(config.output, columns, (row | {DUPLICATE: n} for row, n in zip(rows, found)), rows.texts)
    alike = sum(name != "" for name in found)
    print(f"{config.output}: {count} rows, {alike} look like an earlier one")
    return alike


def earliest_alike(hashes: np.ndarray, usable: np.ndarray, distance: int) -> np.ndarray:
    """For each hash the index of the earliest one that is not itself a duplicate and differs little, or -1.

    Args:
        hashes: (N, 24) uint8.
        usable: (N,) bool; the others are neither compared nor found.
        distance: bits that may differ.
    """
    found = np.full(len(hashes), -1)
    kept = np.empty(len(hashes), np.int64)
    count = 0
    for index in progress_bar("duplicates", range(len(hashes))):
        if not usable[index]:
            continue
        apart = _BITS[hashes[kept[:count]] ^ hashes[index]].sum(-1, dtype=np.int64)
        like = np.flatnonzero(apart <= distance)
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
