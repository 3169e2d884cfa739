"""Longer prompts, against a stub of an OpenAI-compatible service on the loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mindone.config import parse
from mindone.errors import UserError
from opensora.config import GenerateConfig
from opensora.generate import requests
from opensora.text.endpoint import KEY
from opensora.text.extend import extend_prompt
from opensora.text.lines import Line

ANSWER = {"choices": [{"message": {"content": " A red circle,\nseen from above,  moves left. "}}]}


@pytest.fixture
def service(monkeypatch):
    """The service's address, and what it was asked; ``reply`` is its status, body and further headers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(KEY, "a-key")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.asked.append((self.path, self.headers["Authorization"], json.loads(body)))
            status, content, headers = server.reply
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.reply = [], (200, json.dumps(ANSWER).encode(), {})
    server.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_answer_becomes_one_line_and_the_key_goes_along(service):
    assert extend_prompt("a red circle", service.address, "small") == "A red circle, seen from above, moves left."
    ((path, key, body),) = service.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer a-key")
    assert body["model"] == "small" and body["messages"][-1] == {"role": "user", "content": "a red circle"}


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, b"", {}), f"refuses: HTTP 401 Unauthorized; set {KEY}"),
        ((302, b"", {"Location": "http://127.0.0.1:9/"}), "refuses: HTTP 302"),
        ((200, b"<html>", {}), "did not answer as an OpenAI-compatible endpoint does"),
        ((200, b'{"choices": []}', {}), "did not answer as an OpenAI-compatible endpoint does"),
        ((200, b'{"choices": [{"message": {"content": " "}}]}', {}), "answered without a text"),
    ],
)
def test_other_answers_are_errors_in_one_line(service, reply, message):
    service.reply = reply
    with pytest.raises(UserError, match=message) as error:
        extend_prompt("a red circle", service.address, "small")
    assert "\n" not in str(error.value) and "a-key" not in str(error.value)


def test_an_endpoint_that_is_no_web_address_or_not_there_is_named(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match="endpoint=file:///etc is not an address"):
        extend_prompt("a", "file:///etc", "small")
    with pytest.raises(UserError, match="http://127.0.0.1:9 does not answer"):
        extend_prompt("a", "http://127.0.0.1:9", "small", timeout=5)


def test_a_run_extends_its_prompts_but_not_those_with_a_text_per_loop(service, caplog):
    flags = ["--extend_prompts", "True", "--endpoint", service.address, "--model", "small", "--captions", "a"]
    config = parse(GenerateConfig, [*flags, "--image_size", "64"])
    assert requests._extended(config, Line("a red circle")).text == "A red circle, seen from above, moves left."
    assert requests._extended(config, Line("|0|a cat|1|a dog")).text == "|0|a cat|1|a dog"
    assert len(service.asked) == 1


def test_what_it_needs_is_asked_for():
    flags = ["--extend_prompts", "True", "--captions", "a", "--image_size", "64"]
    with pytest.raises(UserError, match="extend_prompts needs --endpoint"):
        parse(GenerateConfig, flags)
