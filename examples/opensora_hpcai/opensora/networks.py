"""Denoisers and autoencoders by name or from a model folder: the one way to build, load and place a network.

A model folder has the hub's layout: ``config.json`` beside the weights. Autoencoders have the interface of
`opensora.models.autoencoder.Autoencoder`.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindone import runtime
from mindone.config import typed_entries
from mindone.errors import UserError
from mindone.models.presets import preset_values
from opensora.model_folder import config_from, read_config, require_path

if TYPE_CHECKING:
    from mindspore import nn

    from mindone.checkpoint import TensorFile
    from mindone.checkpoint.naming import Adapter
    from mindone.parallel.mesh import Mesh
    from mindone.parallel.sequence import NoParallel
    from opensora.models.autoencoder import Autoencoder
    from opensora.models.types import AutoencoderConfig, Denoiser, DenoiserConfig

logger = logging.getLogger(__name__)

# --- denoisers -------------------------------------------------------------------------------------------------------

# module → network, config and presets
DENOISERS = {
    "early_dit": ("EarlyDiT", "EarlyDiTConfig", "EARLY_DIT_PRESETS"),
    "dit": ("DiT", "DiTConfig", "DIT_PRESETS"),
    "pixart": ("PixArt", "PixArtConfig", "PIXART_PRESETS"),
    "stdit": ("STDiT", "STDiTConfig", "STDiT_PRESETS"),
    "stdit2": ("STDiT2", "STDiT2Config", "STDiT2_PRESETS"),
    "stdit3": ("STDiT3", "STDiT3Config", "STDiT3_PRESETS"),
    "mmdit": ("MMDiT", "MMDiTConfig", "MMDIT_PRESETS"),
}
# What the names of a module's networks begin with here, where another module has some of the same name.
PREFIXES = {"early_dit": "v0:"}
# Overrides that published commands give to every network, but only some have.
POSITION_SCALES = ("space_scale", "time_scale")


def denoiser_presets() -> dict[str, Any]:
    """The configs of all published sizes, by name; those of the first release are called ``v0:DiT-XL/2`` and so on."""
    return {
        f"{PREFIXES.get(module, '')}{name}": config
        for module in DENOISERS
        for name, config in _denoiser_part(module, 2).items()
    }


def denoiser_config(
    preset: str, path: str | Path | None = None, overrides: Mapping[str, Any] | None = None, setting: str = "denoiser"
) -> DenoiserConfig:
    """The config of a preset, replaced by the ``config.json`` at ``path``, then by overrides that are not None.

    `POSITION_SCALES` are left out with a notice where the network has none.

    Args:
        setting: dotted path of the setting that the overrides are from, for errors.
    Raises:
        UserError: an unknown preset, an override that its network does not have or of another type, or sizes that
            no network can have.
    """
    presets = denoiser_presets()
    if preset not in presets:
        raise UserError(f"the denoiser {preset} is not known; use one of {', '.join(presets)}")
    config = presets[preset]
    changes = {name: value for name, value in (overrides or {}).items() if value is not None}
    for name in sorted(_unknown(changes, config) & set(POSITION_SCALES)):
        logger.warning("%s=%s has no effect: the denoiser %s has no such scale", name, changes.pop(name), preset)
    changes = typed_entries(changes, type(config), setting)
    given = getattr(config, "own_entries", dict)(read_config(path))
    return config_from(type(config), {**dataclasses.asdict(config), **given, **changes})


def denoiser_class(config: DenoiserConfig) -> type[Denoiser]:
    """The network that a config dataclass belongs to."""
    return next(_denoiser_part(module, 0) for module in DENOISERS if type(config) is _denoiser_part(module, 1))


def build_denoiser(
    config: DenoiserConfig, dtype: str = "fp32", recompute: bool | int = False, parallel: NoParallel | None = None
) -> Denoiser:
    """The network of a config with fresh weights; ``recompute`` says for how many of its blocks, True for all."""
    from mindone.nn import set_compute_dtype

    denoiser = denoiser_class(config)(config, parallel)
    set_compute_dtype(denoiser, runtime.compute_dtype(dtype))
    if recompute:
        denoiser.recompute_blocks(None if recompute is True else recompute)
    return denoiser


def load_denoiser(
    path: str | Path | None,
    config: DenoiserConfig,
    dtype: str = "fp32",
    recompute: bool | int = False,
    allow_random: bool = False,
    parallel: NoParallel | None = None,
    option: str = "ckpt_path",
    trained: bool = False,
    loras: Sequence[tuple[str | Path, float]] = (),
    mesh: Mesh | None = None,
) -> Denoiser:
    """The denoiser with the weights at ``path``, a folder or file.

    Args:
        config: see `denoiser_config`.
        recompute: as in `build_denoiser`.
        allow_random: without a path, keep random weights instead of refusing.
        option: the setting that gave the path, for messages.
        trained: keep all parameters in float32; otherwise matrices are held in ``dtype``.
        loras: adapters that are folded into the weights before they get their dtype, with the strength of each.
        mesh: ranks that the weights are spread over, which then have to work together; None: each has all of them.
    Raises:
        UserError: no weights, or they or an adapter do not fit the network.
    """
    from mindone.checkpoint import load_into, read_tensors
    from mindone.nn import set_compute_dtype
    from opensora.models.flux_weights import for_network

    if not path and allow_random:
        if loras:
            raise UserError("lora adapts weights that are there, and there are none; give them as ckpt_path")
        logger.warning("the denoiser has random weights")
        denoiser = build_denoiser(config, dtype, recompute, parallel)
        if mesh:
            spread_denoiser(denoiser, mesh)
        return denoiser
    source = require_path(path, "the denoiser's weights", option)
    with runtime.lazy_parameters():
        denoiser = build_denoiser(config, dtype, recompute, parallel)
        if not trained:
            set_compute_dtype(denoiser, runtime.compute_dtype(dtype), store=True)
    tensors = adapted(for_network(read_tensors(source), config), denoiser, loras)
    if mesh:
        spread_denoiser(denoiser, mesh)
    load_into(denoiser, tensors)
    return denoiser.set_train(False)


def spread_denoiser(denoiser: Denoiser, mesh: Mesh) -> None:
    """Replaces matrices and tables of a denoiser that is not trained by this rank's slices of them."""
    from mindone.parallel.zero import spread, spread_tables

    spread(denoiser, mesh)
    # Where ranks share the branches of guidance, each asks for other classes.
    spread_tables(denoiser, mesh, together=False)


