"""Checks of the sizes in a network's config."""

from __future__ import annotations

import math
from typing import Any

from mindone.errors import UserError


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
