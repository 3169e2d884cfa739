"""An OpenAI-style endpoint on the loopback that really looks at the pictures of toy clips it is sent.

It stands in for a model that sees, to try ``opensora data caption`` with.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

from mindone.errors import UserError
from opensora.config.toy import ToyCaptionsConfig
from opensora.toy.judge import judge


def look(body: Mapping) -> str:
    """The caption of a toy clip, from the pictures in a question."""
    content = body["messages"][-1]["content"]
    pictures = [part["image_url"]["url"].split(",", 1)[1] for part in content if part["type"] == "image_url"]
    frames = [cv2.imdecode(np.frombuffer(base64.b64decode(p), np.uint8), cv2.IMREAD_COLOR) for p in pictures]
    seen = judge(np.stack(frames)[..., ::-1])
    if None in (seen.colour, seen.shape, seen.direction):
        return "nothing of the toy world"
    moves = "stands still" if seen.direction == "still" else f"moves {seen.direction}"
    return f"a {seen.colour} {seen.shape} {moves}"


def right(row: Mapping[str, str], scene: Sequence[str]) -> bool:
    """Whether a row's caption names the colour, shape and direction of a scene."""
    return all(word in row["caption"].lower() for word in scene)


def serve_captions(config: ToyCaptionsConfig) -> None:
    """Answers until it is interrupted.

    Raises:
        UserError: the port is taken.
    """
    with serving(config.port) as server:
        print(f"captions of toy clips at {server.address}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """A server, at a free port for 0, with ``address`` and ``asked``, the keys and bodies of questions.

    Its ``reply`` is called with the number of the question and its body, and gives a status and a text.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.asked.append((self.headers["Authorization"], body))
                number = len(server.asked)
            status, text = server.reply(number, body)
            answer = {
                "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10},
            }
            with contextlib.suppress(OSError):  # nobody may wait for the answer any more
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments):
            pass

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(f"port {port} cannot be had ({error.strerror}); give another one with --port") from error
    server.daemon_threads, server.asked = True, []
    server.reply = lambda number, body: (200, f"The video shows {look(body)}")
    server.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
