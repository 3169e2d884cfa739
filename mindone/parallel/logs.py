"""The log files of ranks: one on the screen while it grows, and the end of one that failed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

# Lines of MindSpore for its developers: [INFO] DISTRIBUTED(4711,7f51a321eb80,python):2026-11-26-05:58:58...
CHATTER = re.compile(rb"\[(DEBUG|INFO|WARNING|TRACE)\] [A-Z_]+\(\d+,")
LAST_BYTES, LAST_LINES = 1 << 16, 20
LINE_ENDS = re.compile(rb"[\r\n]")


class Follower:
    """Copies what is added to a file to standard output, without MindSpore's chatter.

    Args:
        path: need not be there yet; what it holds already is left out.
    """

    def __init__(self, path: Path):
        self.path, self.place = path, path.stat().st_size if path.exists() else 0
        self._held, self._at_start, self._is_open = b"", True, True

    def update(self, last: bool = False) -> None:
        """Copies what has been added since; with ``last`` an unfinished line, too."""
        if not self._is_open or not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.place)
            added = file.read()
        self.place += len(added)
        self._show(self._filtered(self._held + added, last))

    def _filtered(self, text: bytes, last: bool) -> bytes:
        shown, self._held = [], b""
        while text:
            end = LINE_ENDS.search(text)
            line = text[: end.end()] if end else text
            if self._at_start and line.startswith(b"["):
                if end is None and not last:
                    self._held = line
                    break
                if CHATTER.match(line):
                    text = text[len(line) :]
                    continue
            shown.append(line)
            self._at_start, text = end is not None, text[len(line) :]
        return b"".join(shown)

    def _show(self, text: bytes) -> None:
        try:
            sys.stdout.write(text.decode("utf-8", errors="replace"))
            sys.stdout.flush()
        except OSError:
            # Nobody reads any more; the log is complete without it.
            self._is_open = False


def last_lines(path: Path, count: int = LAST_LINES) -> list[str]:
    """The last lines of a log, without MindSpore's chatter and empty ones."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LAST_BYTES))
            lines = LINE_ENDS.split(file.read())
    except OSError:
        return []
    kept = [line for line in lines if line.strip() and not CHATTER.match(line)]
    return [line.decode("utf-8", errors="replace") for line in kept[-count:]]
