"""Values as a schema's types: text to numbers, lists to tuples, paths to where they are; all else is refused."""

from __future__ import annotations

import copy
import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args

from mindone.config.checks import Given, SettingError, Source, nearest_source
from mindone.config.schema import (
    Entries,
    Leaf,
    Located,
    NonFinite,
    accepts,
    bare,
    item_type,
    kind,
    mark,
    member,
    members,
    type_hints,
    type_name,
)

_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_DIGITS = {"1": True, "0": False}
_INTEGER = re.compile(r"\s*[-+]?[0-9][0-9_]*\s*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_SHOWN = 80


class Unfit(Exception):
    """A value that its type refuses; ``entry`` says where in the setting it stands."""

    def __init__(self, value: Any, wanted: str, choices: Sequence[Any] = ()):
        self.entry: tuple[str, ...] = ()
        self.value = value
        self.wanted = wanted
        near = _nearest(str(value), [str(choice) for choice in choices]) if choices else None
        self.hint = f"; did you mean {near}?" if near else ""

    def message(self, name: str, where: str) -> str:
        return f"{name}={shown(self.value)}{where} has to be {self.wanted}{self.hint}"


class UnknownEntry(Unfit):
    """A key that the entries of a dict cannot have."""

    def __init__(self, key: str, known: Sequence[str]):
        super().__init__(key, "")
        near = _nearest(key, known)
        self.entry = (key,)
        self.hint = f"did you mean {near}?" if near else f"it is one of {', '.join(known)}"

    def message(self, name: str, where: str) -> str:
        return f"unknown key '{name}'{where}; {self.hint}"


def typed(leaf: Leaf, value: Any, source: Source | None = None, given: Given | None = None) -> Any:
    """A value as its leaf's type.

    Args:
        source: where the value was given; paths of a value without source stay as they are.
        given: knows where the value's entries were given.
    Raises:
        SettingError: the type does not accept it.
    """
    try:
        return convert(_none_if_said(value, leaf.type), leaf.type, source.folder if source else None)
    except Unfit as unfit:
        path = _dotted(leaf.path, unfit.entry)
        place = (given and nearest_source(given.sources(), path)) or source
        where = f" ({place})" if place else ""
        raise SettingError(unfit.message(_dotted(leaf.label, unfit.entry), where), path) from unfit


def typed_entries(values: Mapping[str, Any], schema: type, name: str) -> dict[str, Any]:
    """The entries of a dict setting, as the types of a dataclass's fields; for a schema that is known only later.

    Args:
        name: of the setting, for errors; within `naming_sources` they also say where the entry was given.
    Raises:
        SettingError: an entry that the dataclass does not have, or of another type.
    """
    try:
        return _entries(values, schema, None)
    except Unfit as unfit:
        path = _dotted(name, unfit.entry)
        raise SettingError(unfit.message(path, ""), path) from unfit


def _dotted(name: str, entry: Sequence[str]) -> str:
    return ".".join((name, *entry)).replace(".[", "[")


def _none_if_said(value: Any, tp: Any) -> Any:
    """None for the words that mean it, where it is allowed; in lists and free dicts they are text."""
    says_none = isinstance(value, str) and value in ("None", "null")
    return None if says_none and accepts(tp, type(None)) else value


def convert(value: Any, tp: Any, folder: str | None) -> Any:
    """A value as a type; relative paths start at ``folder``, unless it is None.

    Raises:
        Unfit: the type does not accept it.
    """
    if len(members(tp)) > 1:
        return _one_of(value, tp, folder)
    if is_dataclass(bare(tp)):
        return value if isinstance(value, bare(tp)) else _entries(value, bare(tp), folder)
    if tp is type(None) and value is None:
        return None
    converter = _CONVERTERS.get(kind(tp))
    if converter is None:
        raise Unfit(value, type_name(tp))
    return converter(value, tp, folder)


def _one_of(value: Any, tp: Any, folder: str | None) -> Any:
    """A value as the first member of a union that accepts it; text stays text only where it can be nothing else."""
    if value is None and accepts(tp, type(None)):
        return None
    others = [item for item in members(tp) if item is not type(None)]
    if len(others) == 1:
        return _this_or_none(value, others[0], folder)
    if isinstance(value, Mapping) and accepts(tp, dict):
        return convert(value, member(tp, dict), folder)
    is_digit = isinstance(value, str) and value in _DIGITS
    kept = [item for item in others if not (is_digit and item is bool)]
    for item in sorted(kept, key=lambda item: (kind(item) is str, kind(item) is not type(value))):
        try:
            return convert(value, item, folder)
        except Unfit:
            continue
    literals = [bare(item) for item in members(tp) if kind(item) is Literal]
    raise Unfit(value, type_name(tp), [choice for item in literals for choice in get_args(item)])


def _this_or_none(value: Any, tp: Any, folder: str | None) -> Any:
    try:
        return convert(value, tp, folder)
    except Unfit as unfit:
        if not unfit.entry:
            unfit.wanted += " or None"
        raise


def _boolean(value: Any, tp: Any, folder: str | None) -> bool:
    if isinstance(value, str):
        value = (_BOOLEANS | _DIGITS).get(value.strip().lower(), value)
    if not isinstance(value, bool):
        raise Unfit(value, type_name(tp))
    return value


def _integer(value: Any, tp: Any, folder: str | None) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value) and len(value) <= _LONGEST_SHOWN:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unfit(value, type_name(tp))
    if value.bit_length() > 64:
        raise Unfit(value, f"{type_name(tp)} of at most 64 bits")
    return value


