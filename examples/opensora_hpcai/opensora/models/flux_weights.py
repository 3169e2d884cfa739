"""MMDiT weights from one layout to another, see `opensora.models.mmdit_layouts`: exactly, one tensor at a time.

Legend: `D` hidden size, `d` head size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindone.checkpoint import Layout as Files
from mindone.checkpoint import TensorFile, atomic_folder, cast, read_tensors
from mindone.checkpoint.atomic import require_new_folder
from mindone.checkpoint.convert import writer_for
from mindone.checkpoint.load import MODEL_LAYOUT, save_tensors
from mindone.checkpoint.naming import common_wrappers
from mindone.checkpoint.tensors import Entry, one_line
from mindone.errors import UserError
from opensora.model_folder import read_config
from opensora.models.mmdit_layouts import (
    LAYOUTS,
    QUERY_NORMS,
    Layout,
    depths_of,
    known_layout,
    layout_of,
    may_lack,
    module_table,
    own_layout,
    parameters_of,
    piece_sizes,
    rows_changed,
)
from opensora.models.mmdit_sizes import MMDiTSizes, config_for, half_rope_of, sizes_of

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig

logger = logging.getLogger(__name__)

AUTO = "auto"
"""The layout that the names say, and a ``config.json`` beside the file."""
PREFIX = "model.diffusion_model."
"""What names begin with in ComfyUI's files that hold other networks too."""
DIFFUSERS_FILES = Files(weights="diffusion_pytorch_model.safetensors")
_LISTED = 3


