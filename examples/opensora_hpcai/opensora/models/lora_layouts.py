"""Adapters (LoRA) of MMDiT from one layout of its weights to another, see `opensora.models.mmdit_layouts`.

A module that is split gives its matrix ``down`` to every part, and each its rows of ``up``. Parts that are joined keep
one ``down`` where they share it; otherwise theirs stand one below the other, and those of ``up`` as blocks on a
diagonal, so that the rank is the sum and the change of the weights the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindone.adapters import LoraModule, LoraTensors, fitting, read_lora
from mindone.checkpoint import TensorFile
from mindone.checkpoint.tensors import Entry
from opensora.models.flux_weights import in_layout
from opensora.models.mmdit_layouts import (
    LAYOUTS,
    QUERY_NORMS,
    Layout,
    depths_of,
    module_table,
    own_layout,
    piece_sizes,
    rows_changed,
)

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig

Shapes = Mapping[str, tuple[int, ...]]


def read_adapter(path: str | Path, shapes: Shapes, config: DenoiserConfig) -> LoraTensors:
    """As `mindone.adapters.read_lora`; an adapter of an MMDiT may be that of another layout of its weights.

    Names say the layout; those that the network has itself are taken for its own.

    Args:
        shapes: of the network's parameters, by name.
        config: the network's.
    Raises:
        UserError: as there.
    """
    own = own_layout(config)
    if own is None:
        return read_lora(path, shapes)
    layouts = [own, *(layout for layout in LAYOUTS.values() if layout != own)]
    candidates = [shapes if layout == own else shapes_in_layout(shapes, own, layout) for layout in layouts]
    found = fitting(path, candidates)
    if not found:
        return read_lora(path, shapes)
    return lora_in_layout(read_lora(path, candidates[found]), candidates[found], layouts[found], own)


def shapes_in_layout(shapes: Shapes, source: Layout, target: Layout) -> dict[str, tuple[int, ...]]:
    """The names and shapes of an MMDiT's parameters in another layout."""
    entries = {name: Entry(np.dtype(np.float32), shape, _no_values) for name, shape in shapes.items()}
    converted = in_layout(TensorFile("<shapes>", entries), source, target)
    return {name: entry.shape for name, entry in converted.entries.items()}


def lora_in_layout(lora: LoraTensors, shapes: Shapes, source: Layout, target: Layout) -> LoraTensors:
    """The same adapter for weights in another layout.

    Args:
        shapes: of the parameters in the layout ``source``, by name.
    """
    if source == target:
        return lora
    depths = depths_of(shapes)
    names, sizes = module_table(source, *depths), shapes_in_layout(shapes, source, target)
    head_size = next(math.prod(shape) for name, shape in shapes.items() if name.endswith(QUERY_NORMS))
    wholes, pieces = {}, {}
    for path, module in lora.modules.items():
        wholes[names[path]] = module
        pieces |= _split(module, names[path])
    modules = {}
    for path, parts in module_table(target, *depths).items():
        changes = [rows_changed(part, source, target, head_size) for part in parts]
        if parts in wholes and not any(changes):
            modules[path] = wholes[parts]
        elif any(part in pieces for part in parts):
            found = {part: pieces[part] for part in parts if part in pieces}
            for part, change in zip(parts, changes):
                if change and part in found:
                    found[part] = replace(found[part], up=change(found[part].up))
            rows = piece_sizes(parts, *sizes[f"{path}.weight"])
            modules[path] = found[parts[0]] if len(parts) == 1 else _joined([found.get(part) for part in parts], rows)
    return LoraTensors(lora.path, modules, lora.metadata)


def _no_values() -> np.ndarray:
    raise AssertionError("only shapes are known")


def _split(module: LoraModule, parts: Sequence[str]) -> dict[str, LoraModule]:
    """The adapters of the pieces of a module, without ranks, or whole pieces, that another piece has alone."""
    if len(parts) == 1:
        return {parts[0]: module}
    sizes = piece_sizes(tuple(parts), module.up.shape[0], module.down.shape[1])
    ups = np.split(module.up, np.cumsum(sizes)[:-1])
    if module.up.any():
        used = [up.any(axis=0) for up in ups]
        trimmed = [(module.down[ranks], np.ascontiguousarray(up[:, ranks])) for ranks, up in zip(used, ups)]
    else:
        trimmed = [(module.down, up) for up in ups]
    return {part: LoraModule(down, up, module.scale) for part, (down, up) in zip(parts, trimmed) if len(down)}


def _joined(modules: Sequence[LoraModule | None], rows: Sequence[int]) -> LoraModule:
    """One adapter of parts that stand one below the other with so many rows; None changes nothing."""
    given = [module for module in modules if module is not None]
    same_scale = len({module.scale for module in given}) == 1
    scale = given[0].scale if same_scale else 1.0
    groups: list[LoraModule] = []
    for module in given:
        if not any(_share(module, other) for other in groups):
            groups.append(module)
    dtype = _common([module.up for module in given]) if same_scale else np.dtype(np.float32)
    up = np.zeros((sum(rows), sum(module.rank for module in groups)), dtype)
    row = 0
    for module, count in zip(modules, rows):
        if module is not None:
            place = next(index for index, other in enumerate(groups) if _share(module, other))
            column = sum(other.rank for other in groups[:place])
            values = module.up if same_scale else module.up.astype(np.float32) * np.float32(module.scale)
            up[row : row + count, column : column + module.rank] = values
        row += count
    downs = [module.down for module in groups]
    return LoraModule(np.concatenate([down.astype(_common(downs), copy=False) for down in downs]), up, scale)


def _common(arrays: Sequence[np.ndarray]) -> np.dtype:
    """Their dtype, if it is one; else float32."""
    return arrays[0].dtype if len({array.dtype for array in arrays}) == 1 else np.dtype(np.float32)


def _share(first: LoraModule, second: LoraModule) -> bool:
    return first.down.dtype == second.down.dtype and np.array_equal(first.down, second.down)
