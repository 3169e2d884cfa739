"""The schema of a command: a tree of dataclasses, its leaves, and the types that leaves may have."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints


class Settings:
    """The root's base: what a command accepts beside the paths and flat names of its leaves."""

    aliases: ClassVar[Mapping[str, str]] = {}
    """other name -> leaf; both may be flat or dotted"""
    accepted_but_unused: ClassVar[Mapping[str, str]] = {}
    """a published name without a meaning here -> why"""

    def __getattr__(self, name: str) -> Any:
        for group in vars(self).values():
            if is_dataclass(group) and name in vars(group):
                return getattr(group, name)
        raise AttributeError(f"{type(self).__name__} has no setting {name}")


@dataclass(frozen=True)
class Located:
    """Marks text as a path that may start at its recipe's folder."""

    several: bool = False
    """whether it may be several paths, separated by ``;``"""


@dataclass(frozen=True)
class NonFinite:
    """Marks a number that may be infinite or not a number."""


@dataclass(frozen=True)
class Entries:
    """Marks a dict whose entries have names and types of a dataclass's fields; none of them has to be given."""

    schema: type


FilePath = Annotated[str, Located()]
FilePaths = Annotated[str, Located(several=True)]
AnyFloat = Annotated[float, NonFinite()]


@dataclass(frozen=True)
class Leaf:
    """One setting: its name, the groups it stands in, its type and its default."""

    name: str
    groups: tuple[str, ...]
    type: Any
    default: Any
    label: str = ""
    """the shortest name that means it: the flat one if no other leaf has it, else the path"""

    @property
    def path(self) -> str:
        """The dotted name, which is the leaf's own."""
        return ".".join((*self.groups, self.name))


def leaves(schema: type) -> dict[str, Leaf]:
    """All settings of a schema in order, by label: the flat name if no other leaf has it, else the dotted path."""
    found = list(_walk(schema, schema(), ()))
    count = Counter(leaf.name for leaf in found)
    labels = [leaf.name if count[leaf.name] == 1 else leaf.path for leaf in found]
    return {label: replace(leaf, label=label) for label, leaf in zip(labels, found)}


def _walk(cls: type, default: Any, groups: tuple[str, ...]) -> Iterator[Leaf]:
    hints = type_hints(cls)
    for field in fields(cls):
        value = getattr(default, field.name)
        if is_dataclass(hints[field.name]):
            yield from _walk(hints[field.name], value, (*groups, field.name))
        else:
            yield Leaf(field.name, groups, hints[field.name], value)


def type_hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, with their marks."""
    return get_type_hints(cls, include_extras=True)


# --- types ------------------------------------------------------------------------------------------------------------


def bare(tp: Any) -> Any:
    """A type without its marks."""
    return tp.__origin__ if get_origin(tp) is Annotated else tp


def marks(tp: Any) -> tuple[Any, ...]:
    """What a type is annotated with."""
    return tp.__metadata__ if get_origin(tp) is Annotated else ()


def mark(tp: Any, kind: type) -> Any:
    """The mark of a kind that a type has, or None."""
    return next((item for item in marks(tp) if isinstance(item, kind)), None)


def members(tp: Any) -> tuple[Any, ...]:
    """The types of a union; a type that is none is its only member."""
    return get_args(tp) if get_origin(tp) in (Union, types.UnionType) else (tp,)


def kind(tp: Any) -> Any:
    """``list`` of ``list[int]``, ``Literal`` of ``Literal["a"]``, the type itself of a simple one."""
    return get_origin(bare(tp)) or bare(tp)


def accepts(tp: Any, *kinds: Any) -> bool:
    """Whether a type, or a member of it, is one of some kinds."""
    return any(kind(member) in kinds for member in members(tp))


def member(tp: Any, wanted: Any) -> Any:
    """The member of a kind, or None."""
    return next((item for item in members(tp) if kind(item) is wanted), None)


def is_text(tp: Any) -> bool:
    """Whether a number that stands in a recipe is meant as text (``resolution: 512``)."""
    choices = member(tp, Literal)
    if choices is not None and not all(isinstance(choice, str) for choice in get_args(bare(choices))):
        return False
    return (choices is not None or accepts(tp, str)) and not accepts(tp, int, float)


def item_type(tp: Any, index: int = 0) -> Any:
    """The type of a list's or tuple's item."""
    for sequence in (member(tp, list), member(tp, tuple)):
        arguments = get_args(bare(sequence)) if sequence is not None else ()
        if arguments:
            fixed = kind(sequence) is tuple and arguments[-1] is not Ellipsis
            return arguments[min(index, len(arguments) - 1)] if fixed else arguments[0]
    return Any


def entry_type(tp: Any, key: str) -> Any:
    """The type of a dict's entry, ``Any`` if nothing is known about it."""
    schema = tp if is_dataclass(tp) else None
    mapping = member(tp, dict)
    if mapping is not None and mark(mapping, Entries):
        schema = mark(mapping, Entries).schema
    if schema is not None:
        return type_hints(schema).get(key, Any)
    arguments = get_args(bare(mapping)) if mapping is not None else ()
    return arguments[1] if arguments else Any


def type_name(tp: Any) -> str:
    """A type in the words of an error or of the help."""
    if len(members(tp)) > 1:
        return " or ".join(type_name(item) for item in members(tp))
    if mark(tp, Located):
        return "path"
    tp = bare(tp)
    if get_origin(tp) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(tp))
    if tp in (type(None), Any, Ellipsis):
        return {type(None): "None", Any: "Any", Ellipsis: "..."}[tp]
    if get_args(tp):
        return f"{kind(tp).__name__}[{', '.join(type_name(item) for item in get_args(tp))}]"
    return getattr(tp, "__name__", str(tp))
