"""Signals as requests, read by a thread of their own.

A framework may install handlers of its own at any time, and signals then do what it wants. So they are blocked before
it starts a thread: no handler ever runs, and a thread of ours waits for them (`watched`, which `mindone.errors.guarded`
does around a whole command). What they mean depends on who listens:

- Nobody: Ctrl+C and SIGTERM end the process, as `KeyboardInterrupt` and as ``SystemExit(143)`` of the main thread.
  While MindSpore compiles a graph, which would take the exception for a fault of the network or for a missing
  attribute, it is held back. If the main thread does not come back within `GRACE_SECONDS`, or at a second signal, the
  process ends at once.
- Within `requests`: the first Ctrl+C or SIGTERM asks for an orderly stop, SIGUSR1 for a checkpoint; a second Ctrl+C
  aborts as above.
- Within `listening`: whatever the caller makes of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

logger = logging.getLogger(__name__)

ENDING = frozenset({signal.SIGINT, signal.SIGTERM})
WATCHED = ENDING | {signal.SIGUSR1}
# Wakes the main thread from whatever it waits for.
_WAKE = signal.SIGRTMIN + 6
# How long the main thread has to react when the process shall end.
GRACE_SECONDS = 5.0
# How often it is woken until it does.
RETRY_SECONDS = 0.05


@dataclass
class Requests:
    """What was asked for so far."""

    stop: signal.Signals | None = None
    """by which signal"""
    save: bool = False
    """set it back when it is done"""


class _Watch:
    """Blocks the signals, and the thread that waits for them."""

    def __init__(self) -> None:
        self.requests: Requests | None = None
        self.listener: queue.SimpleQueue[signal.Signals] | None = None
        self.ending: signal.Signals | None = None
        self._reached, self._closing = threading.Event(), False
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        self._handler = signal.signal(_WAKE, self._in_main_thread)
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        signal.pthread_kill(self._thread.ident, signal.SIGUSR1)
        self._thread.join()
        # What came after the signal that ends the process does not end it a second time, with another code.
        while self.ending is not None and signal.sigtimedwait(WATCHED, 0) is not None:
            pass
        signal.signal(_WAKE, self._handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _run(self) -> None:
        while True:
            received = signal.Signals(signal.sigwait(WATCHED))
            if self._closing:
                return
            self._take(received)

    def _take(self, received: signal.Signals) -> None:
        requests = self.requests
        if self.listener is not None:
            self.listener.put(received)
        elif received == signal.SIGUSR1:
            if requests is not None:
                requests.save = True
                logger.warning("%s: a checkpoint is saved after the running step", received.name)
        elif requests is not None and requests.stop is None:
            requests.stop = received
            logger.warning("%s: the running step is finished and saved; Ctrl+C aborts", received.name)
        elif requests is None or received == signal.SIGINT:
            self._end(received)

    def _end(self, received: signal.Signals) -> None:
        if self.ending is not None:
            self._leave()
        self.ending, deadline = received, time.monotonic() + GRACE_SECONDS
        while not self._reached.is_set():
            signal.pthread_kill(threading.main_thread().ident, _WAKE)
            again = signal.sigtimedwait(ENDING, RETRY_SECONDS)
            if again is not None or time.monotonic() > deadline:
                self._leave()

    def _leave(self) -> NoReturn:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(exit_code(self.ending))

    def _in_main_thread(self, number: int, frame: FrameType | None) -> None:
        if self._reached.is_set() or _is_compiling(frame):
            return
        self._reached.set()
        if _is_importing("mindspore"):
            # It catches exceptions on the way and would fail later, at another place.
            self._leave()
        if self.ending == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(exit_code(self.ending))


def _is_compiling(frame: FrameType | None) -> bool:
    """Whether MindSpore compiles a graph in this frame or one that called it."""
    while frame is not None:
        if frame.f_code.co_name == "compile" and frame.f_globals.get("__name__", "").startswith("mindspore."):
            return True
        frame = frame.f_back
    return False


def _is_importing(module: str) -> bool:
    """Whether a module's import has begun and not ended."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


_watch: _Watch | None = None


def exit_code(received: signal.Signals) -> int:
    """What a process that a signal ended leaves with, as shells count: 130 for Ctrl+C, 143 for SIGTERM."""
    return 128 + received


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Watches the signals within this context; enter it before anything starts threads, numpy included.

    Does nothing if they are watched already, or outside of the main thread.
    """
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _watch = _Watch()
    try:
        yield
    finally:
        watch.close()
        _watch = None
    if watch.ending is not None:
        # Somebody in between has taken the exception for a failure of its own.
        raise SystemExit(exit_code(watch.ending))


@contextlib.contextmanager
def requests() -> Iterator[Requests]:
    """Within this context signals are requests, which the caller has to look at now and then."""
    found = Requests()
    with watched():
        watch = _watch
        before = watch.requests if watch else None
        if watch:
            watch.requests = found
        try:
            yield found
        finally:
            if watch:
                watch.requests = before


@contextlib.contextmanager
def listening() -> Iterator[queue.SimpleQueue[signal.Signals]]:
    """Within this context signals do nothing but come out of the queue.

    Raises:
        RuntimeError: not in the main thread.
    """
    with watched():
        if _watch is None:
            raise RuntimeError("signals come to the main thread")
        before, _watch.listener = _watch.listener, queue.SimpleQueue()
        try:
            yield _watch.listener
        finally:
            _watch.listener = before
