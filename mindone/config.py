"""Dataclasses to YAML and to the command line: one tree of dataclasses per command is the only schema.

Groups are nested dataclasses, and leaf names are unique within a tree, so a leaf has a dotted name and a flat one:
``--loop.batch_size 4``, ``--batch_size 4``, ``--batch-size=4``; a recipe (YAML) may nest, dot or flatten its keys. The
command line beats recipes, a later recipe beats an earlier one, and all beat the defaults. Attribute docstrings are
the help texts. A dict leaf is given whole (``--mask_ratios "{identity: 0.9, random: 0.1}"``) or by entry
(``--mask_ratios.random 0.1``).

The root dataclass may have two class variables: ``aliases`` (other name -> leaf) and ``accepted_but_unused`` (a
published name without a meaning here -> why). Any dataclass of the tree may have a method ``check()`` that raises
`UserError`. A root that derives from `Settings` can be read flat.

A string that begins with ``./`` or ``../`` is a path relative to the recipe it stands in (on the command line: to the
current folder), and ``~/`` is the home folder. All else stays as it is, such as ``hpcai-tech/OpenSora-STDiT-v3``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import difflib
import logging
import os
import re
import sys
import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import jsonargparse
import yaml
from docstring_parser import parse_from_object

from mindone.errors import UserError

logger = logging.getLogger(__name__)

Schema = TypeVar("Schema")


class Settings:
    """Base of a root dataclass: a setting can be read without its group, as in ``config.batch_size``."""

    def __getattr__(self, name: str) -> Any:
        for group in vars(self).values():
            if is_dataclass(group) and name in vars(group):
                return getattr(group, name)
        raise AttributeError(f"{type(self).__name__} has no setting {name}")


@dataclass(frozen=True)
class Leaf:
    """One setting: its name, the groups it stands in, its type and its default."""

    name: str
    groups: tuple[str, ...]
    type: Any
    default: Any


@dataclass(frozen=True)
class Source:
    """Where a name or value was given, and the folder that its relative paths start from."""

    file: str | None = None
    line: int = 0

    @property
    def folder(self) -> str:
        return os.path.dirname(os.path.abspath(self.file)) if self.file else os.getcwd()

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}" if self.file else "on the command line"


@dataclass(frozen=True)
class Given:
    """A value for a leaf, or for an entry of a dict leaf."""

    leaf: Leaf
    entry: tuple[str, ...]
    value: Any
    source: Source


def parse(
    schema: type[Schema],
    argv: Sequence[str] | None = None,
    prog: str | None = None,
    description: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Schema:
    """The settings of a command, checked; ``--help`` and ``--print_config`` print and leave with exit code 0.

    Args:
        schema: the root dataclass; all its fields have defaults.
        argv: the command line without the program's name; that of this process if not given.
        defaults: values by leaf name that replace defaults of the schema.
    Raises:
        UserError: an unknown name, a value of the wrong type, a recipe that cannot be read, or a failed ``check()``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if any(token in ("-h", "--help") for token in argv):
        print(_Tree(schema, defaults).help(prog, description), end="")
        raise SystemExit(0)
    wants_print = [token for token in argv if token in ("--print_config", "--print-config")]
    config = load(schema, [token for token in argv if token not in wants_print], defaults)
    if wants_print:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    check(config)
    return config


def load(schema: type[Schema], argv: Sequence[str], defaults: Mapping[str, Any] | None = None) -> Schema:
    """As `parse`, but without ``check()``: names and types are right, the whole need not make sense."""
    tree = _Tree(schema, defaults)
    recipes, flags = _read_argv(tree, argv)
    given = [item for recipe in recipes for item in _read_recipe(tree, recipe)]
    return tree.build([*given, *flags])


def check(config: Any) -> None:
    """Calls ``check()`` of every group, then of the whole."""
    for field in fields(config):
        if is_dataclass(getattr(config, field.name)):
            check(getattr(config, field.name))
    if hasattr(config, "check"):
        config.check()


