"""The process that makes videos: it reads one task per line and answers each with one line, both JSON.

A task ``{"task": "generate", "argv": [...]}`` opens the door of that command line. An answer is ``{"result": {...}}``,
``{"refused": MESSAGE}`` for what is wrong with the settings, or ``{"failed": MESSAGE}``. The process ends when its
input does, whatever it is doing.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from mindone.errors import UserError
from opensora.cli import open_door

logger = logging.getLogger(__name__)

Task = Callable[[list[str]], dict[str, Any]]


def generate(argv: list[str]) -> dict[str, Any]:
    """What ``opensora generate`` does; returns the file of the video."""
    results = open_door("generate", argv, "opensora generate")
    return {"video": str(results[0].video)}


def forecast(argv: list[str]) -> dict[str, Any]:
    """What the same command would need."""
    from opensora.serving.forecast import forecast_of

    return forecast_of(argv)


TASKS: dict[str, Task] = {"generate": generate, "forecast": forecast}


def work(tasks: Mapping[str, Task] = TASKS) -> None:
    """Answers tasks until the input ends."""
    # Libraries print; the way to the server is kept for answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        task = json.loads(lines.get())
        answers.write(json.dumps(_answer(tasks[task["task"]], task["argv"])) + "\n")
        answers.flush()


def _read(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _answer(task: Task, argv: list[str]) -> dict[str, Any]:
    try:
        return {"result": task(argv)}
    except UserError as error:
        return {"refused": " ".join(str(error).split())}
    except Exception as error:
        logger.exception("a task failed")
        first = str(error).strip().partition("\n")[0]
        return {"failed": f"{type(error).__name__}: {first}"}


if __name__ == "__main__":
    work()
