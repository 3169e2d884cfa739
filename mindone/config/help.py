"""``--help``: the settings of a schema, with their attribute docstrings."""

from __future__ import annotations

import argparse
import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from mindone.config.names import Names
from mindone.config.schema import members, type_hints, type_name
from mindone.config.values import plain


def help_text(
    schema: type, names: Names, defaults: Mapping[str, Any], prog: str | None, description: str | None
) -> str:
    """What ``--help`` prints.

    Args:
        defaults: by path.
    """
    recipe = ("--config",) if names.is_short("-c") else ("-c", "--config")
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"%(prog)s [{recipe[0]} RECIPE.yaml ...] [--NAME VALUE ...]",
        description=description or _first_line(schema.__doc__),
        epilog="A name may carry its group, as in --group.name; group.name=VALUE is the same.",
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and leave")
    parser.add_argument("--print_config", action="store_true", help="show all settings as a recipe and leave")
    parser.add_argument(*recipe, metavar="RECIPE.yaml", help="settings from files; later ones win")
    docs, sections = descriptions(schema), {"": parser}
    for label, leaf in names.labels.items():
        group = ".".join(leaf.groups)
        if group not in sections:
            sections[group] = parser.add_argument_group(group, docs[group])
        default = defaults[leaf.path]
        text = docs[leaf.path] + ("" if default in (None, {}) else f" (default: {plain(default)})")
        short = names.short_of(leaf)
        flags = [f"-{short}"] if short else []
        sections[group].add_argument(*flags, f"--{label}", metavar=_metavar(leaf.type), help=text.replace("%", "%%"))
    return parser.format_help()


def _metavar(tp: Any) -> str:
    kinds = [member for member in members(tp) if member is not type(None)]
    return "|".join(type_name(kind).removeprefix("one of ").replace(", ", ",") for kind in kinds)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def descriptions(cls: type, prefix: str = "") -> dict[str, str]:
    """Attribute docstrings by dotted path; a group without one has the first line of its class."""
    own: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            own |= _attribute_docs(base)
    docs = {}
    for name, hint in type_hints(cls).items():
        if is_dataclass(hint):
            docs[prefix + name] = own.get(name) or _first_line(hint.__doc__)
            docs |= descriptions(hint, f"{prefix}{name}.")
        else:
            docs[prefix + name] = " ".join(own.get(name, "").split())
    return docs


def _attribute_docs(cls: type) -> dict[str, str]:
    """The text that stands below each field of a class in its source; nothing if the source is not there."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    except (OSError, TypeError, SyntaxError):
        return {}
    return {
        field.target.id: text.value.value
        for field, text in zip(body, body[1:])
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
