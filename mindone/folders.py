"""Folders that commands write into."""

from __future__ import annotations

import datetime
from pathlib import Path

from mindone.errors import UserError


def time_stamp(seconds: float) -> str:
    """A time (seconds since the epoch) as a folder name, in local time."""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%dT%H-%M-%S")


def make_run_folder(output_path: str | Path, name: str | None = None) -> Path:
    """``output_path/name`` (or ``output_path`` itself), created if it is not there.

    Raises:
        UserError: it cannot be created.
    """
    folder = Path(output_path) / name if name else Path(output_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_path={output_path} cannot be created: {error.strerror}") from error
    return folder
