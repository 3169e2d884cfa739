"""The one exception for bad input, and the guard that turns it into one clear line and exit code 2."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import NoReturn

from mindone import signals

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class UserError(ValueError):
    """Bad input: the message is one sentence that says what is wrong, where, and what to do about it."""


def fail(message: str) -> NoReturn:
    """Prints ``error: message`` as one line on standard error and leaves with exit code 2."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(EXIT_BAD_INPUT)


def guarded(main: Callable) -> Callable:
    """Wraps a command's ``main``: a `UserError` becomes one line and exit code 2, Ctrl+C becomes exit code 130.

    Signals are watched meanwhile, see `mindone.signals`.
    """

    @functools.wraps(main)
    def run(*args, **kwargs):
        try:
            with signals.watched():
                return main(*args, **kwargs)
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(EXIT_INTERRUPTED) from None

    return run
