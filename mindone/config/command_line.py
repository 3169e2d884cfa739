"""The command line: recipes and flags."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mindone.config.checks import Given, Source
from mindone.config.names import Meaning, Names
from mindone.config.recipe import from_text
from mindone.config.schema import accepts, entry_type, is_text, item_type, type_name
from mindone.config.values import is_valid_text, shown
from mindone.errors import UserError

_OPTION = re.compile(r"--?[A-Za-z]")
_ASSIGNMENT = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*=")
_CONFIG = ("-c", "--config")


def arguments(values: Mapping[str, object]) -> list[str]:
    """Values by the names of their flags as a command line: a list as several words, a mapping as JSON."""
    argv = []
    for name, value in values.items():
        items = value if isinstance(value, list | tuple) else [value]
        argv += [f"--{name}", *(json.dumps(item) if isinstance(item, dict) else str(item) for item in items)]
    return argv


def read_argv(names: Names, argv: Sequence[str]) -> tuple[list[str], list[Given]]:
    """The recipes and the values of a command line.

    Raises:
        UserError: an unknown option, a missing value or too many, or bytes that are no text.
    """
    for token in argv:
        if not is_valid_text(token):
            raise UserError(f"the argument {shown(token)} is not {sys.getfilesystemencoding().upper()} text")
    recipes: list[str] = []
    flags: list[Given] = []
    source = Source()
    for option, values in _options(names, argv):
        if option in _CONFIG and not names.is_short(option):
            if not all(values) or not values:
                raise UserError(f"{option} needs the path of a recipe, as in --config recipe.yaml")
            recipes += values
            continue
        if not option.startswith("--") and not names.is_short(option):
            raise UserError(f"unknown option '{option}'; --help lists all of them")
        meaning = names.find(option.lstrip("-"), source)
        if meaning is not None:
            flags.append(Given(meaning.leaf, meaning.entry, _flag_value(meaning, option, values), source, {}))
    return recipes, flags


def _options(names: Names, argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Options with the values that follow them; ``name=value`` is the same as ``--name=value``."""
    option: str | None = None
    values: list[str] = []
    assigned = False
    for token in argv:
        begins = bool(_OPTION.match(token))
        if not begins and _ASSIGNMENT.match(token) and (option is None or values):
            begins = option is None or not _is_value(names, option, token.partition("=")[0], assigned)
            token = f"--{token}" if begins else token
        if begins:
            if option is not None:
                yield option, values
            option, equals, value = token.partition("=")
            values = [value] if equals else []
            assigned = bool(equals)
        elif option is None:
            hint = f"give a recipe as --config {token}" if token.endswith((".yaml", ".yml")) else "give it an option"
            raise UserError(f"unexpected argument {token!r}; {hint}")
        else:
            values.append(token)
    if option is not None:
        yield option, values


def _is_value(names: Names, option: str, name: str, assigned: bool) -> bool:
    """Whether ``name=...`` is one more value of an option: it takes several, and the name could not be meant.

    Args:
        assigned: the option itself was given as ``name=value``, so that a known name behind it is meant.
    """
    is_setting = names.is_short(option) or (option.startswith("--") and option not in _CONFIG)
    meaning = names.lookup(option.lstrip("-")) if is_setting else None
    if meaning is None or not accepts(meaning.leaf.type, list, tuple):
        return False
    could_be_text = is_text(item_type(meaning.leaf.type)) and "." not in name and not assigned
    return could_be_text or not names.knows(name)


def _flag_value(meaning: Meaning, option: str, values: list[str]) -> Any:
    tp = meaning.leaf.type
    if not values:
        if accepts(tp, bool) and not meaning.entry:
            return True
        raise UserError(f"{option} needs a value: {type_name(tp)}")
    if meaning.entry:
        for key in meaning.entry:
            tp = entry_type(tp, key)
        loaded = [_loaded(option, value, item_type(tp) if len(values) > 1 else tp) for value in values]
        return loaded if len(loaded) > 1 else loaded[0]
    lists = accepts(tp, list, tuple)
    if len(values) > 1:
        if not lists:
            raise UserError(f"{option} takes one value, not {len(values)}: {' '.join(values)}; quote it if it is one")
        return values
    value = values[0]
    if accepts(tp, dict) or (lists and value.startswith("[") and not is_text(item_type(tp))):
        return _loaded(meaning.leaf.label, value, tp)
    only_lists = lists and not accepts(tp, int, float, str, bool)
    return values if only_lists and value not in ("None", "null") else value


def _loaded(name: str, text: str, tp: Any) -> Any:
    return from_text(text, tp, f"{name}={shown(text)} ({Source()})")
