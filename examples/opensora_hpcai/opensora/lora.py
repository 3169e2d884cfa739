"""Adapters in other namings, and folded into the weights that they belong to."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from mindone import runtime
from mindone.adapters import read_lora, with_lora, write_lora
from mindone.checkpoint import atomic_folder, atomic_write, cast, read_tensors, save_safetensors
from mindone.checkpoint.atomic import require_new_folder
from mindone.checkpoint.load import CONFIG, MODEL_LAYOUT
from opensora.config.generate import strengths
from opensora.config.lora import AdaptedModel, ConvertLoraConfig, MergeLoraConfig
from opensora.families import get_family
from opensora.model_folder import require_path
from opensora.networks import build_denoiser, denoiser_config, shapes

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig


def merge_lora(config: MergeLoraConfig) -> None:
    """Writes a model folder with the adapters in the weights, one tensor at a time.

    Raises:
        UserError: something is missing, does not fit, or would be overwritten.
    """
    source = require_path(config.ckpt_path, "the denoiser's weights", "ckpt_path")
    require_new_folder(config.target)
    network = _network_config(config)
    names = _shapes(network)
    loras = [(read_lora(path, names), strength) for path, strength in strengths(config.lora, config.lora_scale)]
    tensors = with_lora(read_tensors(source), names, loras, keep_dtype=config.dtype is None)
    tensors = cast(tensors, config.dtype) if config.dtype else tensors
    with atomic_folder(config.target) as folder:
        save_safetensors(folder / MODEL_LAYOUT.weights, tensors, {"format": "pt"})
        with atomic_write(folder / CONFIG) as file:
            file.write((json.dumps(dataclasses.asdict(network), indent=2) + "\n").encode())
    count = sum(len(lora.modules) for lora, strength in loras if strength)
    print(f"{config.target}: {len(tensors)} tensors, {count} of them changed by {len(loras)} adapters")


def convert_lora(config: ConvertLoraConfig) -> None:
    """Writes an adapter in the naming of another tool.

    Raises:
        UserError: it is no adapter of this network, or the place cannot be written.
    """
    source = require_path(config.src, "an adapter's weights", "src")
    if config.ckpt_path:
        require_path(config.ckpt_path, "the denoiser's weights", "ckpt_path")
    lora = read_lora(source, _shapes(_network_config(config)))
    write_lora(config.target, lora, config.format)
    print(f"{config.target}: {len(lora.modules)} modules, named as by {config.format}")


def _network_config(config: AdaptedModel) -> DenoiserConfig:
    preset = config.model_name or get_family(config.model_version).denoiser_preset
    return denoiser_config(preset, config.ckpt_path)


def _shapes(network: DenoiserConfig) -> dict[str, tuple[int, ...]]:
    with runtime.lazy_parameters():
        return shapes(build_denoiser(network))