def convert_flux(
    source: str | Path,
    target: str | Path,
    source_layout: str,
    target_layout: str,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> TensorFile:
    """Writes MMDiT weights in another layout: a file, or a folder with a ``config.json`` of the layout's readers.

    Args:
        target: a file whose suffix says the format, ``.safetensors`` or ``.ckpt``; without a suffix a new folder.
        source_layout: a name in `opensora.models.mmdit_layouts.LAYOUTS`, or `AUTO`.
        target_layout: a name there, or ``original``.
        dtype: ``fp32``, ``fp16`` or ``bf16``; each tensor keeps its own if not given.
        metadata: strings for the written file beside those that the source's has.
    Returns:
        What was written.
    Raises:
        UserError: the source cannot be read or is another network, or the target cannot be written.
    """
    suffix = Path(target).suffix
    as_folder = not suffix or suffix[1:].isdigit()
    writer = None if as_folder else writer_for(target)
    if as_folder:
        require_new_folder(target)
    tensors = unwrapped(read_tensors(source))
    given, has_condition = read_config(source), "cond_in.weight" in tensors
    here = layout_of(tensors, half_rope_of(given, tensors))
    if source_layout != AUTO:
        here = known_layout(source_layout, has_condition)[1]
    name, there = known_layout(target_layout, has_condition)
    converted = in_layout(tensors, here, there)
    sizes = sizes_of(in_layout(tensors, here, LAYOUTS["open-sora"]), given)
    _say_what_readers_lack(sizes, name)
    about = {**tensors.metadata, "layout": name, **(metadata or {})}
    converted = TensorFile(tensors.path, converted.entries, about)
    converted = converted if dtype is None else cast(converted, dtype)
    if writer:
        writer(target, converted)
    else:
        _write_folder(Path(target), converted, sizes, there)
    return converted


def in_layout(tensors: TensorFile, source: Layout, target: Layout) -> TensorFile:
    """The same weights in another layout, each read when it is asked for.

    Raises:
        UserError: these are not the weights of an MMDiT in the layout ``source``.
    """
    pieces = _pieces(tensors, source)
    entries = {}
    for module, parts in module_table(target, *depths_of(tensors)).items():
        for kind, parameter in zip(("weight", "bias"), parameters_of(parts, target)):
            entry = pieces.joined(parts, kind, source, target)
            if entry:
                entries[f"{module}.{parameter}"] = entry
    return TensorFile(tensors.path, entries, tensors.metadata)


def for_network(tensors: TensorFile, config: DenoiserConfig) -> TensorFile:
    """Weights as the network of a config has them: those of an MMDiT from whatever layout their names say.

    Raises:
        UserError: an MMDiT in another layout is not whole.
    """
    own = own_layout(config)
    if own is None or not any(name.endswith(QUERY_NORMS) for name in tensors):
        return tensors
    tensors = unwrapped(tensors)
    here = layout_of(tensors)
    if (here.fused_qkv, here.diffusers) == (own.fused_qkv, own.diffusers):
        return tensors
    logger.info(
        "%s: its weights are in another layout than the network's, and change it as they are read", tensors.path
    )
    return in_layout(tensors, here, own)


def unwrapped(tensors: TensorFile) -> TensorFile:
    """Without what all names begin with that is no name of an MMDiT; of ComfyUI's files with more, the MMDiT alone."""
    inside = tensors.under(PREFIX)
    if not inside:
        return tensors.under(common_wrappers(tensors))
    if len(inside) < len(tensors):
        left = sorted({name.partition(".")[0] for name in tensors if not name.startswith(PREFIX)})
        logger.warning("%s: taking %s*; left out: %s", tensors.path, PREFIX, ", ".join(map(one_line, left[:_LISTED])))
    return inside


# --- pieces ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pieces:
    """The pieces of weights, and those that stand in one tensor together, by kind: ``weight`` or ``bias``."""

    path: Path
    head_size: int
    entries: dict[tuple[tuple[str, ...], str], Entry]

    def joined(self, parts: tuple[str, ...], kind: str, source: Layout, target: Layout) -> Entry | None:
        """One tensor of pieces in the order of rows that the target has; None if the network has no such."""
        changes = [rows_changed(part, source, target, self.head_size) for part in parts]
        whole = self.entries.get((parts, kind))
        if whole and not any(changes):
            return whole
        found = [self.entries.get(((part,), kind)) for part in parts]
        if not any(found):
            return None
        if not all(found):
            raise UserError(f"{self.path} has a {kind} for some of {', '.join(parts)}, but not for all of them")
        shape = (sum(entry.shape[0] for entry in found), *found[0].shape[1:])
        if len({(entry.dtype, entry.shape[1:]) for entry in found}) > 1:
            raise UserError(f"{self.path} has {', '.join(parts)} of several widths or dtypes; they make no one {kind}")

        def read() -> np.ndarray:
            arrays = [change(entry.read()) if change else entry.read() for change, entry in zip(changes, found)]
            return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

        return Entry(found[0].dtype, shape, read)


def _pieces(tensors: TensorFile, layout: Layout) -> _Pieces:
    """Takes weights apart, after a look at their names and shapes.

    Raises:
        UserError: names are missing or not known, or shapes are those of no MMDiT.
    """
    table = module_table(layout, *depths_of(tensors))
    known = {
        f"{module}.{parameter}": (module, parts, kind)
        for module, parts in table.items()
        for kind, parameter in zip(("weight", "bias"), parameters_of(parts, layout))
    }
    _check_names(tensors, layout, known)
    norms = [entry for name, entry in tensors.entries.items() if name in known and ".attn.norm_" in known[name][1][0]]
    head_size = norms[0].size if norms else 0
    if head_size < 2 or head_size % 2 or any(entry.shape != (head_size,) for entry in norms):
        raise UserError(f"{tensors.path} has norms of queries and keys that are not of one even size")
    entries: dict[tuple[tuple[str, ...], str], Entry] = {}
    for name, entry in tensors.entries.items():
        module, parts, kind = known[name]
        weight = tensors.entries.get(f"{module}.weight", entry)
        sizes = _sizes(tensors.path, name, parts, entry, weight, head_size)
        begin = 0
        for part, size in zip(parts, sizes):
            entries[(part,), kind] = entry if len(parts) == 1 else _rows(entry, begin, begin + size)
            begin += size
        entries[parts, kind] = entry
    return _Pieces(tensors.path, head_size, entries)


def _check_names(tensors: TensorFile, layout: Layout, known: Mapping[str, tuple[str, tuple[str, ...], str]]) -> None:
    found = layout_of(tensors)
    if not any(name.endswith(QUERY_NORMS) for name in tensors):
        raise UserError(f"{tensors.path} holds no MMDiT: none of its tensors is a query_norm.scale or an attn.norm_q")
    if found.diffusers != layout.diffusers or found.fused_qkv != layout.fused_qkv:
        kind = "one matrix" if found.fused_qkv else "matrices of their own"
        names = " and the names of diffusers" if found.diffusers else ""
        raise UserError(f"{tensors.path} has {kind} for queries, keys and values{names}; name its layout")
    strange = [name for name in tensors if name not in known]
    lacking = [
        name
        for name, (module, parts, kind) in known.items()
        if name not in tensors and not may_lack(module, parts, kind)
    ]
    if strange or lacking:
        parts = _listed("that no MMDiT has", strange), _listed("missing", lacking)
        raise UserError(f"{tensors.path} is no whole MMDiT: it has tensors {'; '.join(filter(None, parts))}")


def _listed(what: str, names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{what}: {', '.join(map(one_line, names[:_LISTED]))}{more}" if names else ""


def _sizes(path: Path, name: str, parts: tuple[str, ...], entry: Entry, weight: Entry, head_size: int) -> list[int]:
    """Rows of the pieces of a tensor, whose module has the weight ``weight``."""
    axes = 1 if entry is not weight or ".attn.norm_" in parts[0] else 2
    fits = len(entry.shape) == axes and len(weight.shape) and entry.shape[0] == weight.shape[0] > 0
    if fits and len(parts) > 1:
        fits = len(weight.shape) == 2 and weight.shape[0] > weight.shape[1] * (len(parts) - 1)
    sizes = piece_sizes(parts, weight.shape[0], weight.shape[-1]) if fits else [1] * len(parts)
    steps = [head_size if ".attn." in part else 2 if part == "norm_out.linear" else 1 for part in parts]
    if not fits or any(size % step for size, step in zip(sizes, steps)):
        raise UserError(f"{path}: {one_line(name)} has the shape {list(entry.shape)}, which does not fit an MMDiT")
    return sizes


def _rows(entry: Entry, begin: int, end: int) -> Entry:
    stored = entry.stored and (entry.stored[0], entry.stored[1] + begin * (entry.nbytes // entry.shape[0]))
    return Entry(entry.dtype, (end - begin, *entry.shape[1:]), partial(_slice, entry, begin, end), stored)


def _slice(entry: Entry, begin: int, end: int) -> np.ndarray:
    return entry.read()[begin:end]


# --- what is written -------------------------------------------------------------------------------------------------


def _write_folder(target: Path, tensors: TensorFile, sizes: MMDiTSizes, layout: Layout) -> None:
    config: dict[str, Any] = config_for(sizes, layout, tensors.path)
    with atomic_folder(target) as folder:
        files = DIFFUSERS_FILES if layout.diffusers else MODEL_LAYOUT
        save_tensors(folder, tensors, config, files, tensors.metadata)


def _say_what_readers_lack(sizes: MMDiTSizes, layout: str) -> None:
    """Says what the readers of a layout do not know of a network."""
    reader = {"diffusers": "FluxTransformer2DModel of diffusers", "comfyui": "the Flux of ComfyUI", "flux": "Flux"}
    if layout not in reader:
        return
    if sizes.cond_channels is not None:
        logger.warning(
            "%s has no counterpart of cond_in: it is kept under its own name; a reader has to add cond_in(cond) to the "
            "embedded tokens, and its bias where no frames are given",
            reader[layout],
        )
    if not sizes.qkv_bias:
        logger.warning("%s has biases of queries, keys and values, which this network does not have", reader[layout])
    if sizes.theta != 10000.0:
        logger.warning("%s rotates with theta 10000, this network with %g", reader[layout], sizes.theta)
