"""Worker processes of a pool: they end when, and only when, the main process wants it, however that ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from mindone.signals import WATCHED

# Not "fork": the main process has a framework's threads, which a forked child inherits in a broken state.
CONTEXT = multiprocessing.get_context("spawn")
# How long the end of a pool is waited for.
CLOSING_SECONDS = 5.0


def become_worker() -> None:
    """Sets a new worker process up; for the initializer of a pool.

    A terminal or a scheduler sends its signals to all processes of a run; the main process may then still want what is
    under way, to finish and save it.
    """
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    for watch in (_end_with_parent, _end_by_parent):
        threading.Thread(target=watch, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _end_by_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != multiprocessing.parent_process().pid:
        pass
    os._exit(1)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Holds back signals from a process that starts now, until it has set up what to do with them.

    A pool starts its processes as work is handed in, so that stands within this context, too. The helper of
    multiprocessing that starts with the first one lets signals through to this thread, whatever was before: so what was
    before is set again.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def close(pool: ProcessPoolExecutor) -> None:
    """Ends the processes of a pool.

    They have a moment to end: the interpreter's exit trips over a pool that is still closing. One that hangs is left
    behind, and ends with this process.
    """
    closing = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    closing.start()
    closing.join(CLOSING_SECONDS)
