"""The other side of `opensora.serving.worker`: starts that process, hands it tasks, and ends it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mindone.errors import UserError
from mindone.parallel import heartbeat

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "opensora.serving.worker")
_STEP = re.compile(r"denoising step (\d+) of (\d+)")
# Shares of a video's time that are over when denoising begins, and when decoding does.
BEGIN, DECODE = 0.02, 0.9


class WorkerFailed(RuntimeError):
    """The worker could not finish a task, for no fault of the settings."""


class WorkerProcess:
    """One worker, started at its first task and again after it has ended.

    Args:
        command: what starts it.
    """

    def __init__(self, command: Sequence[str] = COMMAND):
        self._command, self._lock = list(command), threading.Lock()
        self._process: subprocess.Popen | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="opensora-")
        self._beats = Path(self._folder.name) / "heartbeat"

    def ask(self, task: str, argv: Sequence[str], wanted: Callable[[], bool] = lambda: True) -> dict[str, Any]:
        """The worker's answer to a task, once it is there.

        Args:
            wanted: asked again when nothing can end the worker between the question and the task.
        Raises:
            UserError: the settings are refused.
            WorkerFailed: it failed, or the process ended.
        """
        with self._lock:
            if not wanted():
                raise WorkerFailed("it is not wanted any more")
            process = self._running()
            with contextlib.suppress(FileNotFoundError):
                os.truncate(self._beats, 0)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps({"task": task, "argv": list(argv)}) + "\n")
                process.stdin.flush()
        line = process.stdout.readline()
        if not line.endswith("\n"):
            raise WorkerFailed(f"the worker process ended with code {process.wait()}, perhaps for lack of memory")
        answer = json.loads(line)
        if "refused" in answer:
            raise UserError(answer["refused"])
        if "failed" in answer:
            raise WorkerFailed(answer["failed"])
        return answer["result"]

    def stop(self) -> None:
        """Ends the process at once: what it writes appears whole or not at all."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """`stop`, for good."""
        self.stop()
        self._folder.cleanup()

    def progress(self) -> float:
        """How much of the task is done, 0 to 1, as far as the worker has said."""
        beat = heartbeat.read(self._beats)
        if beat is None:
            return 0.0
        step = _STEP.match(beat.what)
        if step:
            return BEGIN + (DECODE - BEGIN) * (int(step[1]) - 1) / int(step[2])
        return DECODE if beat.what.startswith("decoding") else BEGIN

    def _running(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                # Ctrl+C in a terminal is for the server, which decides what becomes of the worker.
                start_new_session=True,
                env={**os.environ, heartbeat.VARIABLE: str(self._beats)},
            )
        return self._process
