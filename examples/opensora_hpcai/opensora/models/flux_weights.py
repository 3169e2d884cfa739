"""The layouts in which MMDiT weights are published, and the way from one to another.

Flux holds queries, keys and values in one matrix and rotates neighbouring channels of a head; Open-Sora 2.0 holds them
apart and rotates channel ``j`` with ``j + d/2``. The change is a permutation of the rows that give queries and keys,
and of the scales of their norms, so it is exact in both directions. Tensors are read one at a time, when they are
written.

Legend: `D` hidden size, `d` head size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindone.checkpoint import TensorFile, cast, read_tensors
from mindone.checkpoint.convert import writer_for
from mindone.checkpoint.tensors import Entry
from mindone.errors import UserError

_FUSED = re.compile(r"(.*_attn|(?:.*\.)?single_blocks\.\d+)\.(?:qkv|linear1)\.(weight|bias)")
_QUERY = re.compile(r"(.*_attn|(?:.*\.)?single_blocks\.\d+)\.q_proj\.(weight|bias)")
_ROTATED = re.compile(r".*(?:_attn|single_blocks\.\d+)\.(?:[qk]_proj\.(?:weight|bias)|norm\.(?:query|key)_norm\.scale)")


@dataclass(frozen=True)
class Layout:
    """One matrix for queries, keys and values (``fused_qkv``); halves of a head rotated together (``half_rope``)."""

    fused_qkv: bool
    half_rope: bool


LAYOUTS = {"flux": Layout(fused_qkv=True, half_rope=False), "open-sora": Layout(fused_qkv=False, half_rope=True)}


def convert_flux(
    source: str | Path, target: str | Path, source_layout: str, target_layout: str, dtype: str | None = None
) -> TensorFile:
    """Writes MMDiT weights in another layout; the suffix of ``target`` says the format.

    Args:
        source_layout, target_layout: names in `LAYOUTS`.
        dtype: ``fp32``, ``fp16`` or ``bf16``; each tensor keeps its own if not given.
    Returns:
        What was written.
    Raises:
        UserError: the source cannot be read or is another network, or the target cannot be written.
    """
    for name in (source_layout, target_layout):
        if name not in LAYOUTS:
            raise UserError(f"layout {name} is not known; use one of {', '.join(LAYOUTS)}")
    writer = writer_for(target)
    tensors = in_layout(read_tensors(source), LAYOUTS[source_layout], LAYOUTS[target_layout])
    tensors = tensors if dtype is None else cast(tensors, dtype)
    writer(target, tensors)
    return tensors


def in_layout(tensors: TensorFile, source: Layout, target: Layout) -> TensorFile:
    """The same weights in another layout, each read when it is asked for.

    Raises:
        UserError: these are not the weights of an MMDiT in the layout ``source``.
    """
    entries = tensors.entries
    _check(tensors, source)
    if source.fused_qkv:
        entries = dict(_split(entries))
    if source.half_rope != target.half_rope:
        size = next(entry.shape[0] for name, entry in entries.items() if name.endswith(".query_norm.scale"))
        entries = {
            name: _permuted(entry, size, target.half_rope) if _ROTATED.fullmatch(name) else entry
            for name, entry in entries.items()
        }
    if target.fused_qkv:
        entries = dict(_fuse(entries))
    return TensorFile(tensors.path, entries, tensors.metadata)


def to_halves(rows: np.ndarray, head_size: int) -> np.ndarray:
    """Rows of heads whose neighbours (2i, 2i + 1) are rotated together → (i, i + d/2), for any further axes."""
    return rows.reshape(-1, head_size // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def to_neighbours(rows: np.ndarray, head_size: int) -> np.ndarray:
    """The way back from `to_halves`."""
    return rows.reshape(-1, 2, head_size // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _check(tensors: TensorFile, source: Layout) -> None:
    if not any(name.endswith(".query_norm.scale") for name in tensors):
        raise UserError(f"{tensors.path} holds no MMDiT: none of its tensors is a query_norm.scale")
    fused = any(_FUSED.fullmatch(name) for name in tensors)
    if fused != source.fused_qkv:
        kind = "one matrix" if fused else "matrices of their own"
        raise UserError(f"{tensors.path} has {kind} for queries, keys and values; name its layout")


def _split(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    for name, entry in entries.items():
        match = _FUSED.fullmatch(name)
        if not match:
            yield name, entry
            continue
        place, kind = match.groups()
        width = entries[name.removesuffix(kind) + "weight"].shape[1]
        rest = "v_proj" if place.endswith("_attn") else "v_mlp"
        yield f"{place}.q_proj.{kind}", _rows(entry, 0, width)
        yield f"{place}.k_proj.{kind}", _rows(entry, width, 2 * width)
        yield f"{place}.{rest}.{kind}", _rows(entry, 2 * width, entry.shape[0])


def _fuse(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    rest = dict(entries)
    for match in filter(None, map(_QUERY.fullmatch, entries)):
        place, kind = match.groups()
        fused, last = ("qkv", "v_proj") if place.endswith("_attn") else ("linear1", "v_mlp")
        parts = [rest.pop(f"{place}.{part}.{kind}") for part in ("q_proj", "k_proj", last)]
        yield f"{place}.{fused}.{kind}", _joined(parts)
    yield from rest.items()


def _rows(entry: Entry, begin: int, end: int) -> Entry:
    return Entry(entry.dtype, (end - begin, *entry.shape[1:]), lambda: entry.read()[begin:end])


def _joined(parts: list[Entry]) -> Entry:
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Entry(parts[0].dtype, shape, lambda: np.concatenate([part.read() for part in parts]))


def _permuted(entry: Entry, head_size: int, half: bool) -> Entry:
    change = to_halves if half else to_neighbours
    return Entry(entry.dtype, entry.shape, lambda: change(entry.read(), head_size))