def require_at_least(group: Any, **minima: float) -> None:
    """For ``check()``: ``require_at_least(self, batch_size=1)``; a setting that is None is left out.

    Raises:
        UserError: one of the named settings is smaller.
    """
    for name, minimum in minima.items():
        value = getattr(group, name)
        if value is not None and not value >= minimum:
            raise UserError(f"{name}={value} has to be at least {minimum}")


def leaves(schema: type) -> dict[str, Leaf]:
    """All settings of a schema by name, in order.

    Raises:
        TypeError: a mistake in the schema: a name that occurs twice.
    """
    settings = list(_walk(schema, schema(), ()))
    names = Counter([leaf.name for leaf in settings] + [path[-1] for path in _groups(settings)])
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise TypeError(f"{schema.__name__} has two settings or groups called {', '.join(twice)}")
    return {leaf.name: leaf for leaf in settings}


def to_yaml(config: Any) -> str:
    """All settings as a recipe: read by ``--config``, it gives the same settings."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True, width=1000)


def save_config(config: Any, path: str | Path) -> None:
    """Writes `to_yaml` to a file, which appears whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    from mindone.checkpoint.atomic import atomic_write

    with atomic_write(path) as file:
        file.write(to_yaml(config).encode())


def _plain(value: Any) -> Any:
    """Tuples as lists, which is how YAML writes both."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


# --- the schema -------------------------------------------------------------------------------------------------------


def _walk(cls: type, default: Any, groups: tuple[str, ...]) -> Iterator[Leaf]:
    hints = get_type_hints(cls)
    for field in fields(cls):
        value = getattr(default, field.name)
        if is_dataclass(hints[field.name]):
            yield from _walk(hints[field.name], value, (*groups, field.name))
        else:
            yield Leaf(field.name, groups, hints[field.name], value)


def _groups(settings: Iterable[Leaf]) -> set[tuple[str, ...]]:
    return {leaf.groups[: depth + 1] for leaf in settings for depth in range(len(leaf.groups))}


class _Tree:
    """A schema with its names resolved, which types values and builds instances."""

    def __init__(self, schema: type, defaults: Mapping[str, Any] | None = None):
        self.schema = schema
        self.leaves = leaves(schema)
        for name, value in (defaults or {}).items():
            self.leaves[name] = replace(self.leaves[name], default=value)
        self.groups = _groups(self.leaves.values())
        self.aliases: Mapping[str, str] = getattr(schema, "aliases", {})
        self.unused: Mapping[str, str] = getattr(schema, "accepted_but_unused", {})
        self._noticed: set[str] = set()

    def is_group(self, name: str) -> bool:
        return tuple(name.split(".")) in self.groups

    def find(self, name: str, source: Source) -> tuple[Leaf, tuple[str, ...]] | None:
        """The leaf and the entry (of a dict leaf) that a flat or dotted name means; None, with a notice, if unused."""
        parts = tuple(name.split("."))
        group = max((path for path in self.groups if parts[: len(path)] == path), key=len, default=())
        flat, *entry = parts[len(group) :] or ("",)
        flat = flat.replace("-", "_")
        if flat in self.unused and not entry:
            self._notice(flat)
            return None
        leaf = self.leaves.get(self.aliases.get(flat, flat))
        if leaf is None or (group and leaf.groups != group) or (entry and not _accepts(leaf.type, dict)):
            raise UserError(self._unknown(name, source))
        return leaf, tuple(entry)

    def _notice(self, name: str) -> None:
        if name not in self._noticed:
            self._noticed.add(name)
            logger.warning("%s has no effect: %s", name, self.unused[name])

    def _unknown(self, name: str, source: Source) -> str:
        if self.is_group(name):
            return f"'{name}' is a group of settings ({source}); give one of them, as in --{name}.NAME VALUE"
        known = [*self.leaves, *self.aliases, *self.unused]
        near = difflib.get_close_matches(name.rpartition(".")[2].replace("-", "_"), known, n=1, cutoff=0.5)
        dashes, kind = ("", "key") if source.file else ("--", "option")
        hint = f"did you mean {dashes}{near[0]}?" if near else "--help lists all of them"
        where = f" ({source})" if source.file else ""
        return f"unknown {kind} '{dashes}{name}'{where}; {hint}"

    def build(self, given: Sequence[Given]) -> Any:
        """The schema's instance with the given values, later ones winning, over the defaults."""
        values = {name: leaf.default for name, leaf in self.leaves.items()}
        for item in given:
            name, value = item.leaf.name, item.value
            if item.entry:
                value = _with_entry(values[name], item.entry, value)
            values[name] = self._typed(item.leaf, _located(value, item.source.folder), item.source)
        return _filled(self.schema(), values)

    def _typed(self, leaf: Leaf, value: Any, source: Source) -> Any:
        if value in ("None", "null") and _accepts(leaf.type, type(None)):
            return None
        if _accepts(leaf.type, dict) and isinstance(value, str):
            value = _load_text(value, leaf.name, source)
        try:
            if value is None and not _accepts(leaf.type, type(None)):
                raise TypeError("None")
            return self.parser.parse_object({leaf.name: _text_keys(value)}, defaults=False)[leaf.name]
        except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
            raise UserError(_bad_value(leaf, value, source)) from error

    @cached_property
    def parser(self) -> jsonargparse.ArgumentParser:
        parser = jsonargparse.ArgumentParser(exit_on_error=False, add_help=False)
        for leaf in self.leaves.values():
            parser.add_argument(f"--{leaf.name}", type=leaf.type)
        return parser

    def help(self, prog: str | None, description: str | None) -> str:
        parser = argparse.ArgumentParser(
            prog=prog,
            usage="%(prog)s [-c RECIPE.yaml ...] [--NAME VALUE ...]",
            description=description or _first_line(self.schema.__doc__),
            epilog="A name may carry its group, as in --group.name.",
            add_help=False,
        )
        parser.add_argument("-h", "--help", action="store_true", help="show this and leave")
        parser.add_argument("--print_config", action="store_true", help="show all settings as a recipe and leave")
        parser.add_argument("-c", "--config", metavar="RECIPE.yaml", help="settings from files; later ones win")
        docs, sections = _docs(self.schema), {(): parser}
        for leaf in self.leaves.values():
            if leaf.groups not in sections:
                sections[leaf.groups] = parser.add_argument_group(".".join(leaf.groups), docs[leaf.groups])
            default = "" if leaf.default in (None, {}) else f" (default: {_plain(leaf.default)})"
            text = (docs[(*leaf.groups, leaf.name)] + default).replace("%", "%%")
            sections[leaf.groups].add_argument(f"--{leaf.name}", metavar=_metavar(leaf.type), help=text)
        return parser.format_help()