def check_denoiser_weights(
    path: str | Path, config: DenoiserConfig, loras: Sequence[tuple[str | Path, float]] = ()
) -> int:
    """Whether `load_denoiser` would load the weights at ``path``: their names and shapes, without reading a tensor.

    Returns:
        The number of tensors.
    Raises:
        UserError: as there.
    """
    from mindone.checkpoint import check_fit, read_tensors
    from opensora.models.flux_weights import for_network

    with runtime.lazy_parameters():
        denoiser = denoiser_class(config)(config, None)
    return len(check_fit(denoiser, adapted(for_network(read_tensors(path), config), denoiser, loras)).found)


def adapted(tensors: TensorFile, denoiser: Denoiser, loras: Sequence[tuple[str | Path, float]]) -> TensorFile:
    """A denoiser's weights with adapters folded in, each with its strength.

    Raises:
        UserError: an adapter is not there, or belongs to another network.
    """
    if not loras:
        return tensors
    from mindone.adapters import with_lora
    from opensora.models.lora_layouts import read_adapter

    names, config = shapes(denoiser), denoiser.config
    return with_lora(tensors, names, [(read_adapter(path, names, config), strength) for path, strength in loras])


def shapes(network: nn.Cell) -> dict[str, tuple[int, ...]]:
    """Of a network's parameters, by the names of its files."""
    return {name: tuple(parameter.shape) for name, parameter in network.parameters_and_names()}


def _unknown(changes: Mapping[str, Any], config: DenoiserConfig | AutoencoderConfig) -> set[str]:
    return set(changes) - {field.name for field in dataclasses.fields(config)}


