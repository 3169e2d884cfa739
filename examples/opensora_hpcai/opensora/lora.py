"""Adapters in other namings, and folded into the weights that they belong to."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import TYPE_CHECKING

from mindone import runtime
from mindone.adapters import LoraTensors, with_lora, write_lora
from mindone.checkpoint import atomic_folder, cast, read_tensors, weights_digest
from mindone.checkpoint.atomic import require_new_folder
from mindone.checkpoint.load import save_tensors
from mindone.errors import UserError
from opensora.config.generate import strengths
from opensora.config.lora import AdaptedModel, ConvertLoraConfig, MergeLoraConfig
from opensora.families import get_family
from opensora.model_folder import require_path
from opensora.networks import build_denoiser, denoiser_config, shapes
from opensora.passport import made_by

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig

logger = logging.getLogger(__name__)

# Of an adapter's passport, what the weights with it in them say.
PASSPORT = ("made_by", "recipe", "seed", "step")


def merge_lora(config: MergeLoraConfig) -> None:
    """Writes a model folder with the adapters in the weights, one tensor at a time.

    Raises:
        UserError: something is missing, does not fit, or would be overwritten.
    """
    from opensora.models.flux_weights import for_network
    from opensora.models.lora_layouts import read_adapter

    source = require_path(config.ckpt_path, "the denoiser's weights", "ckpt_path")
    require_new_folder(config.target)
    network = _network_config(config)
    names = _shapes(network)
    given = strengths(config.lora, config.lora_scale)
    loras = [(read_adapter(path, names, network), strength) for path, strength in given]
    tensors = with_lora(for_network(read_tensors(source), network), names, loras, keep_dtype=config.dtype is None)
    tensors = cast(tensors, config.dtype) if config.dtype else tensors
    about = {**tensors.metadata, "adapters": json.dumps(list(map(_described, loras))), "merged_by": made_by()}
    with atomic_folder(config.target) as folder:
        save_tensors(folder, tensors, dataclasses.asdict(network), passport=about)
    count = sum(len(lora.modules) for lora, strength in loras if strength)
    print(f"{config.target}: {len(tensors)} tensors, {count} of them changed by {len(loras)} adapters")


def _described(adapter: tuple[LoraTensors, float]) -> dict[str, str | float]:
    """What merged weights say of an adapter: its digest, its strength, and where it comes from."""
    lora, strength = adapter
    passport = {name: lora.metadata[name] for name in PASSPORT if name in lora.metadata}
    return {"digest": weights_digest(lora.path), "strength": strength, **passport}


def convert_lora(config: ConvertLoraConfig) -> None:
    """Writes an adapter in the naming of another tool, and for the layout of its weights.

    Raises:
        UserError: it is no adapter of this network, the network has no such layout, or the place cannot be written.
    """
    from opensora.models.lora_layouts import read_adapter

    source = require_path(config.src, "an adapter's weights", "src")
    if config.ckpt_path:
        require_path(config.ckpt_path, "the denoiser's weights", "ckpt_path")
    network = _network_config(config)
    names = _shapes(network)
    lora = read_adapter(source, names, network)
    about = {"converted_by": made_by()}
    if config.layout:
        lora, about["layout"] = _in_layout(lora, names, network, config.layout)
    lora = dataclasses.replace(lora, metadata={**lora.metadata, **about})
    write_lora(config.target, lora, config.format)
    print(f"{config.target}: {len(lora.modules)} modules, named as by {config.format}")


def _in_layout(
    lora: LoraTensors, names: dict[str, tuple[int, ...]], network: DenoiserConfig, layout: str
) -> tuple[LoraTensors, str]:
    """The adapter for another layout of the network's weights, and that layout's name."""
    from opensora.models.lora_layouts import lora_in_layout
    from opensora.models.mmdit_layouts import known_layout, own_layout

    own = own_layout(network)
    if own is None:
        raise UserError(f"layout={layout} is one of MMDiT, which Open-Sora 2.0 and Flux are; leave it out")
    name, target = known_layout(layout, network.cond_embed)
    if "cond_in" in lora.modules and name != "open-sora":
        logger.warning("the adapter changes cond_in, of which %s has no counterpart; it is kept under its name", name)
    return lora_in_layout(lora, names, own, target), name


def _network_config(config: AdaptedModel) -> DenoiserConfig:
    preset = config.model_name or get_family(config.model_version).denoiser_preset
    return denoiser_config(preset, config.ckpt_path)


def _shapes(network: DenoiserConfig) -> dict[str, tuple[int, ...]]:
    with runtime.lazy_parameters():
        return shapes(build_denoiser(network))
