"""Recipes: settings in YAML files, with the line that each was given on."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from mindone.config.checks import Given, Source
from mindone.config.names import Names
from mindone.config.schema import entry_type, is_text, item_type
from mindone.errors import UserError

_TAG = "tag:yaml.org,2002:"
_SCALARS = [_TAG + name for name in ("str", "int", "float", "bool")]
_MOST_BYTES = 1 << 20
_MOST_NODES = 200_000
_DEEPEST = 50

# Numbers, booleans and null as people mean them: 1e-4 is a number, while 9:16 and 2024-01-01 are text.
_PLAIN = {
    "bool": (r"(yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)", "yYnNtTfFoO"),
    "int": (r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789"),
    "float": (
        r"([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
    "null": (r"(~|null|Null|NULL|)", ["~", "n", "N", ""]),
}


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that knows plain scalars by `_PLAIN`."""

    yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    """`yaml.SafeDumper` that quotes all text that `_Loader` would take for something else."""


for _name, (_pattern, _first) in _PLAIN.items():
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(_TAG + _name, re.compile(f"^{_pattern}$"), list(_first))


def to_text(values: Any) -> str:
    """Plain values as YAML."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def from_text(text: str, tp: Any, where: str) -> Any:
    """The value of a YAML text; a number where its type wants text stays as it is written.

    Raises:
        UserError: not valid YAML; ``where`` says where it stands.
    """
    with _valid_yaml(where):
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _Inspection(lambda line: where).visit(root)
        return _value(loader, root, tp)


def read_recipe(names: Names, path: str) -> list[Given]:
    """The values of a recipe, in order.

    Raises:
        UserError: no such file, not YAML, not a mapping, a key unknown or given twice.
    """
    path = os.path.expanduser(path)
    loader, root = _compose(path)
    given: list[Given] = []
    seen: dict[Any, int] = {}
    for name, node, line in _settings(names, path, loader, root, ""):
        source = Source(path, line)
        meaning = names.find(name, source)
        if meaning is None:
            continue
        leaf, entry = meaning.leaf, meaning.entry
        if (leaf.path, entry) in seen:
            raise UserError(f"{source} gives {leaf.label} again; it stands on line {seen[leaf.path, entry]}")
        seen[leaf.path, entry] = line
        tp = leaf.type
        for key in entry:
            tp = entry_type(tp, key)
        with _valid_yaml(str(source)):
            value = _value(loader, node, tp)
            inner = {keys: Source(path, line) for keys, line in _lines(node)}
        given.append(Given(leaf, entry, value, source, inner))
    return given


def _compose(path: str) -> tuple[_Loader, yaml.Node | None]:
    """The nodes of a recipe, inspected; None if it is empty."""
    if os.path.isdir(path):
        raise UserError(f"the recipe {path} is a folder; give --config the path of a .yaml file")
    if not os.path.isfile(path):
        raise UserError(f"the recipe {path} is not a file; give --config the path of a .yaml file")
    try:
        if os.path.getsize(path) > _MOST_BYTES:
            raise UserError(f"the recipe {path} has more than {_MOST_BYTES >> 20} MB; is it a .yaml file?")
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"the recipe {path} is not UTF-8 text (line {line})") from error
    except OSError as error:
        raise UserError(f"the recipe {path} cannot be read: {error.strerror}") from error
    with _valid_yaml(f"the recipe {path}"):
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None or root.tag == _TAG + "null":
            return loader, None
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"the recipe {path} has to hold 'key: value' lines")
        _Inspection(lambda line: f"{path}, line {line}").visit(root)
    return loader, root


@contextlib.contextmanager
def _valid_yaml(where: str) -> Iterator[None]:
    """Turns what PyYAML raises, for bad syntax, a forced type (``!!int x``) or a deep nesting, into one sentence."""
    try:
        yield
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark and "line" not in where else ""
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        if "'\\t'" in reason:
            reason = "a tab cannot indent a line or begin a value; use spaces"
        raise UserError(f"{where}{line} is not valid YAML: {reason}") from error


class _Inspection:
    """Refuses what YAML allows but a recipe cannot mean: keys given twice, aliases within themselves or without end.

    Args:
        place: the words for a line, in errors.
    """

    def __init__(self, place: Callable[[int], str]):
        self.place = place
        self.sizes: dict[int, int] = {}
        self.above: set[int] = set()

    def visit(self, node: yaml.Node) -> int:
        """The number of nodes, with those of aliases counted wherever they are used."""
        line = node.start_mark.line + 1
        if id(node) in self.above:
            raise UserError(f"{self.place(line)} is not valid YAML: an alias stands within itself")
        if id(node) in self.sizes:
            return self.sizes[id(node)]
        if len(self.above) >= _DEEPEST:
            raise UserError(f"{self.place(line)} is not valid YAML: it is nested more than {_DEEPEST} times")
        children = []
        if isinstance(node, yaml.MappingNode):
            self._refuse_twice(node)
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        self.above.add(id(node))
        size = 1 + sum(self.visit(child) for child in children)
        self.above.remove(id(node))
        if size > _MOST_NODES:
            raise UserError(f"{self.place(line)}: with its aliases this has more than {_MOST_NODES} values")
        self.sizes[id(node)] = size
        return size

    def _refuse_twice(self, node: yaml.MappingNode) -> None:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{self.place(line)}: a key has to be a plain name")
            if key.value in lines:
                raise UserError(f"{self.place(line)} gives {key.value} again; it stands on line {lines[key.value]}")
            lines[key.value] = line


def _settings(
    names: Names, path: str, loader: _Loader, node: yaml.Node | None, prefix: str
) -> Iterator[tuple[str, yaml.Node, int]]:
    """The keys of a mapping and of the groups in it, as dotted names, with their value nodes and lines."""
    if node is None:
        return
    with _valid_yaml(f"{path}, line {node.start_mark.line + 1}"):
        pairs = _pairs(loader, node)
    for key, value in pairs.values():
        name = prefix + key.value
        if names.is_group(name) and isinstance(value, yaml.MappingNode):
            yield from _settings(names, path, loader, value, f"{name}.")
        elif not names.is_group(name) or value.tag != _TAG + "null":
            yield name, value, key.start_mark.line + 1


def _pairs(loader: _Loader, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Keys and values of a mapping; its own keys win over those of a merge (``<<``), which are moved in."""
    loader.flatten_mapping(node)
    return {key.value: (key, value) for key, value in node.value}


def _value(loader: _Loader, node: yaml.Node, tp: Any) -> Any:
    """The value of a node; a number where text is due stays as it is written, and keys of dicts are text."""
    if is_text(tp) and node.tag in _SCALARS:
        return node.value
    if node.tag == _TAG + "seq" and isinstance(node, yaml.SequenceNode):
        return [_value(loader, child, item_type(tp, index)) for index, child in enumerate(node.value)]
    if node.tag == _TAG + "map" and isinstance(node, yaml.MappingNode):
        return {name: _value(loader, child, entry_type(tp, name)) for name, (_, child) in _pairs(loader, node).items()}
    return loader.construct_object(node, deep=True)


def _lines(node: yaml.Node, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*keys, key.value), key.start_mark.line + 1
            yield from _lines(value, (*keys, key.value))