def _metavar(tp: Any) -> str:
    kinds = [member for member in _members(tp) if member is not type(None)]
    return "|".join(_type_name(kind).removeprefix("one of ").replace(", ", ",") for kind in kinds)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _docs(cls: type, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Attribute docstrings by dotted path; a group without one has the first line of its class."""
    own: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            own |= {p.arg_name: p.description or "" for p in parse_from_object(base).params}
    docs = {}
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            docs[(*path, name)] = own.get(name) or _first_line(hint.__doc__)
            docs |= _docs(hint, (*path, name))
        else:
            docs[(*path, name)] = " ".join(own.get(name, "").split())
    return docs


def _filled(default: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a dataclass tree with its leaves set by name."""
    changed = {}
    for field in fields(default):
        current = getattr(default, field.name)
        changed[field.name] = _filled(current, values) if is_dataclass(current) else values[field.name]
    return replace(default, **changed)


# --- types ------------------------------------------------------------------------------------------------------------


def _members(tp: Any) -> tuple[Any, ...]:
    return get_args(tp) if get_origin(tp) in (Union, types.UnionType) else (tp,)


def _accepts(tp: Any, kind: type) -> bool:
    return any((get_origin(member) or member) is kind for member in _members(tp))


def _is_text(tp: Any) -> bool:
    """Whether a number that stands in a recipe is meant as text (``resolution: 512``)."""
    return _accepts(tp, str) and not _accepts(tp, int) and not _accepts(tp, float)


def _element(tp: Any) -> Any:
    return next((get_args(member)[0] for member in _members(tp) if get_origin(member) is list), Any)


def _type_name(tp: Any) -> str:
    if get_origin(tp) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(tp))
    if len(_members(tp)) > 1:
        return " or ".join(_type_name(member) for member in _members(tp))
    return "None" if tp is type(None) else tp.__name__ if isinstance(tp, type) and not get_args(tp) else str(tp)


