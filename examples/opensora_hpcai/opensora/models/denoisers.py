"""The denoisers of Open-Sora 1.0 to 1.2 by the published names of their sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mindspore import nn

from mindone import runtime
from mindone.errors import UserError
from mindone.nn import set_compute_dtype
from opensora.model_folder import config_from
from opensora.models.stdit import STDiT, STDiT_PRESETS, STDiTConfig
from opensora.models.stdit2 import STDiT2, STDiT2_PRESETS, STDiT2Config
from opensora.models.stdit3 import STDiT3, STDiT3_PRESETS, STDiT3Config
from opensora.models.stdit_base import STDiTBase, STDiTBaseConfig

PRESETS: dict[str, STDiTBaseConfig] = {**STDiT_PRESETS, **STDiT2_PRESETS, **STDiT3_PRESETS}
NETWORKS: dict[type[STDiTBaseConfig], type[STDiTBase]] = {
    STDiTConfig: STDiT,
    STDiT2Config: STDiT2,
    STDiT3Config: STDiT3,
}


def denoiser_config(
    preset: str, published: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> STDiTBaseConfig:
    """The config of a preset, replaced by the entries of a ``config.json``, then by overrides that are not None.

    Raises:
        UserError: an unknown preset, or an override that its network does not have.
    """
    if preset not in PRESETS:
        raise UserError(f"the denoiser {preset} is not known; use one of {', '.join(PRESETS)}")
    config = PRESETS[preset]
    changes = {name: value for name, value in (overrides or {}).items() if value is not None}
    unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(config)})
    if unknown:
        raise UserError(f"{', '.join(unknown)} is not a setting of {NETWORKS[type(config)].__name__}")
    return config_from(type(config), {**dataclasses.asdict(config), **(published or {}), **changes})


def build_denoiser(
    config: STDiTBaseConfig, dtype: str = "fp32", recompute: bool | int = False, parallel: nn.Cell | None = None
) -> STDiTBase:
    """The network of a config with fresh weights; ``recompute`` says for how many of its blocks, True for all."""
    denoiser = NETWORKS[type(config)](config, parallel)
    set_compute_dtype(denoiser, runtime.compute_dtype(dtype))
    if recompute:
        denoiser.recompute_blocks(None if recompute is True else recompute)
    return denoiser