def _denoiser_part(module: str, index: int) -> Any:
    return getattr(importlib.import_module(f"opensora.models.{module}"), DENOISERS[module][index])


# --- autoencoders ----------------------------------------------------------------------------------------------------

# kind → module, config and network
AUTOENCODER_KINDS = {
    "raw": ("vae_first", "RawConfig", "RawPixels"),
    "vqvae": ("vae_first", "VQAutoencoderConfig", "VQAutoencoder"),
    "2d": ("vae_frames", "FrameAutoencoderConfig", "VideoAutoencoderKL"),
    "pipeline": ("vae_v1_2", "VideoAutoencoderConfig", "VideoAutoencoder"),
    "flux": ("vae_flux", "FluxAutoencoderConfig", "FluxAutoencoder"),
    "hunyuan": ("vae_hunyuan", "HunyuanAutoencoderConfig", "AutoencoderKLCausal3D"),
    "dc-ae": ("vae_dc_ae", "DCAEConfig", "DCAE"),
}
# Kinds by the class that published config files name.
AUTOENCODER_CLASSES = {
    "AutoencoderKL": "2d",
    "VideoAutoencoderKL": "2d",
    "VideoAutoencoderPipeline": "pipeline",
    "VQVAE": "vqvae",
    "AutoencoderKLCausal3D": "hunyuan",
    "DCAE": "dc-ae",
}
# name → kind, and the library's preset with its sizes if the defaults of its config are not meant
AUTOENCODERS: dict[str, tuple[str, str | None]] = {
    "raw": ("raw", None),
    "VQ-VAE": ("vqvae", None),
    "SD-VAE": ("2d", "sd-vae-ft-ema"),
    "SDXL-VAE": ("2d", "sdxl-vae"),
    "OpenSora-VAE-v1.2": ("pipeline", None),
    "Flux-AE": ("flux", None),
    "Hunyuan-VAE": ("hunyuan", None),
    "Video-DC-AE": ("dc-ae", None),
}
# Those without weights.
WITHOUT_WEIGHTS = ("raw",)
# Kinds whose network stands in a ``module``, unlike in its files.
IN_MODULE = ("2d", "vqvae")
# Changes that published commands give to every autoencoder, but only some have.
OF_SOME_AUTOENCODERS = ("micro_frame_size", "sd_scale_factor")


def autoencoder_config(
    name: str | None = None, path: str | Path | None = None, entries: Mapping[str, Any] | None = None, **changes: Any
) -> AutoencoderConfig:
    """The config of an autoencoder: its preset, replaced by the ``config.json`` at ``path``, then by ``changes``.

    Args:
        name: one of `AUTOENCODERS`; not needed if the ``config.json`` says its ``kind`` or class.
        path: a model folder or weights file; its ``config.json`` may be absent if a name is given.
        entries: of a ``config.json``, which replace those at ``path``.
        changes: fields to replace; None leaves one as it is. ``sd_scale_factor`` is the ``scale_factor`` of kind 2d.
            `OF_SOME_AUTOENCODERS` are left out with a notice where the kind has none.
    Raises:
        UserError: the name is not known, nothing says what the folder holds, or a change does not fit its fields.
    """
    if name is not None and name not in AUTOENCODERS:
        raise UserError(f"there is no autoencoder {name}; use one of {', '.join(AUTOENCODERS)}")
    values = read_config(path)
    kind, preset = AUTOENCODERS[name] if name else (_kind(values, path), None)
    if values and name and _kind(values, path, kind) != kind:
        raise UserError(f"{path} holds an autoencoder of kind {_kind(values, path)}, not {name}")
    config = _part(kind, 1).from_dict({**(preset_values(preset) if preset else {}), **values, **(entries or {})})
    changes = {field: value for field, value in changes.items() if value is not None}
    if kind == "2d" and "sd_scale_factor" in changes:
        changes["scale_factor"] = changes.pop("sd_scale_factor")
    for field in sorted(_unknown(changes, config) & set(OF_SOME_AUTOENCODERS)):
        logger.warning("%s=%s has no effect: an autoencoder of kind %s has none", field, changes.pop(field), kind)
    return dataclasses.replace(config, **typed_entries(changes, type(config), "vae_config"))


