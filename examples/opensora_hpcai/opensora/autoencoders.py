"""Every autoencoder by its name or from its model folder (``config.json`` beside the weights).

All of them have the interface of `opensora.models.autoencoder.Autoencoder`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindone import runtime
from mindone.errors import UserError
from mindone.models.presets import preset_values
from opensora.model_folder import read_config, require_path

# kind → module, config and network
KINDS = {
    "2d": ("vae_frames", "FrameAutoencoderConfig", "VideoAutoencoderKL"),
    "pipeline": ("vae_v1_2", "VideoAutoencoderConfig", "VideoAutoencoder"),
    "flux": ("vae_flux", "FluxAutoencoderConfig", "FluxAutoencoder"),
    "hunyuan": ("vae_hunyuan", "HunyuanAutoencoderConfig", "AutoencoderKLCausal3D"),
    "dc-ae": ("vae_dc_ae", "DCAEConfig", "DCAE"),
}
# Kinds by the class that published config files name.
CLASSES = {
    "AutoencoderKL": "2d",
    "VideoAutoencoderKL": "2d",
    "VideoAutoencoderPipeline": "pipeline",
    "AutoencoderKLCausal3D": "hunyuan",
    "DCAE": "dc-ae",
}
# name → kind, and the library's preset with its sizes if the defaults of its config are not meant
PRESETS: dict[str, tuple[str, str | None]] = {
    "SD-VAE": ("2d", "sd-vae-ft-ema"),
    "SDXL-VAE": ("2d", "sdxl-vae"),
    "OpenSora-VAE-v1.2": ("pipeline", None),
    "Flux-AE": ("flux", None),
    "Hunyuan-VAE": ("hunyuan", None),
    "Video-DC-AE": ("dc-ae", None),
}


def autoencoder_config(name: str | None = None, path: str | Path | None = None, **changes: Any) -> Any:
    """The config of an autoencoder: its preset, replaced by the ``config.json`` at ``path``, then by ``changes``.

    Args:
        name: one of `PRESETS`; not needed if the ``config.json`` says its ``kind`` or class.
        path: a model folder or weights file; its ``config.json`` may be absent if a name is given.
        changes: fields to replace; None leaves one as it is.
    Raises:
        UserError: the name is not known, or nothing says what the folder holds.
    """
    if name is not None and name not in PRESETS:
        raise UserError(f"there is no autoencoder {name}; use one of {', '.join(PRESETS)}")
    values = read_config(path)
    kind, preset = PRESETS[name] if name else (_kind(values, path), None)
    if values and name and _kind(values, path, kind) != kind:
        raise UserError(f"{path} holds an autoencoder of kind {_kind(values, path)}, not {name}")
    config = _part(kind, 1).from_dict({**(preset_values(preset) if preset else {}), **values})
    return dataclasses.replace(config, **{field: value for field, value in changes.items() if value is not None})


def build_autoencoder(config: Any, dtype: str = "fp32") -> Any:
    """The autoencoder of a config with fresh weights; its products run in ``dtype``."""
    from mindone.nn import set_compute_dtype

    autoencoder = _part(config.kind, 2)(config)
    set_compute_dtype(autoencoder, runtime.compute_dtype(dtype))
    return autoencoder.set_train(False)


def load_autoencoder(
    path: str | Path | None,
    name: str | None = None,
    dtype: str = "fp32",
    option: str = "vae_checkpoint",
    **changes: Any,
) -> Any:
    """The autoencoder whose weights are at ``path``; the other arguments are those of `autoencoder_config`.

    The names in the file may be those of either generation of AutoencoderKL, or of latent diffusion.

    Raises:
        UserError: no weights, or they do not fit the network.
    """
    from mindone.checkpoint import load_into, read_tensors
    from mindone.checkpoint.naming import DEFAULT_ADAPTERS
    from mindone.nn import set_compute_dtype

    source = require_path(path, "the autoencoder's weights", option)
    config = autoencoder_config(name, source, **changes)
    with runtime.lazy_parameters():
        autoencoder = build_autoencoder(config, dtype)
        set_compute_dtype(autoencoder, runtime.compute_dtype(dtype), store=True)
    adapters = (*DEFAULT_ADAPTERS, into_module) if config.kind == "2d" else DEFAULT_ADAPTERS
    load_into(autoencoder, read_tensors(source), adapters)
    return autoencoder


def into_module(name: str) -> str:
    """A name of an image autoencoder's file → its place in the autoencoder of frames."""
    return f"module.{name}"


def _kind(values: Mapping[str, Any], path: str | Path | None, default: str | None = None) -> str:
    named = [values.get("_class_name"), *values.get("architectures", ())]
    kinds = [values.get("kind"), *(CLASSES.get(name) for name in named), default]
    known = [kind for kind in kinds if kind in KINDS]
    if not known:
        raise UserError(f"nothing says which autoencoder {path} holds; give its name: {', '.join(PRESETS)}")
    return known[0]


def _part(kind: str, index: int) -> Any:
    entry = KINDS[kind]
    return getattr(importlib.import_module(f"opensora.models.{entry[0]}"), entry[index])
