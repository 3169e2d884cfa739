"""Signs of life of a process, for the launcher that started it: `beat` says what is begun.

A launcher names a file in the environment; without it nothing happens. The file has one line, the number of the beat
and what was begun. It is one small write, so once per step costs nothing.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "MINDONE_HEARTBEAT"
# Makes a process that beats write where its threads stand to standard error, whatever they wait for.
DUMP = signal.SIGUSR2
WIDTH = 120

_file: int | None = None
_count = 0


@dataclass(frozen=True)
class Beat:
    """The last beat of a process: its number, and what was begun then."""

    number: int
    what: str


def beat(what: str) -> None:
    """Says that this process begins something: ``update 12``."""
    global _file, _count
    path = os.environ.get(VARIABLE)
    if not path:
        return
    if _file is None:
        _file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        faulthandler.register(DUMP, all_threads=True)
    _count += 1
    # Of one length, so that no reader sees the end of a longer line.
    line = f"{_count} {what}".encode()[: WIDTH - 1]
    os.pwrite(_file, line.ljust(WIDTH - 1) + b"\n", 0)


def read(path: Path) -> Beat | None:
    """The last beat in a file; None if there was none."""
    try:
        number, _, what = path.read_text(encoding="utf-8", errors="replace").strip().partition(" ")
        return Beat(int(number), what)
    except (OSError, ValueError):
        return None
