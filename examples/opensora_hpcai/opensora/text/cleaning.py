"""Bringing a prompt into the form that captions had in training."""

from __future__ import annotations

import html
from collections.abc import Callable

from mindone.errors import UserError


def basic_clean(text: str) -> str:
    """HTML entities resolved (twice, for captions that were escaped twice), lower case, stripped."""
    return html.unescape(html.unescape(text)).lower().strip()


CLEANERS: dict[str, Callable[[str], str]] = {"none": str, "basic": basic_clean}


def cleaner(name: str) -> Callable[[str], str]:
    """The cleaning function called ``name``.

    Raises:
        UserError: there is none of that name.
    """
    if name not in CLEANERS:
        raise UserError(f"caption_cleaning={name} is not known; use one of {', '.join(CLEANERS)}")
    return CLEANERS[name]
