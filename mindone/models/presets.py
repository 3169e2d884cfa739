"""Presets of the shared models: their published sizes by name, one YAML file each in ``configs/``.

A file says which network it is for (``model``) and the fields of its config (``config``). Importing this module does
not import MindSpore.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

import mindone
from mindone.errors import UserError

Config = TypeVar("Config")

# network → module and config
MODELS = {
    "T5Encoder": ("mindone.models.t5", "T5Config"),
    "CLIPTextEncoder": ("mindone.models.clip", "CLIPTextConfig"),
    "AutoencoderKL": ("mindone.models.autoencoder_kl", "AutoencoderKLConfig"),
}


def preset_folder() -> Path:
    """Where the presets are: inside the package if it is installed by copying, else at the root of the checkout."""
    package = Path(mindone.__file__).parent
    return next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())


def preset_names() -> list[str]:
    return sorted(file.stem for file in preset_folder().glob("*.yaml"))


def preset_values(name: str) -> dict[str, Any]:
    """The config fields of a preset, by the names of the hub's config.json.

    Raises:
        UserError: there is no preset of that name.
    """
    return _read(name)["config"]


def load_preset(name: str) -> Any:
    """The config of a preset, such as a `T5Config` for ``t5-v1_1-xxl``.

    Raises:
        UserError: there is no preset of that name.
    """
    content = _read(name)
    module, schema = MODELS[content["model"]]
    return getattr(importlib.import_module(module), schema)(**content["config"])


def config_of(schema: type[Config], values: Mapping[str, Any] | str) -> Config:
    """A config from the entries of a config.json, or from the name of a preset.

    Raises:
        UserError: there is no preset of that name, or it is one of another network.
    """
    if not isinstance(values, str):
        return schema.from_dict(values)
    config = load_preset(values)
    if not isinstance(config, schema):
        raise UserError(f"the preset {values} gives {type(config).__name__}, but {schema.__name__} is needed")
    return config


def _read(name: str) -> dict[str, Any]:
    names = preset_names()
    if name not in names:
        raise UserError(f"there is no preset {name}; use one of {', '.join(names)}")
    return yaml.safe_load((preset_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
