"""The layouts in which MMDiT weights travel: what their modules are called, and which rows stand in which of them.

=========== ===================================== ================================= ===============================
layout      queries, keys and values              rotated channels of a head        names, and who reads them
=========== ===================================== ================================= ===============================
open-sora   matrices of their own                 ``j`` with ``j + d/2``            those of the release of 2.0
flux        one matrix                            neighbours                        those of the release of Flux
comfyui     as flux                               as flux                           as flux
diffusers   matrices of their own, the MLP's too  neighbours                        FluxTransformer2DModel of diffusers
=========== ===================================== ================================= ===============================

All of them hold the same rows. The finest part that every layout has whole is a *piece*; it is called as in diffusers,
whose modules have one piece each: ``single_blocks.0.linear1`` is four pieces, one below the other. From one layout to
another pieces are joined and split, and the rows of some change places: those of queries and keys, and of the scales of
their norms, where the rotated channels differ; and in diffusers the last modulation has the scale before the shift. All
of it is exact in both directions.

Legend: `D` hidden size, `d` head size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mindone.errors import UserError

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig


@dataclass(frozen=True)
class Layout:
    """How MMDiT weights are laid out.

    Attributes:
        fused_qkv: one matrix for queries, keys and values.
        half_rope: halves of a head are rotated together, not neighbours.
        diffusers: the modules, the names and the last modulation of diffusers.
    """

    fused_qkv: bool
    half_rope: bool
    diffusers: bool = False


LAYOUTS = {
    "open-sora": Layout(fused_qkv=False, half_rope=True),
    "flux": Layout(fused_qkv=True, half_rope=False),
    "comfyui": Layout(fused_qkv=True, half_rope=False),
    "diffusers": Layout(fused_qkv=False, half_rope=False, diffusers=True),
}
ORIGINAL = "original"
"""The layout of the release that weights belong to: open-sora with ``cond_in``, flux without."""

OPTIONAL = ("guidance_in.", "cond_in", "time_text_embed.guidance_embedder.")
"""What the names of modules begin with that not every MMDiT has."""

QUERY_NORMS = (".query_norm.scale", ".attn.norm_q.weight")
"""Ends of the names of scales, one for each channel of a head, that every MMDiT has in one layout or another."""

# Our module → its pieces.
_OUTSIDE = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "cond_in": ("cond_in",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_DOUBLE_FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_DOUBLE_SPLIT = {
    f"{stream}_attn.{part}_proj": (piece,)
    for stream in ("img", "txt")
    for part, piece in zip("qkv", _DOUBLE_FUSED[f"{stream}_attn.qkv"])
}
_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
    "linear2": ("proj_out",),
}
_SINGLE_FUSED = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}
_SINGLE_SPLIT = {"q_proj": ("attn.to_q",), "k_proj": ("attn.to_k",), "v_mlp": ("attn.to_v", "proj_mlp")}

_QKV = re.compile(r"transformer_blocks\.\d+\.attn\.(to_[qkv]|add_[qkv]_proj)")
_ROTATED = re.compile(r".*\.attn\.(to_[qk]|add_[qk]_proj|norm_(added_)?[qk])")
_DIFFUSERS = re.compile(r"(single_)?transformer_blocks\.\d+\.")
_FUSED = re.compile(r"(double_blocks\.\d+\.(img|txt)_attn\.qkv|single_blocks\.\d+\.linear1)(\.|$)")
_BLOCK = re.compile(r"(double_blocks|transformer_blocks|single_blocks|single_transformer_blocks)\.(\d+)\.")
# Far more than any network has.
_MAX_DEPTH = 1000

Rows = Callable[[np.ndarray], np.ndarray]


def known_layout(name: str, has_condition: bool) -> tuple[str, Layout]:
    """The layout of a name, and its own name where that is `ORIGINAL`.

    Args:
        has_condition: the weights have ``cond_in``.
    Raises:
        UserError: an unknown name.
    """
    if name == ORIGINAL:
        name = "open-sora" if has_condition else "flux"
    if name not in LAYOUTS:
        raise UserError(f"layout {name} is not known; use one of {', '.join((ORIGINAL, *LAYOUTS))}")
    return name, LAYOUTS[name]


def own_layout(config: DenoiserConfig) -> Layout | None:
    """The layout of a network; None if it is no MMDiT."""
    has_layouts = hasattr(config, "fused_qkv") and hasattr(config, "use_liger_rope")
    return Layout(config.fused_qkv, config.use_liger_rope) if has_layouts else None


def layout_of(names: Collection[str], half_rope: bool | None = None) -> Layout:
    """The layout that names of tensors or modules belong to.

    Args:
        half_rope: which channels are rotated together, if that is known; names do not tell it, and those with one
            matrix for queries, keys and values are taken for Flux, those without for Open-Sora 2.0.
    """
    if any(_DIFFUSERS.match(name) for name in names):
        return LAYOUTS["diffusers"]
    fused = any(_FUSED.match(name) for name in names)
    return Layout(fused, not fused if half_rope is None else half_rope)


def depths_of(names: Collection[str]) -> tuple[int, int]:
    """The numbers of blocks with two streams and with one."""
    depths = [0, 0]
    for match in filter(None, map(_BLOCK.match, names)):
        depths[match[1].startswith("single")] = max(depths[match[1].startswith("single")], int(match[2][:6]) + 1)
    return min(depths[0], _MAX_DEPTH), min(depths[1], _MAX_DEPTH)


def module_table(layout: Layout, depth: int, depth_single: int) -> dict[str, tuple[str, ...]]:
    """Every module of a layout, with the pieces whose rows it has, from above.

    Args:
        depth, depth_single: numbers of blocks with two streams and with one.
    """
    double = _DOUBLE | (_DOUBLE_FUSED if layout.fused_qkv else _DOUBLE_SPLIT)
    single = _SINGLE | (_SINGLE_FUSED if layout.fused_qkv else _SINGLE_SPLIT)
    table = dict(_OUTSIDE)
    for block in range(depth):
        table |= _of_block(f"double_blocks.{block}.", f"transformer_blocks.{block}.", double)
    for block in range(depth_single):
        table |= _of_block(f"single_blocks.{block}.", f"single_transformer_blocks.{block}.", single)
    return {piece: (piece,) for pieces in table.values() for piece in pieces} if layout.diffusers else table


def _of_block(ours: str, theirs: str, modules: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {ours + module: tuple(theirs + piece for piece in pieces) for module, pieces in modules.items()}


def parameters_of(pieces: tuple[str, ...], layout: Layout) -> tuple[str, ...]:
    """What the parameters of a module with these pieces are called."""
    if ".attn.norm_" not in pieces[0]:
        return ("weight", "bias")
    return ("weight",) if layout.diffusers else ("scale",)


def may_lack(module: str, pieces: tuple[str, ...], parameter: str) -> bool:
    """Whether there are networks without this parameter: of guidance, of a condition, without biases of attention."""
    return module.startswith(OPTIONAL) or (parameter == "bias" and bool(_QKV.fullmatch(pieces[0])))


def rows_changed(piece: str, source: Layout, target: Layout, head_size: int) -> Rows | None:
    """The order of a piece's rows in another layout: a function of an array with those rows; None if they stay."""
    if piece == "norm_out.linear" and source.diffusers != target.diffusers:
        return swapped_halves
    if source.half_rope == target.half_rope or not _ROTATED.fullmatch(piece):
        return None
    change = to_halves if target.half_rope else to_neighbours
    return lambda rows: change(rows, head_size)


def swapped_halves(rows: np.ndarray) -> np.ndarray:
    """The second half of the rows before the first."""
    return np.concatenate(np.split(rows, 2)[::-1])


def to_halves(rows: np.ndarray, head_size: int) -> np.ndarray:
    """Rows of heads whose neighbours (2i, 2i + 1) are rotated together → (i, i + d/2), for any further axes."""
    return rows.reshape(-1, head_size // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def to_neighbours(rows: np.ndarray, head_size: int) -> np.ndarray:
    """The way back from `to_halves`."""
    return rows.reshape(-1, 2, head_size // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def piece_sizes(pieces: tuple[str, ...], rows: int, columns: int) -> list[int]:
    """Rows of every piece of a module whose weight is (rows, columns): D each, and the rest for the last."""
    return [*[columns] * (len(pieces) - 1), rows - columns * (len(pieces) - 1)]
