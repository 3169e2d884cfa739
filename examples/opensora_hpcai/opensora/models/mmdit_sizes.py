"""The sizes of an MMDiT as its weights say them, and the ``config.json`` that the readers of a layout expect.

Importing this module does not import MindSpore.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindone.checkpoint import TensorFile
from mindone.errors import UserError
from opensora.models.mmdit_layouts import Layout, depths_of, layout_of

DIFFUSERS_CLASS = "FluxTransformer2DModel"
PUBLISHED_AXES = (16, 56, 56)
"""Channels of a head that the published networks rotate by frame, row and column."""
THETA = 10000.0
_DIFFUSERS_NAMES = {
    "axes_dims_rope": "axes_dim",
    "guidance_embeds": "guidance_embed",
    "in_channels": "in_channels",
    "joint_attention_dim": "context_in_dim",
    "num_attention_heads": "num_heads",
    "num_layers": "depth",
    "num_single_layers": "depth_single_blocks",
    "pooled_projection_dim": "vec_in_dim",
}


@dataclass(frozen=True)
class MMDiTSizes:
    """What makes the network of weights: see `opensora.models.mmdit.MMDiTConfig`, which has most of the names.

    ``cond_channels`` is None without ``cond_in``, ``axes_dim`` where nothing says it, and ``mlp_ratio`` is that of the
    first block.
    """

    in_channels: int
    vec_in_dim: int
    context_in_dim: int
    hidden_size: int
    mlp_ratio: float
    num_heads: int
    depth: int
    depth_single_blocks: int
    axes_dim: tuple[int, ...] | None
    theta: float
    qkv_bias: bool
    patch_size: int
    guidance_embed: bool
    cond_channels: int | None


def half_rope_of(config: Mapping[str, Any], names: Mapping[str, Any]) -> bool | None:
    """What a ``config.json`` of an MMDiT says of the rotated channels, if it is that of the weights."""
    fits = config.get("fused_qkv") is layout_of(names).fused_qkv
    half = config.get("use_liger_rope")
    return half if fits and isinstance(half, bool) else None


def sizes_of(tensors: TensorFile, config: Mapping[str, Any]) -> MMDiTSizes:
    """The sizes of weights in the layout of Open-Sora 2.0, and what their ``config.json`` says beyond them."""
    shapes = {name: entry.shape for name, entry in tensors.entries.items()}
    depth, single = depths_of(shapes)
    width, channels = shapes["img_in.weight"]
    block = "double_blocks.0.img_attn" if depth else "single_blocks.0"
    head_size = shapes[f"{block}.norm.query_norm.scale"][0]
    mlp = shapes["double_blocks.0.img_mlp.0.weight"][0] if depth else shapes["single_blocks.0.v_mlp.weight"][0] - width
    cond = shapes["cond_in.weight"][1] if "cond_in.weight" in shapes else None
    return MMDiTSizes(
        in_channels=channels,
        vec_in_dim=shapes["vector_in.in_layer.weight"][1],
        context_in_dim=shapes["txt_in.weight"][1],
        hidden_size=width,
        mlp_ratio=mlp / width,
        num_heads=width // head_size,
        depth=depth,
        depth_single_blocks=single,
        axes_dim=_axes(config, head_size),
        theta=_number(config.get("theta"), THETA),
        qkv_bias="double_blocks.0.img_attn.q_proj.bias" in shapes or not depth,
        patch_size=_patch_size(config, channels, cond),
        guidance_embed="guidance_in.in_layer.weight" in shapes,
        cond_channels=cond,
    )


def config_for(sizes: MMDiTSizes, layout: Layout, path: Path) -> dict[str, Any]:
    """The ``config.json`` beside weights in a layout: diffusers' own, or the arguments of ours.

    Args:
        path: of the source, for the message.
    Raises:
        UserError: nothing says how the channels of a head are shared out.
    """
    if sizes.axes_dim is None:
        raise UserError(
            f"{path} has heads of {sizes.hidden_size // sizes.num_heads} channels, and no config.json beside it says "
            "the axes_dim of their rotation; write a file (--target NAME.safetensors) or put its config.json there"
        )
    if layout.diffusers:
        return {
            "_class_name": DIFFUSERS_CLASS,
            "attention_head_dim": sizes.hidden_size // sizes.num_heads,
            **{theirs: getattr(sizes, ours) for theirs, ours in _DIFFUSERS_NAMES.items()},
            "patch_size": 1,
        }
    same = {name: value for name, value in vars(sizes).items() if name != "cond_channels"}
    return {
        **same,
        "cond_embed": sizes.cond_channels is not None,
        "fused_qkv": layout.fused_qkv,
        "use_liger_rope": layout.half_rope,
    }


def own_entries(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries of a ``config.json`` by the names of `opensora.models.mmdit.MMDiTConfig`.

    Those of diffusers have other names, and a patch_size that is not of latents; whether there is ``cond_in`` they do
    not say.
    """
    if values.get("_class_name") != DIFFUSERS_CLASS:
        return values
    entries = {ours: values[theirs] for theirs, ours in _DIFFUSERS_NAMES.items() if theirs in values}
    heads, head_size = values.get("num_attention_heads"), values.get("attention_head_dim")
    return (
        {**entries, "hidden_size": heads * head_size}
        if isinstance(heads, int) and isinstance(head_size, int)
        else entries
    )


def _axes(config: Mapping[str, Any], head_size: int) -> tuple[int, ...] | None:
    """Of a ``config.json`` of ours or of diffusers, if they fit the heads; else the published ones, if those do."""
    for axes in (config.get("axes_dim"), config.get("axes_dims_rope"), PUBLISHED_AXES):
        if isinstance(axes, (list, tuple)) and all(isinstance(size, int) for size in axes) and sum(axes) == head_size:
            return tuple(axes)
    return None


def _patch_size(config: Mapping[str, Any], channels: int, cond: int | None) -> int:
    """From the mask's channels in ``cond``, patch_size²; without it, of a ``config.json`` of ours; else 2."""
    if cond is not None:
        return math.isqrt(max(cond - channels, 1))
    given = config.get("patch_size")
    ours = isinstance(given, int) and "depth_single_blocks" in config
    return given if ours else 2


def _number(value: Any, usual: float) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else usual
