"""Versions of Open-Sora, each a room of its own: ``families/v1_2.py`` is all that says what 1.2 is."""

from __future__ import annotations

import dataclasses
import importlib
from typing import TypeVar, get_args

from mindone.config import leaves, naming_sources, resolve
from mindone.errors import UserError
from opensora.config.common import ModelVersion
from opensora.families.base import Family
from opensora.networks import AUTOENCODERS

Config = TypeVar("Config")

# version → module: v1.2 is families/v1_2.py, v1 is v1_0.py
MODULES: dict[str, str] = {
    name: f"opensora.families.{name.replace('.', '_') if '.' in name else f'{name}_0'}"
    for name in get_args(ModelVersion)
}


def get_family(name: str) -> Family:
    """The family called ``name``, with or without the ``v``.

    Raises:
        UserError: there is none of that name.
    """
    key = (name if name.startswith("v") else f"v{name}").replace("v1.0", "v1")
    if key not in MODULES:
        raise UserError(f"model_version={name} is not known; use one of {', '.join(MODULES)}")
    return importlib.import_module(MODULES[key]).FAMILY


def settle(
    config: Config, version: str, denoiser_preset: str | None = None, vae_type: str | None = None
) -> tuple[Family, Config]:
    """The family of a command and its settings, in which those left at None have the family's values.

    Args:
        denoiser_preset: another size of the family's denoiser than its own.
        vae_type: another autoencoder than the family's own; published names that are none of `networks.AUTOENCODERS`
            mean the family's own.
    Raises:
        UserError: no such version, or the version cannot do what the settings ask for.
    """
    family = get_family(version)
    if denoiser_preset:
        family = dataclasses.replace(family, denoiser_preset=family.network_named(denoiser_preset))
    if vae_type in AUTOENCODERS:
        family = dataclasses.replace(family, autoencoder_preset=vae_type)
    known = {leaf.name for leaf in leaves(type(config)).values()}
    config = resolve(config, {name: value for name, value in family.defaults().items() if name in known})
    with naming_sources(config):
        family.check(config)
    return family, config


def with_defaults(settings: Config, family: Family) -> Config:
    """One group of settings in which those left at None have the family's values."""
    own = {field.name for field in dataclasses.fields(settings) if getattr(settings, field.name) is None}
    return dataclasses.replace(settings, **{k: v for k, v in family.defaults().items() if k in own})


__all__ = ["MODULES", "Family", "get_family", "settle", "with_defaults"]
