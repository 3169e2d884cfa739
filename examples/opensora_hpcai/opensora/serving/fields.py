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
    kind = _kind(leaf)
    if leaf.label == "image_size":
        common["info"] = "width x height in pixels, such as 640x360"
    if leaf.label in _CHOICES:
        return gr.Dropdown(_CHOICES[leaf.label](recipe), value="", allow_custom_value=True, **common)
    if get_origin(kind) is Literal:
        return gr.Dropdown([("", ""), *((str(item), item) for item in get_args(kind))], value="", **common)
    # Numbers, too: a field for numbers alone shows 0 where nothing is said.
    return gr.Textbox(value="", placeholder=placeholder(recipe, leaf), lines=_LINES.get(leaf.label, 1), **common)


def updates_of(names: Sequence[str], recipe: str) -> list[object]:
    """What another recipe changes of the fields: what there is to choose, and what they are if nothing is said."""
    import gradio as gr

    known, updates = open_leaves(), []
    for name in names:
        if name in _CHOICES:
            updates.append(gr.update(choices=_CHOICES[name](recipe)))
        elif get_origin(_kind(known[name])) is Literal:
            updates.append(gr.skip())
        else:
            updates.append(gr.update(placeholder=placeholder(recipe, known[name])))
    return updates


def _kind(leaf: Leaf) -> object:
    """The first type of a setting that is not None."""
    found = (leaf.type,) if get_origin(leaf.type) in (Literal, list) else get_args(leaf.type) or (leaf.type,)
    return next(tp for tp in found if tp is not type(None))


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


# Settings with something to choose from beside what is typed.
_CHOICES = {"image_size": sizes_of, "num_frames": lengths_of}


def settings_in(values: Mapping[str, object]) -> dict[str, Any]:
    """What fields hold, as settings; empty ones are left out.

    Raises:
        UserError: a size or number that is none.
    """
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == "":
            continue
        if name == "image_size":
            settings[name] = size_in(str(value))
        elif open_leaves()[name].type == (list[str] | None):
            settings[name] = [value]
        else:
            settings[name] = _typed(name, str(value))
    return settings


def _typed(name: str, text: str) -> str | int | float:
    kind = _kind(open_leaves()[name])
    if kind not in (int, float) or name in _CHOICES:
        return text
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{name}={text} is no {'whole ' if kind is int else ''}number") from None


def values_of(settings: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The reverse of `settings_in`: a value per field."""
    values: list[str] = []
    for name in names:
        value = settings.get(name)
        if name == "image_size" and value is not None:
            height, width = (value, value) if isinstance(value, int) else (list(value) * 2)[:2]
            value = f"{width}x{height}"
        elif isinstance(value, list):
            value = value[0]
        values.append("" if value is None else str(value))
    return values
