"""The settings of a request as fields of a page: labels, help and choices come from the schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from mindone.config import Leaf, descriptions, load
from mindone.errors import UserError
from opensora.config import GenerateConfig
from opensora.model_folder import read_config
from opensora.serving.requests import size_in
from opensora.serving.settings import open_leaves

if TYPE_CHECKING:
    from gradio.components import Component

# Settings that are seen at once; the others are a click away.
FIRST = ("captions", "negative_prompts", "task", "image_size", "num_frames", "seed", "sampling_steps", "guidance_scale")
_LINES = {"captions": 3}
TRAINED = "trained on"
OWN = "of the recipe"


def make_fields(names: Sequence[str], recipe: str) -> dict[str, Component]:
    """A component per setting, in the place of the page where this is called."""
    docs, known = descriptions(GenerateConfig), open_leaves()
    return {name: _field(known[name], docs[known[name].path], recipe) for name in names}


def _field(leaf: Leaf, text: str, recipe: str) -> Component:
    import gradio as gr

    common = {"label": leaf.label.replace("_", " "), "info": text, "elem_id": f"setting-{leaf.label}"}
    if leaf.label in ("image_size", "num_frames"):
        choices = sizes_of(recipe) if leaf.label == "image_size" else lengths_of(recipe)
        common["info"] = f"WIDTHxHEIGHT in pixels; {text.split(',')[0]}" if leaf.label == "image_size" else text
        return gr.Dropdown(choices, value=None, allow_custom_value=True, **common)
    wanted = [tp for tp in _members(leaf.type) if tp is not type(None)]
    if get_origin(wanted[0]) is Literal:
        return gr.Dropdown([("", None), *((str(item), item) for item in get_args(wanted[0]))], value=None, **common)
    own = placeholder(recipe, leaf)
    if wanted[0] in (int, float):
        return gr.Number(value=None, precision=0 if wanted[0] is int else None, placeholder=own, **common)
    return gr.Textbox(value="", lines=_LINES.get(leaf.label, 1), placeholder=own, **common)


def _members(tp: object) -> tuple[object, ...]:
    return (tp,) if get_origin(tp) in (Literal, list) else get_args(tp) or (tp,)


def placeholder(recipe: str, leaf: Leaf) -> str | None:
    """What a setting is if nothing is said: the recipe's value."""
    value: object = load(GenerateConfig, ["--config", recipe])
    for name in leaf.path.split("."):
        value = getattr(value, name)
    return None if value is None else f"{value}"


def sizes_of(recipe: str) -> list[tuple[str, str]]:
    """Sizes to choose from, WIDTHxHEIGHT: that of the recipe, and those that the network was trained on."""
    config = load(GenerateConfig, ["--config", recipe])
    own, found = config.shape.image_size, {}
    if own is not None:
        height, width = (own, own) if isinstance(own, int) else (own * 2)[:2]
        found[f"{width}x{height}"] = OWN
    for height, width in _trained_on(config).get("sizes") or ():
        found[f"{width}x{height}"] = TRAINED
    return _marked(found)


def lengths_of(recipe: str) -> list[tuple[str, str]]:
    """Numbers of frames to choose from, as `sizes_of`, and a picture."""
    config = load(GenerateConfig, ["--config", recipe])
    own = config.shape.num_frames
    found = {} if own is None else {str(own): OWN}
    found |= {str(frames): TRAINED for frames in _trained_on(config).get("num_frames") or ()}
    return _marked({**found, "1": found.get("1", "a picture")})


def _marked(found: Mapping[str, str]) -> list[tuple[str, str]]:
    return [("", ""), *((f"{value} ({mark})", value) for value, mark in found.items())]


def _trained_on(config: GenerateConfig) -> dict[str, Any]:
    try:
        known = read_config(config.denoiser.ckpt_path).get("trained_on")
    except UserError:
        return {}
    return known if isinstance(known, dict) else {}


def settings_in(values: Mapping[str, object]) -> dict[str, Any]:
    """What fields hold, as settings; empty ones are left out.

    Raises:
        UserError: a size that is none.
    """
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == "" or value == []:
            continue
        if name == "image_size":
            settings[name] = size_in(str(value))
        elif open_leaves()[name].type == (list[str] | None):
            settings[name] = [value]
        else:
            settings[name] = value
    return settings


def values_of(settings: Mapping[str, Any], names: Sequence[str]) -> list[object]:
    """The reverse of `settings_in`: a value per field."""
    values: list[object] = []
    for name in names:
        value = settings.get(name)
        if name == "image_size" and value is not None:
            height, width = (value, value) if isinstance(value, int) else (list(value) * 2)[:2]
            value = f"{width}x{height}"
        elif isinstance(value, list):
            value = value[0]
        elif name == "num_frames" and value is not None:
            value = str(value)
        values.append(value)
    return values
