"""What goes wrong while networks run, in one line each: memory that is not there, numbers that are not finite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from mindone.errors import UserError

# What MindSpore and its devices say when an allocation fails.
ALLOCATION = (
    "out of memory",
    "memory not enough",
    "memory isn't enough",
    "not enough memory",
    "malloc",
    "allocate memory",
    "alloc memory",
    "memory allocation",
    "bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was no memory left."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in ALLOCATION)


@contextlib.contextmanager
def within_memory(what: str, remedy: str) -> Iterator[None]:
    """Memory that runs out inside becomes one line.

    Args:
        what: was being done: ``denoising 4 videos of 51x720x1280``.
        remedy: what to change: ``use a smaller batch_size``.
    Raises:
        UserError: there was not enough memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"there is not enough memory for {what}; {remedy}") from error


def require_finite(values: np.ndarray, what: str, remedy: str) -> None:
    """
    Raises:
        UserError: some values are NaN or infinite.
    """
    if not np.isfinite(values).all():
        share = 1 - np.isfinite(values).mean()
        raise UserError(f"{what} {share:.0%} of the numbers are not finite (NaN or infinite); {remedy}")