def _bad_value(leaf: Leaf, value: Any, source: Source) -> str:
    literals = [member for member in _members(leaf.type) if get_origin(member) is Literal]
    choices = {str(choice).lower(): choice for member in literals for choice in get_args(member)}
    near = difflib.get_close_matches(str(value).lower(), choices, n=1)
    hint = f"; did you mean {choices[near[0]]}?" if near else ""
    return f"{leaf.name}={value!r} ({source}) has to be {_type_name(leaf.type)}{hint}"


def _text_keys(value: Any) -> Any:
    """A dict with its keys as text, all the way down; typing makes numbers of them again where numbers are due."""
    return {str(key): _text_keys(item) for key, item in value.items()} if isinstance(value, dict) else value


def _with_entry(current: Mapping | None, entry: tuple[str, ...], value: Any) -> dict:
    """A copy of a dict in which the entry at a path of keys is set."""
    changed = _text_keys(copy.deepcopy(dict(current or {})))
    inner = changed
    for key in entry[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    inner[entry[-1]] = value
    return changed


def _located(value: Any, folder: str) -> Any:
    """Relative paths made absolute; several in one string may be separated by ``;``."""
    if isinstance(value, list):
        return [_located(item, folder) for item in value]
    if not isinstance(value, str) or not re.search(r"(^|;)\s*(\.\.?/|~/)", value):
        return value
    return ";".join(_absolute(piece, folder) for piece in value.split(";"))


def _absolute(piece: str, folder: str) -> str:
    text = piece.strip()
    if text.startswith("~/"):
        return os.path.expanduser(text)
    return os.path.normpath(os.path.join(folder, text)) if text.startswith(("./", "../")) else piece


# --- the command line -------------------------------------------------------------------------------------------------

_OPTION = re.compile(r"--?[A-Za-z]")


def _read_argv(tree: _Tree, argv: Sequence[str]) -> tuple[list[str], list[Given]]:
    """The recipes and the values of a command line."""
    recipes: list[str] = []
    flags: list[Given] = []
    source = Source()
    for option, values in _options(argv):
        if option in ("-c", "--config"):
            if not values:
                raise UserError(f"{option} needs the path of a recipe, as in --config recipe.yaml")
            recipes += values
            continue
        found = tree.find(option[2:], source) if option.startswith("--") else None
        if found is None and not option.startswith("--"):
            raise UserError(f"unknown option '{option}'; --help lists all of them")
        if found is not None:
            leaf, entry = found
            flags.append(Given(leaf, entry, _flag_value(leaf, entry, option, values, source), source))
    return recipes, flags


def _options(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Options with the values that follow them."""
    option: str | None = None
    values: list[str] = []
    for token in argv:
        if _OPTION.match(token):
            if option is not None:
                yield option, values
            option, equals, value = token.partition("=")
            values = [value] if equals else []
        elif option is None:
            hint = f"give a recipe as --config {token}" if token.endswith((".yaml", ".yml")) else "give it an option"
            raise UserError(f"unexpected argument {token!r}; {hint}")
        else:
            values.append(token)
    if option is not None:
        yield option, values


def _flag_value(leaf: Leaf, entry: tuple[str, ...], option: str, values: list[str], source: Source) -> Any:
    if not values:
        if _accepts(leaf.type, bool) and not entry:
            return True
        raise UserError(f"{option} needs a value: {_type_name(leaf.type)}")
    if entry:
        loaded = [_load_text(value, option, source) for value in values]
        return loaded if len(loaded) > 1 else loaded[0]
    lists = _accepts(leaf.type, list) or _accepts(leaf.type, tuple)
    if len(values) > 1:
        if not lists:
            raise UserError(f"{option} takes one value, not {len(values)}: {' '.join(values)}; quote it if it is one")
        return values
    only_lists = lists and not any(_accepts(leaf.type, kind) for kind in (int, float, str, bool))
    bracketed = values[0].startswith("[") and not _is_text(_element(leaf.type))
    return values if only_lists and not bracketed else values[0]


# --- recipes ----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that also reads ``1e-4`` as a number, as YAML 1.2 and everybody does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@contextlib.contextmanager
def _valid_yaml(where: str) -> Iterator[None]:
    """Turns what PyYAML raises, for bad syntax, a forced type (``!!int x``) or a deep nesting, into one sentence."""
    try:
        yield
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark and "line" not in where else ""
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{where}{line} is not valid YAML: {reason}") from error


def _load_text(text: str, name: str, source: Source) -> Any:
    with _valid_yaml(f"{name}={text!r} ({source})"):
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader


def _read_recipe(tree: _Tree, path: str) -> list[Given]:
    """The values of a recipe, in order.

    Raises:
        UserError: no such file, not YAML, not a mapping, a key unknown or given twice.
    """
    path = os.path.expanduser(path)
    loader, root = _compose(path)
    given: list[Given] = []
    seen: dict[Any, int] = {}
    for name, node, line in _entries(tree, path, loader, root, ""):
        source = Source(path, line)
        found = tree.find(name, source)
        if found is None:
            continue
        leaf, entry = found
        if (leaf.name, entry) in seen:
            raise UserError(f"{source} gives {leaf.name} again; it stands on line {seen[leaf.name, entry]}")
        seen[leaf.name, entry] = line
        value = _node_value(loader, node, Any if entry else leaf.type, source)
        given.append(Given(leaf, entry, value, source))
    return given


def _compose(path: str) -> tuple[_Loader, yaml.Node | None]:
    if not os.path.isfile(path):
        raise UserError(f"the recipe {path} is not a file; give --config the path of a .yaml file")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the recipe {path} is not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"the recipe {path} cannot be read: {error.strerror}") from error
    with _valid_yaml(f"the recipe {path}"):
        loader = _Loader(text)
        root = loader.get_single_node()
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise UserError(f"the recipe {path} has to hold 'key: value' lines")
    return loader, root


def _entries(
    tree: _Tree, path: str, loader: _Loader, node: yaml.Node | None, prefix: str
) -> Iterator[tuple[str, yaml.Node, int]]:
    """The keys of a mapping and of the groups in it, as dotted names, with their value nodes and lines."""
    if node is None:
        return
    with _valid_yaml(f"{path}, line {node.start_mark.line + 1}"):
        loader.flatten_mapping(node)
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{path}, line {line}: a key has to be a plain name")
        name = prefix + key.value
        if not tree.is_group(name):
            yield name, value, line
        elif isinstance(value, yaml.MappingNode):
            yield from _entries(tree, path, loader, value, f"{name}.")
        elif value.tag != "tag:yaml.org,2002:null":
            raise UserError(f"{path}, line {line}: '{name}' is a group of settings and has to hold 'key: value' lines")


def _node_value(loader: _Loader, node: yaml.Node, tp: Any, source: Source) -> Any:
    """The value of a node; a number where text is due stays as it is written (``9:16`` is 556 to YAML)."""
    if _is_text(tp) and node.tag.removeprefix("tag:yaml.org,2002:") in ("str", "int", "float", "bool", "timestamp"):
        return node.value
    if isinstance(node, yaml.SequenceNode) and _is_text(_element(tp)):
        return [_node_value(loader, child, _element(tp), source) for child in node.value]
    with _valid_yaml(str(source)):
        return loader.construct_object(node, deep=True)
