"""Arrays that are spread over ranks: what each holds, and folders in which each has written its own.

A folder of slices holds ``slices-00000-of-00004.safetensors`` and so on, and ``slices.json``, which says of every array
its shape, its dtype, and in which files its values lie, by their places in the flattened array (and has the metadata)::

    {"tensors": {"exp_avg.weight": {"shape": [3, 4], "dtype": "float32",
                                    "parts": [["slices-00000-of-00002.safetensors", 0, 6], ...]}}}

Read by `read_slices` it is one `TensorFile` of whole arrays, of which parts are read without the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindone.checkpoint.files import read_json
from mindone.checkpoint.safetensors_file import read_safetensors, save_safetensors
from mindone.checkpoint.tensors import Entry, TensorFile, as_tensor_file, one_line
from mindone.errors import UserError

SLICES = "slices.json"
_CUTS = "slices"


@dataclass(frozen=True)
class Cut:
    """What one rank holds of an array: ``size`` values of the flattened one, zeros where that has ended.

    Attributes:
        shape: of the whole array.
        begin: the place of the first value.
    """

    shape: tuple[int, ...]
    begin: int
    size: int

    @property
    def count(self) -> int:
        """The values that are the array's own, the first ones."""
        return max(0, min(self.size, math.prod(self.shape) - self.begin))


def cut_for(shape: Sequence[int], ranks: int, rank: int) -> Cut:
    """The slice of a rank; all ranks have slices of one length."""
    size = -(-math.prod(shape) // ranks)
    return Cut(tuple(shape), rank * size, size)


def cut_of(array: object) -> Cut | None:
    """What a parameter is a slice of; None if it is whole."""
    return getattr(array, "cut", None)


def whole_shape(array: Any) -> tuple[int, ...]:
    """The shape of a parameter, of a slice that of the whole."""
    cut = cut_of(array)
    return cut.shape if cut else tuple(array.shape)


def part(entry: Entry, cut: Cut) -> np.ndarray:
    """The values of a slice, (size,), read from a whole array."""
    values = entry.part(cut.begin, cut.count) if cut.count else np.zeros(0, entry.dtype)
    return values if cut.count == cut.size else np.concatenate([values, np.zeros(cut.size - cut.count, values.dtype)])


def slices_name(rank: int, ranks: int) -> str:
    """The file of a rank."""
    return f"slices-{rank:05d}-of-{ranks:05d}.safetensors"


def write_slices(
    folder: Path,
    arrays: Mapping[str, Any],
    cuts: Mapping[str, Cut],
    rank: int,
    ranks: int,
    passport: Mapping[str, str] | None = None,
) -> None:
    """Writes what a rank holds.

    Args:
        arrays: its slices (size,), numpy arrays, tensors or parameters, by the names of the whole arrays.
        cuts: what they are slices of.
        passport: where the arrays come from, for the metadata.
    Raises:
        UserError: the folder cannot be written.
    """
    file = as_tensor_file(arrays)
    entries = {name: _own(entry, cuts[name].count) for name, entry in file.entries.items()}
    described = {name: [list(cuts[name].shape), cuts[name].begin] for name in entries}
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {**file.metadata, **(passport or {}), _CUTS: json.dumps(described)}
    save_safetensors(folder / slices_name(rank, ranks), TensorFile("<slices>", entries), metadata)


def _own(entry: Entry, count: int) -> Entry:
    return Entry(entry.dtype, (count,), lambda: entry.read().reshape(-1)[:count])


def index_slices(folder: Path) -> None:
    """Writes ``slices.json`` for the files of a folder, which have to be there, all of them."""
    tensors: dict[str, dict[str, Any]] = {}
    metadata: dict[str, str] = {}
    for path in sorted(folder.glob(slices_name(0, 0).replace("00000", "*"))):
        file = read_safetensors(path)
        metadata |= {name: text for name, text in file.metadata.items() if name != _CUTS}
        for name, (shape, begin) in json.loads(file.metadata[_CUTS]).items():
            described = {"shape": shape, "dtype": str(file.dtype(name)), "parts": []}
            parts = tensors.setdefault(name, described)["parts"]
            if file.shape(name)[0]:
                parts.append([path.name, begin, file.shape(name)[0]])
    content = {"metadata": metadata, "tensors": tensors}
    (folder / SLICES).write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_slices(folder: Path) -> TensorFile:
    """A folder of slices as whole arrays.

    Raises:
        UserError: a file is missing or is not what ``slices.json`` says, or values of an array are in no file.
    """
    path = folder / SLICES
    files: dict[str, TensorFile] = {}
    entries: dict[str, Entry] = {}
    try:
        content = read_json(path, "index of slices")
        metadata = {str(name): str(text) for name, text in content.get("metadata", {}).items()}
        for name, described in content["tensors"].items():
            shape = tuple(int(side) for side in described["shape"])
            parts = sorted((int(begin), int(count), str(file)) for file, begin, count in described["parts"])
            entries[name] = _joined(folder, name, shape, str(described["dtype"]), parts, files)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a readable index of slices; copy the checkpoint again") from error
    return TensorFile(folder, entries, metadata)


def _joined(
    folder: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    parts: Sequence[tuple[int, int, str]],
    files: dict[str, TensorFile],
) -> Entry:
    """One whole array of the parts ``(begin, count, file)``, which have to follow each other."""
    held: list[tuple[int, Entry]] = []
    end = 0
    for begin, count, file in parts:
        entry = _opened(folder, file, files).entries.get(name)
        if begin != end or entry is None or entry.shape != (count,) or str(entry.dtype) != dtype:
            raise UserError(f"{folder}: {one_line(name)} is not in {file} as {SLICES} says; copy the checkpoint again")
        held.append((begin, entry))
        end += count
    if end != math.prod(shape):
        raise UserError(
            f"{folder}: {SLICES} has {end} of the {math.prod(shape)} values of {one_line(name)}; copy it again"
        )
    kind = held[0][1].dtype

    def flat(begin: int, count: int) -> np.ndarray:
        found = []
        for first, entry in held:
            start, stop = max(begin, first), min(begin + count, first + entry.size)
            if start < stop:
                found.append(entry.part(start - first, stop - start))
        return found[0] if len(found) == 1 else np.concatenate([np.zeros(0, kind), *found])

    return Entry(kind, shape, lambda: flat(0, end).reshape(shape), flat=flat)


def _opened(folder: Path, name: str, files: dict[str, TensorFile]) -> TensorFile:
    if name not in files:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{folder} lacks {one_line(name)}, which {SLICES} names; copy the checkpoint again")
        files[name] = read_safetensors(folder / name)
    return files[name]