def build_autoencoder(config: AutoencoderConfig, dtype: str = "fp32") -> Autoencoder:
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
    allow_random: bool = False,
    **changes: Any,
) -> Autoencoder:
    """The autoencoder whose weights are at ``path``; the other arguments are those of `autoencoder_config`.

    The names in the file may be those of either generation of AutoencoderKL, or of latent diffusion.
    ``allow_random`` keeps random weights if there is no path.

    Raises:
        UserError: no weights, or they do not fit the network.
    """
    from mindone.nn import set_compute_dtype

    if name in WITHOUT_WEIGHTS:
        return build_autoencoder(autoencoder_config(name, **changes), dtype)
    if not path and allow_random:
        logger.warning("the autoencoder has random weights")
        return build_autoencoder(autoencoder_config(name, **changes), dtype)
    source = require_path(path, "the autoencoder's weights", option)
    config = autoencoder_config(name, source, **changes)
    with runtime.lazy_parameters():
        autoencoder = build_autoencoder(config, dtype)
        set_compute_dtype(autoencoder, runtime.compute_dtype(dtype), store=True)
    load_autoencoder_weights(autoencoder, source)
    return autoencoder


def load_autoencoder_weights(autoencoder: Autoencoder, source: str | Path) -> None:
    """Fills an autoencoder from a folder or file of weights; see `load_autoencoder` and `own_tensors`."""
    from mindone.checkpoint import load_into

    load_into(autoencoder, own_tensors(source), _autoencoder_names(autoencoder))


def check_autoencoder_weights(autoencoder: Autoencoder, source: str | Path) -> int:
    """Whether `load_autoencoder_weights` would load them, without reading a tensor; returns their number.

    Raises:
        UserError: as there.
    """
    from mindone.checkpoint import check_fit

    return len(check_fit(autoencoder, own_tensors(source), _autoencoder_names(autoencoder)).found)


def _autoencoder_names(autoencoder: Autoencoder) -> tuple[Adapter, ...]:
    """How names of files become those of the network."""
    from mindone.checkpoint.naming import DEFAULT_ADAPTERS

    return (*DEFAULT_ADAPTERS, into_module) if autoencoder.config.kind in IN_MODULE else tuple(DEFAULT_ADAPTERS)


def own_tensors(source: str | Path) -> TensorFile:
    """The tensors of a model folder, or those of the larger model that it is a part of.

    ``"part_of": ["../vae", "spatial_vae."]`` in a config.json names the larger model's folder, relative to its own,
    and what the names of the part begin with there.
    """
    from mindone.checkpoint import read_tensors

    source = Path(source)
    shared = read_config(source).get("part_of")
    if not shared:
        return read_tensors(source)
    folder, prefix = shared
    return read_tensors((source if source.is_dir() else source.parent) / folder).under(prefix)


def autoencoder_skeleton(name: str | None = None, path: str | Path | None = None, **changes: Any) -> Autoencoder:
    """The autoencoder without weights or memory, to ask it for sizes."""
    with runtime.lazy_parameters():
        return build_autoencoder(autoencoder_config(name, path, **changes))


def into_module(name: str) -> str:
    """A name of an image autoencoder's file → its place in the autoencoder of frames."""
    return f"module.{name}"


def _kind(values: Mapping[str, Any], path: str | Path | None, default: str | None = None) -> str:
    named = [values.get("_class_name"), *values.get("architectures", ())]
    kinds = [values.get("kind"), *(AUTOENCODER_CLASSES.get(name) for name in named), default]
    known = [kind for kind in kinds if kind in AUTOENCODER_KINDS]
    if not known:
        raise UserError(f"nothing says which autoencoder {path} holds; give its name: {', '.join(AUTOENCODERS)}")
    return known[0]


def _part(kind: str, index: int) -> Any:
    entry = AUTOENCODER_KINDS[kind]
    return getattr(importlib.import_module(f"opensora.models.{entry[0]}"), entry[index])
