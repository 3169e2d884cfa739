"""From the JSON beside a video back to the settings that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindone.config import leaves, load
from mindone.errors import UserError
from opensora.config import GenerateConfig
from opensora.outputs import plain
from opensora.serving.settings import FIXED, OPEN, REFERENCES

# Groups whose settings do not change what is seen, and what the networks are told by other means.
BESIDE = ("output", "runtime")
_TOLD = (*OPEN, *FIXED, REFERENCES, "batch_size")


@dataclass(frozen=True)
class Restored:
    """What made a video: its model, the settings that a request may have, references, and what no request can set.

    ``fixed`` are settings by which it differs from the model's recipe.
    """

    model: str | None
    settings: dict[str, Any]
    references: list[str] = field(default_factory=list)
    fixed: dict[str, Any] = field(default_factory=dict)


def read_record(path: str | Path) -> dict[str, Any]:
    """The JSON file beside a video.

    Raises:
        UserError: it is none.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise UserError(f"{Path(path).name} is not the JSON file of a video; it stands beside each with the same name")
    return record


def restored(record: Mapping[str, Any], models: Mapping[str, str], model: str | None = None) -> Restored:
    """The settings that a record tells.

    Args:
        models: recipes by name.
        model: one of them if it is known; else the one with the record's version and weights, if there is one.
    """
    values = values_in(record["settings"])
    settings = {name: values.get(name) for name in OPEN} | {
        "captions": [str(record.get("prompt", ""))],
        "seed": record.get("seed"),
        "task": record.get("task"),
        # A task is a word for the groups that it became.
        "mask_strategy": None if record.get("task") or not record.get("mask_strategy") else [record["mask_strategy"]],
        "image_size": [record.get("height"), record.get("width")],
        "resolution": None,
        "aspect_ratio": None,
    }
    recipes = {name: _values_of(recipe) for name, recipe in models.items()}
    model = model if model in recipes else next((n for n, own in recipes.items() if _is_of(own, values)), None)
    fixed = _differences(recipes[model], values) if model else {}
    if record.get("initial_noise"):
        fixed["initial_noise"] = record["initial_noise"]
    references = [str(path) for path in record.get("references") or ()]
    return Restored(model, {k: v for k, v in settings.items() if v is not None}, references, fixed)


def values_in(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a tree says, by label; a file of an earlier version may not know all."""
    found = {}
    for name, leaf in leaves(GenerateConfig).items():
        group: object = tree
        for part in leaf.groups:
            group = group.get(part) if isinstance(group, Mapping) else None
        if isinstance(group, Mapping) and leaf.name in group:
            found[name] = group[leaf.name]
    return found


def _values_of(recipe: str) -> dict[str, Any]:
    return values_in(plain(load(GenerateConfig, ["--config", recipe])))


def _is_of(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(recipe[name] == values.get(name) for name in ("model_version", "ckpt_path"))


def _differences(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the recipe gives other values than the record; what it leaves open is the version's own."""
    named = {name: leaf for name, leaf in leaves(GenerateConfig).items() if leaf.groups[0] not in BESIDE}
    return {
        name: values[name]
        for name in named
        if name not in _TOLD and name in values and recipe[name] is not None and values[name] != recipe[name]
    }
