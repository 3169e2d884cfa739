"""A file of finished work: whatever was added to it is there after the process was killed, and can be looked up."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from mindone.errors import UserError

logger = logging.getLogger(__name__)

Record = list[dict[str, str]]

TRANSIENT = "\0transient"
"""A cell that marks a record as one to forget when the journal is read again."""


class Journal:
    """Records by key, in a file of one JSON line each below a line with the label of the work they belong to.

    Only the keys and the places of the records are in memory. A last line that was cut off by a kill is forgotten.

    Args:
        label: what the records depend on; those of a file with another label are dropped.
    Raises:
        UserError: it cannot be written, or another process has it open.
    """

    def __init__(self, path: str | Path, label: str):
        self.path, self._label = Path(path), label
        self._places: dict[str, int] = {}

    def __enter__(self) -> Journal:
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115
        try:
            self._lock()
            with self._errors():
                self._load()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        if not self._places and not self._file.closed:
            self.discard()
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another process is at work on {self.path.with_suffix('')}; wait for it, or give another output"
            ) from error

    def _load(self) -> None:
        self._file.seek(0)
        end, head = 0, self._file.readline()
        if head == self._head():
            end = len(head)
            for line in self._file:
                if not line.endswith(b"\n"):
                    break
                key, record = json.loads(line)
                if not any(TRANSIENT in row for row in record):
                    self._places[key] = end
                end += len(line)
        elif head:
            logger.warning("%s is of work with other settings, which begins anew", self.path)
        self._file.truncate(end)
        if not end:
            self._file.write(self._head())
            self._file.flush()

    def _head(self) -> bytes:
        return json.dumps({"journal": 2, "label": self._label}).encode() + b"\n"

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Record:
        self._file.seek(self._places[key])
        return json.loads(self._file.readline().decode())[1]

    def add(self, records: Iterable[tuple[str, Record]]) -> None:
        """Keeps records: they are with the system, safe from a kill, when this returns."""
        with self._errors():
            place = self._file.seek(0, os.SEEK_END)
            lines = []
            for key, record in records:
                lines.append(json.dumps([key, record]).encode() + b"\n")
                self._places[key] = place
                place += len(lines[-1])
            self._file.write(b"".join(lines))
            self._file.flush()

    def discard(self) -> None:
        """Deletes the file: its records are in the table now."""
        self.path.unlink(missing_ok=True)
        self._file.close()

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = getattr(error, "strerror", None) or "it is damaged; delete it to begin anew"
            raise UserError(f"{self.path} cannot be used: {reason}") from error
