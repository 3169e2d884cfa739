import os

import pytest
from serving_world import COMMAND, MODEL, RECIPE, Client

from opensora.config.serving import Listening
from opensora.serving.process import WorkerProcess
from opensora.serving.queue import VideoQueue


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def opened(tmp_path):
    """Opens a queue with the stub worker on one folder, again and again."""
    queues = []

    def open_again(started=True, command=COMMAND, **options):
        queue = VideoQueue(tmp_path / "served", {MODEL: RECIPE}, WorkerProcess(command), **options)
        queues.append(queue)
        if started:
            queue.start()
        return queue

    yield open_again
    for queue in queues:
        queue.close()


@pytest.fixture
def served():
    """Serves a queue on the loopback."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from opensora.serving.server import application, start_server

    servers = []

    def serve(queue, **listening):
        settings = Listening(port=0, **listening)
        server, thread = start_server(application(queue, settings), settings)
        servers.append((server, thread))
        return Client(server.bound.getsockname()[1])

    yield serve
    for server, thread in servers:
        server.should_exit = True
        thread.join(5)
