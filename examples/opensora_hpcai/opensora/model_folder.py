"""Model folders in the hub's layout: a ``config.json`` beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from mindone.checkpoint.files import read_json
from mindone.checkpoint.find import find_model
from mindone.errors import UserError
from mindone.models.sizes import known_entries

Config = TypeVar("Config")


def require_path(path: str | Path | None, what: str, option: str) -> Path:
    """The path of a model's file or folder, which has to exist; the folder of a run or a step stands for its model.

    Args:
        what: the model in words, for the message: "the denoiser's weights".
        option: the setting that names the path: "ckpt_path".
    Raises:
        UserError: no path given, or nothing there.
    """
    if not path:
        raise UserError(f"{what} are needed, but {option} is not set; give --{option} FOLDER_OR_FILE")
    path = Path(path)
    if not path.exists():
        raise UserError(f"{what} are not at {path}; set {option} to a folder or file that exists")
    return find_model(path)


def read_config(path: str | Path | None) -> dict[str, Any]:
    """The ``config.json`` of a model folder (or beside a weights file); empty if there is none.

    Raises:
        UserError: the file is not a JSON object.
    """
    if path is None:
        return {}
    path = find_model(path)
    file = (path if path.is_dir() else path.parent) / "config.json"
    return read_json(file, "model configuration") if file.is_file() else {}


def config_from(schema: type[Config], values: Mapping[str, Any]) -> Config:
    """A config dataclass from a published ``config.json``, whose further entries do not change the network."""
    if hasattr(schema, "from_dict"):
        return schema.from_dict(values)
    try:
        return schema(**known_entries(schema, values))
    except TypeError as error:
        raise UserError(f"config.json does not fit {schema.__name__}: {error}") from error
