"""Sends a signal to a command when its output, or its state, says that it is in a phase."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

EXAMPLE = Path(__file__).parents[1]
PATIENCE = 300
# What nobody should see who has only pressed Ctrl+C.
NOT_OURS = re.compile(r"Traceback|KeyboardInterrupt|SystemExit|\[(ERROR|CRITICAL)\]")


@dataclass(frozen=True)
class Moment:
    """``seconds`` after the output has matched ``pattern``; without one, after the command watches its signals."""

    pattern: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Ended:
    """What became of the command; the code is None if it ended before the moment came."""

    code: int | None
    output: str
    group: int

    @property
    def left(self) -> bool:
        """Whether processes that it started are still there, after a moment in which they may end."""
        for _ in range(100):
            try:
                os.killpg(self.group, 0)
            except ProcessLookupError:
                return False
            time.sleep(0.05)
        return True


def stop_at(command: list[str], moment: Moment, number: signal.Signals) -> Ended:
    """Starts a command, sends it a signal at that moment, and waits for its end."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "0.1"}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=EXAMPLE,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output = _until(process, moment)
        time.sleep(moment.seconds)
        was_alive = process.poll() is None
        process.send_signal(number)
        rest, _ = process.communicate(timeout=PATIENCE)
        text = (output + rest).decode(errors="replace")
        return Ended(process.returncode if was_alive else None, text, process.pid)
    finally:
        process.kill()


def _until(process: subprocess.Popen, moment: Moment) -> bytes:
    output = b""
    if not moment.pattern:
        while process.poll() is None and not _watches(process.pid):
            time.sleep(0.005)
    while moment.pattern and not re.search(moment.pattern.encode(), output):
        read = os.read(process.stdout.fileno(), 1 << 16)
        if not read:
            raise AssertionError(f"the command ended without '{moment.pattern}': {output.decode(errors='replace')}")
        output += read
    return output


def _watches(pid: int) -> bool:
    """Whether the main thread of a process has SIGTERM blocked, for the thread that waits for it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)
    return bool(blocked >> (signal.SIGTERM - 1) & 1)
