"""What a name on the command line or in a recipe means: a leaf, an entry of a dict leaf, or nothing any more."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass

from mindone.config.checks import Source
from mindone.config.schema import Leaf, accepts, leaves, type_hints
from mindone.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Meaning:
    """A leaf, and the keys of an entry if its value is a dict."""

    leaf: Leaf
    entry: tuple[str, ...] = ()


class Names:
    """The names of a schema.

    Raises:
        TypeError: a mistake in the schema: an alias without a leaf, or a name that means two things.
    """

    def __init__(self, schema: type):
        self.labels = leaves(schema)
        self.leaves = {leaf.path: leaf for leaf in self.labels.values()}
        self.flat: dict[str, list[Leaf]] = {}
        for leaf in self.leaves.values():
            self.flat.setdefault(leaf.name, []).append(leaf)
        self.groups = set(_groups(schema))
        self.unused: dict[str, str] = dict(getattr(schema, "accepted_but_unused", {}))
        aliases = dict(getattr(schema, "aliases", {}))
        known = self.labels.keys() | self.leaves.keys()
        twice = [name for name in (*aliases, *self.unused) if name in known] + [*aliases.keys() & self.unused]
        if twice:
            raise TypeError(f"{schema.__name__} gives two meanings to {', '.join(sorted(twice))}")
        self.aliases = {name: self.leaf(target) for name, target in aliases.items()}
        self._prefixes = self.groups | set(_parents([*self.aliases, *self.unused]))
        self._noticed: set[str] = set()

    def leaf(self, name: str) -> Leaf:
        """The leaf of a dotted path or of a flat name that only one leaf has, for names that stand in code.

        Raises:
            TypeError: there is none, or several.
        """
        found = [self.leaves[name]] if name in self.leaves else self.flat.get(name, [])
        if len(found) != 1:
            paths = ", ".join(leaf.path for leaf in found)
            raise TypeError(f"'{name}' is the name of several settings: {paths}" if found else f"no setting '{name}'")
        return found[0]

    def is_short(self, option: str) -> bool:
        """Whether an option is a dash and a name of one letter: an alias, or one without a meaning."""
        return len(option) == 2 and option[0] == "-" and option[1] in (*self.aliases, *self.unused)

    def short_of(self, leaf: Leaf) -> str | None:
        """A setting's alias of one letter."""
        return next((name for name, target in self.aliases.items() if target is leaf and len(name) == 1), None)

    def is_group(self, name: str) -> bool:
        """Whether a mapping under this name holds settings: it is a group, or the first part of an alias."""
        return name.replace("-", "_") in self._prefixes

    def knows(self, name: str) -> bool:
        """Whether `find` has an answer."""
        try:
            return bool(self._longest(name)) or self.reason(name) is not None
        except _Ambiguous:
            return True

    def find(self, name: str, source: Source) -> Meaning | None:
        """What a flat or dotted name means; None, with a notice, if it has no meaning any more.

        Raises:
            UserError: the name is unknown, or several leaves have it.
        """
        try:
            meaning = self._longest(name)
        except _Ambiguous as error:
            paths = [leaf.path for leaf in error.leaves]
            example = f"{paths[0]}:" if source.file else f"--{paths[0]} VALUE"
            raise UserError(
                f"'{name}' ({source}) is the name of several settings: {', '.join(paths)}; say which, as in {example}"
            ) from None
        if meaning is None and self.reason(name) is not None:
            self._notice(name)
            return None
        if meaning is None:
            raise UserError(self._unknown(name, source))
        return meaning

    def lookup(self, name: str) -> Meaning | None:
        """As `find`, but None as well for a name that is unknown or that several leaves have."""
        try:
            return self._longest(name)
        except _Ambiguous:
            return None

    def _longest(self, name: str) -> Meaning | None:
        """The longest part of a name that names a leaf; what is left are keys of its dict."""
        parts = name.split(".")
        for size in range(len(parts), 0, -1):
            leaf = self._leaf_of(".".join(parts[:size]).replace("-", "_"), is_whole=size == len(parts))
            if leaf is not None:
                entry = tuple(parts[size:])
                return None if entry and not accepts(leaf.type, dict) else Meaning(leaf, entry)
        return None

    def _leaf_of(self, name: str, is_whole: bool) -> Leaf | None:
        if name in self.leaves:
            return self.leaves[name]
        if name in self.aliases:
            return self.aliases[name]
        group, _, last = name.rpartition(".")
        if group:
            target = self.aliases.get(last) if group in self.groups else None
            return target if target is not None and ".".join(target.groups) == group else None
        if name in self.unused or (name in self.groups and not is_whole):
            return None
        found = self.flat.get(name, [])
        if len(found) > 1:
            raise _Ambiguous(found)
        return found[0] if found else None

    def reason(self, name: str) -> str | None:
        """Why a published name has no meaning any more; None if it has one, or is unknown. It may carry any group."""
        name = name.replace("-", "_")
        group, _, last = name.rpartition(".")
        return self.unused.get(name) or (self.unused.get(last) if group in self.groups else None)

    def _notice(self, name: str) -> None:
        reason = self.reason(name)
        name = name.replace("-", "_")
        published = name if name in self.unused else name.rpartition(".")[2]
        if published not in self._noticed:
            self._noticed.add(published)
            logger.warning("%s has no effect: %s", published, reason)

    def _unknown(self, name: str, source: Source) -> str:
        dashes, kind = ("", "key") if source.file else ("--", "option")
        if name.replace("-", "_") in self.groups:
            example = f"{name}.NAME: VALUE" if source.file else f"--{name}.NAME VALUE"
            return f"'{name}' is a group of settings ({source}); give one of them, as in {example}"
        near = self._nearest(name.replace("-", "_"))
        if near in self.groups and not source.file:
            near = f"{near}.NAME"
        hint = f"did you mean {dashes}{near}?" if near else "--help lists all of them"
        where = f" ({source})" if source.file else ""
        return f"unknown {kind} '{dashes}{name}'{where}; {hint}"

    def _nearest(self, name: str) -> str | None:
        """The known name that is most like an unknown one: in its group, if that exists, before all others."""
        group, _, last = name.rpartition(".")
        inside = {leaf.name: label for label, leaf in self.labels.items() if group and ".".join(leaf.groups) == group}
        outside = {label.rpartition(".")[2]: label for label in [*self.labels, *self.groups]}
        outside |= {other: other for other in [*self.aliases, *self.unused]}
        paths = {path: leaf.label for path, leaf in self.leaves.items()} if group else {}
        for text, known, cutoff in ((last, inside, 0.6), (name, paths, 0.8), (last, outside, 0.5)):
            near = difflib.get_close_matches(text, known, n=1, cutoff=cutoff)
            if near:
                return known[near[0]]
        return None


class _Ambiguous(Exception):
    def __init__(self, found: list[Leaf]):
        self.leaves = found


def _groups(schema: type, path: str = "") -> Iterable[str]:
    hints = type_hints(schema)
    for field in fields(schema):
        if is_dataclass(hints[field.name]):
            yield path + field.name
            yield from _groups(hints[field.name], f"{path}{field.name}.")


def _parents(names: Iterable[str]) -> Iterable[str]:
    for parts in (name.split(".") for name in names):
        yield from (".".join(parts[:size]) for size in range(1, len(parts)))
