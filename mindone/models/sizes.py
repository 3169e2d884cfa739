"""Sizes in a network's config: which entries are sizes, and checks of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mindone.errors import UserError


def known_entries(schema: type, values: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """The entries of a ``config.json`` that are fields of a dataclass; the others do not change the network.

    Args:
        without: fields that are not meant.
    """
    names = {field.name for field in fields(schema)} - set(without)
    return {name: value for name, value in values.items() if name in names}


def require_positive(config: Any, *names: str) -> None:
    """Refuses a size that no network can have.

    Args:
        config: the dataclass of a network's sizes.
        names: of its fields: numbers, or tuples of them.
    Raises:
        UserError: a number is not above 0, or not finite.
    """
    for name in names:
        value = getattr(config, name)
        if not all(math.isfinite(size) and size > 0 for size in (value if isinstance(value, tuple) else (value,))):
            shown = list(value) if isinstance(value, tuple) else value
            raise UserError(f"{name}={shown} has to be more than 0")
