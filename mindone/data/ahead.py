"""Reading ahead: one thread makes things while another one uses them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


@contextlib.contextmanager
def read_ahead(items: Iterable[Item], most: int) -> Iterator[Iterator[Item]]:
    """Items in their order, up to ``most`` of them made in a thread before they are asked for.

    It pays where both sides do their work outside of Python's lock, as decoders and OpenCV do. An error of ``items`` is
    raised where its item would have come. At the end of the context nothing is made any more.
    """
    made: queue.Queue[tuple[bool, object]] = queue.Queue(most)
    enough = threading.Event()
    maker = threading.Thread(target=_make, args=(items, made, enough), daemon=True)
    maker.start()
    try:
        yield _taken(made)
    finally:
        enough.set()
        # one that waits for room finds it
        with contextlib.suppress(queue.Empty):
            while True:
                made.get_nowait()
        maker.join()


def _make(items: Iterable[Item], made: queue.Queue, enough: threading.Event) -> None:
    """Puts (True, item) for each item, then (False, the error that ended them or None)."""
    error = None
    try:
        for item in items:
            if enough.is_set():
                return
            made.put((True, item))
    except BaseException as caught:
        error = caught
    if not enough.is_set():
        made.put((False, error))


def _taken(made: queue.Queue) -> Iterator[Item]:
    while True:
        is_item, value = made.get()
        if is_item:
            yield value
        elif value is not None:
            raise value
        else:
            return
