"""From a schema, recipes and a command line to checked settings, and back to a recipe."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from mindone.config.checks import Given, Source, check, keep_sources, sources_of
from mindone.config.command_line import read_argv
from mindone.config.help import help_text
from mindone.config.names import Names
from mindone.config.recipe import read_recipe, to_text
from mindone.config.values import plain, typed, with_entry

Schema = TypeVar("Schema")


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
        defaults: values that replace defaults of the schema, by dotted or unique flat name.
    Raises:
        UserError: an unknown name, a value of the wrong type, a recipe that cannot be read, or a failed ``check()``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if any(token in ("-h", "--help") for token in argv):
        names = Names(schema)
        print(help_text(schema, names, _defaults(names, defaults), prog, description), end="")
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
    names = Names(schema)
    recipes, flags = read_argv(names, argv)
    given = [item for recipe in recipes for item in read_recipe(names, recipe)]
    return _built(schema, _defaults(names, defaults), [*given, *flags])


def resolve(config: Schema, defaults: Mapping[str, Any]) -> Schema:
    """A copy in which settings that are None have other values.

    Args:
        defaults: those values, by dotted or unique flat name.
    Raises:
        SettingError: a value of the wrong type.
        TypeError: an unknown name, or one of several settings.
    """
    names = Names(type(config))
    values = {path: _read(config, path) for path in names.leaves}
    for name, value in defaults.items():
        leaf = names.leaf(name)
        if values[leaf.path] is None:
            values[leaf.path] = typed(leaf, value)
    resolved = _filled(config, copy.deepcopy(values))
    keep_sources(resolved, sources_of(config))
    return resolved


def to_yaml(config: Any) -> str:
    """All settings as a recipe: read by ``--config``, it gives the same settings."""
    return to_text(plain(asdict(config)))


def save_config(config: Any, path: str | Path) -> None:
    """Writes `to_yaml` to a file, which appears whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    from mindone.checkpoint.atomic import atomic_write

    with atomic_write(path) as file:
        file.write(to_yaml(config).encode())


def _defaults(names: Names, replaced: Mapping[str, Any] | None) -> dict[str, Any]:
    """The defaults by path."""
    values = {path: leaf.default for path, leaf in names.leaves.items()}
    for name, value in (replaced or {}).items():
        leaf = names.leaf(name)
        values[leaf.path] = typed(leaf, copy.deepcopy(value))
    return values


def _built(schema: type[Schema], defaults: Mapping[str, Any], given: Sequence[Given]) -> Schema:
    """The schema's instance with the given values, later ones winning, over the defaults."""
    values = dict(defaults)
    sources: dict[str, Source] = {}
    for item in given:
        path, value = item.leaf.path, item.value
        if item.entry:
            value = with_entry(values[path], item.entry, value)
        values[path] = typed(item.leaf, value, item.source, item)
        replaced = ".".join((path, *item.entry))
        sources = {name: source for name, source in sources.items() if not f"{name}.".startswith(f"{replaced}.")}
        sources |= item.sources()
    config = _filled(schema(), values)
    keep_sources(config, sources)
    return config


def _read(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _filled(default: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A copy of a dataclass tree with its leaves set by path."""
    changed = {}
    for field in fields(default):
        current, path = getattr(default, field.name), prefix + field.name
        changed[field.name] = _filled(current, values, f"{path}.") if is_dataclass(current) else values[path]
    return replace(default, **changed)
