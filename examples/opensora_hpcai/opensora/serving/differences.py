"""In what two videos differ, as the JSON files beside them tell it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindone.config import leaves
from opensora.config import GenerateConfig
from opensora.serving.restore import BESIDE, values_in
from opensora.serving.settings import FIXED, REFERENCES

# What a record says of the video itself, beside the settings that it became of.
_OF_VIDEO = ("prompt", "seed", "initial_noise", "num_frames", "task", "mask_strategy")
_SAID_THERE = ("captions", "image_size", "resolution", "aspect_ratio", REFERENCES, "batch_size", *_OF_VIDEO, *FIXED)


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[list[str]]:
    """The settings in which two videos differ: name, value of the left and of the right one.

    What the video became counts, not how it was asked for: ``2.5sec`` and ``60`` frames at 24 per second are the same.
    Settings that only one of the files knows, as of another version of the program, are left out.

    Args:
        left: a record, see `opensora.serving.restore.read_record`.
    """
    first, second = _told(left), _told(right)
    return [
        [name.replace("_", " "), _text(value), _text(second[name])]
        for name, value in first.items()
        if name in second and value != second[name]
    ]


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever may make a video another one, by name, in the order in which it is shown."""
    told = {name: record.get(name) for name in _OF_VIDEO}
    told["size"] = f"{record.get('width')}x{record.get('height')}"
    told["references"] = [Path(path).name for path in record.get("references") or ()]
    named = {name for name, leaf in leaves(GenerateConfig).items() if leaf.groups[0] not in BESIDE}
    settings = values_in(record["settings"]).items()
    return told | {name: value for name, value in settings if name in named and name not in _SAID_THERE}


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "" if value is None else f"{value}"