def _float(value: Any, tp: Any, folder: str | None) -> float:
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        raise Unfit(value, type_name(tp))
    try:
        number = float(value.replace(".inf", "inf").replace(".nan", "nan") if isinstance(value, str) else value)
    except (ValueError, OverflowError) as error:
        raise Unfit(value, type_name(tp)) from error
    if not math.isfinite(number) and not mark(tp, NonFinite):
        raise Unfit(value, f"a finite {type_name(tp)}")
    return number


def _text(value: Any, tp: Any, folder: str | None) -> str:
    if not isinstance(value, str):
        raise Unfit(value, type_name(tp))
    if not is_valid_text(value):
        raise Unfit(value, "valid text")
    located = mark(tp, Located)
    if located is None or folder is None:
        return value
    if located.several:
        return ";".join(_absolute(piece, folder) for piece in value.split(";"))
    return _absolute(value, folder)


def is_valid_text(text: str) -> bool:
    """Whether text can be written as UTF-8: bytes that could not be decoded stand in it as surrogates."""
    return not _SURROGATE.search(text)


def _absolute(path: str, folder: str) -> str:
    stripped = path.strip()
    if stripped == "~" or stripped.startswith("~/"):
        return os.path.expanduser(stripped)
    is_relative = stripped in (".", "..") or stripped.startswith(("./", "../"))
    return os.path.normpath(os.path.join(folder, stripped)) if is_relative else path


def _choice(value: Any, tp: Any, folder: str | None) -> Any:
    choices = get_args(bare(tp))
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    for choice in choices:
        if isinstance(value, str) and value == str(choice):
            return choice
    raise Unfit(value, type_name(tp), choices)


def _list(value: Any, tp: Any, folder: str | None) -> list | tuple:
    if not isinstance(value, (list, tuple)):
        raise Unfit(value, type_name(tp))
    arguments = get_args(bare(tp))
    is_fixed = kind(tp) is tuple and arguments and arguments[-1] is not Ellipsis
    if is_fixed and len(value) != len(arguments):
        raise Unfit(value, type_name(tp))
    return kind(tp)(_within(f"[{index}]", item, item_type(tp, index), folder) for index, item in enumerate(value))


def _dict(value: Any, tp: Any, folder: str | None) -> dict:
    if not isinstance(value, Mapping):
        raise Unfit(value, type_name(tp))
    if mark(tp, Entries):
        return _entries(value, mark(tp, Entries).schema, folder)
    key_type, value_type = get_args(bare(tp)) or (Any, Any)
    converted: dict = {}
    for key, item in value.items():
        name = _key(str(key), key_type)
        if name in converted:
            raise Unfit(key, "given once")
        converted[name] = _within(str(key), item, value_type, folder)
    return converted


def _key(key: str, tp: Any) -> Any:
    try:
        return convert(key, tp, None)
    except Unfit as unfit:
        unfit.wanted += ", as a key"
        raise


def _entries(value: Any, schema: type, folder: str | None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Unfit(value, f"settings of {schema.__name__}")
    hints = type_hints(schema)
    known = [field.name for field in fields(schema)]
    for key in value:
        if key not in known:
            raise UnknownEntry(str(key), known)
    return {key: _within(key, _none_if_said(item, hints[key]), hints[key], folder) for key, item in value.items()}


def _within(key: str, value: Any, tp: Any, folder: str | None) -> Any:
    try:
        return convert(value, tp, folder)
    except Unfit as unfit:
        unfit.entry = (key, *unfit.entry)
        raise


def _anything(value: Any, tp: Any, folder: str | None) -> Any:
    """Plain data as it is, with text as the keys of dicts."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float, str)):
        return convert(value, type(value), folder)
    if isinstance(value, (list, tuple)):
        return type(value)(_within(f"[{index}]", item, Any, folder) for index, item in enumerate(value))
    if isinstance(value, Mapping):
        return {str(key): _within(str(key), item, Any, folder) for key, item in value.items()}
    raise Unfit(value, "a number, text, list or mapping")


_CONVERTERS = {
    bool: _boolean,
    int: _integer,
    float: _float,
    str: _text,
    Literal: _choice,
    list: _list,
    tuple: _list,
    dict: _dict,
    Any: _anything,
}


def with_entry(current: Mapping | None, entry: Sequence[str], value: Any) -> dict:
    """A copy of a dict in which the entry at a path of keys is set."""
    changed = _text_keys(copy.deepcopy(dict(current or {})))
    inner = changed
    for key in entry[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    inner[entry[-1]] = value
    return changed


def _text_keys(value: Any) -> Any:
    return {str(key): _text_keys(item) for key, item in value.items()} if isinstance(value, dict) else value


def plain(value: Any) -> Any:
    """Tuples as lists, which is how YAML writes both."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def shown(value: Any) -> str:
    """A value for an error, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of more than 4300 digits.
        text = "a huge number"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _nearest(text: str, known: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(text.lower(), lower, n=1)
    return lower[near[0]] if near else None
