"""Sources of settings, and errors that name them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from mindone.config.schema import Leaf, leaves
from mindone.errors import UserError

# Where a built configuration keeps the sources of its settings: not a field, so that it is neither compared nor saved.
_SOURCES = "_sources"


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
    inner: Mapping[tuple[str, ...], Source]
    """sources of the entries within the value, by their keys"""

    def sources(self) -> dict[str, Source]:
        """By dotted path, of the value and of all entries in it."""
        path = (self.leaf.path, *self.entry)
        return {".".join((*path, *keys)): source for keys, source in {(): self.source, **self.inner}.items()}


class SettingError(UserError):
    """A wrong setting. `parse` adds where it was given.

    Args:
        message: one sentence that names setting and value.
        names: the settings it is about, as names in the group whose ``check()`` raises, as dotted paths or flat names;
            an entry of a dict as ``denoiser.depth``.
    """

    def __init__(self, message: str, *names: str):
        super().__init__(message)
        self.names = names


@contextlib.contextmanager
def about(*names: str) -> Iterator[None]:
    """For ``check()``: within the block, a `UserError` of other code becomes a `SettingError` about some settings."""
    try:
        yield
    except SettingError:
        raise
    except UserError as error:
        raise SettingError(str(error), *names) from error


def require(group: Any, name: str, condition: bool, what: str) -> None:
    """For ``check()``: ``require(self, "ema_decay", 0 <= self.ema_decay < 1, "at least 0 and less than 1")``.

    Raises:
        SettingError: the condition does not hold.
    """
    if not condition:
        raise SettingError(f"{name}={getattr(group, name)} has to be {what}", name)


def require_at_least(group: Any, **minima: float) -> None:
    """For ``check()``: ``require_at_least(self, batch_size=1)``; a setting that is None is left out.

    Raises:
        SettingError: one of the named settings is smaller.
    """
    for name, minimum in minima.items():
        value = getattr(group, name)
        require(group, name, value is None or value >= minimum, f"at least {minimum}")


def check(config: Any) -> None:
    """Calls ``check()`` of every group, then of the whole; errors name where their settings were given.

    Raises:
        UserError: a check failed.
    """
    _check(config, config, "")


def _check(config: Any, part: Any, path: str) -> None:
    for field in fields(part):
        if is_dataclass(getattr(part, field.name)):
            _check(config, getattr(part, field.name), f"{path}{field.name}.")
    if callable(getattr(part, "check", None)):
        with naming_sources(config, path):
            part.check()


@contextlib.contextmanager
def naming_sources(config: Any, path: str = "") -> Iterator[None]:
    """Within the block, a `SettingError` about a configuration of `parse` becomes a `UserError` that names the source.

    Args:
        path: what the error's names stand in, such as ``"train."``.
    """
    try:
        yield
    except SettingError as error:
        known = leaves(type(config))
        found = [_source(sources_of(config), known, path, name) for name in error.names]
        places = dict.fromkeys(str(source) for source in found if source is not None)
        if not places:
            raise
        raise UserError(f"{error} ({'; '.join(places)})") from error


def _source(given: Mapping[str, Source], known: Mapping[str, Leaf], path: str, name: str) -> Source | None:
    """Where a setting was given whose name is one in the group ``path``, or else a dotted path or a flat name."""
    flat, dot, entry = name.partition(".")
    if any(leaf.path == path + flat for leaf in known.values()):
        return nearest_source(given, path + name)
    names = [path + name, name, *([known[flat].path + dot + entry] if flat in known else [])]
    return next((found for name in names if (found := nearest_source(given, name)) is not None), None)


def nearest_source(given: Mapping[str, Source], path: str) -> Source | None:
    """Where the setting or entry of a dotted path was given, or else the dict that it stands in."""
    while path and path not in given:
        path = path.rpartition("[" if path.endswith("]") else ".")[0]
    return given.get(path)


def sources_of(config: Any) -> Mapping[str, Source]:
    """Where the settings of a configuration were given, by dotted path; those that have their default are left out."""
    return vars(config).get(_SOURCES, {})


def keep_sources(config: Any, sources: Mapping[str, Source]) -> None:
    """Remembers where the settings of a configuration were given."""
    object.__setattr__(config, _SOURCES, sources)
