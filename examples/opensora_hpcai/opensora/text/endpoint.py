"""Language models behind an OpenAI-compatible endpoint: one question, one answer, and errors that say what to do."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from urllib.parse import urlsplit

from mindone.errors import UserError

KEY = "OPENAI_API_KEY"
TIMEOUT = 60.0
LARGEST_ANSWER = 1 << 20
# What says "not now": a repetition may be answered. Every other status would be given again.
NOT_NOW = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

Message = Mapping[str, object]


class Unanswered(UserError):
    """The endpoint did not answer, or not with a text; asked again it may.

    Attributes:
        wait: seconds that it wants to be left alone; 0: it does not say.
    """

    wait = 0.0


@dataclass(frozen=True)
class Answer:
    """A text in one line, whether it was cut off, and tokens that were read and written (0 if it does not say)."""

    text: str
    is_cut: bool
    tokens_in: int
    tokens_out: int


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key would go to wherever an answer points."""

    def redirect_request(self, *arguments: object) -> None:
        return None


def ask(
    messages: Sequence[Message],
    endpoint: str,
    model: str,
    timeout: float = TIMEOUT,
    temperature: float = 0,
    max_tokens: int | None = None,
) -> Answer:
    """The answer of a model to messages.

    The key is taken from the environment (`KEY`) and sent to the endpoint alone; without one none is sent.

    Args:
        endpoint: base address, such as ``http://127.0.0.1:8000/v1``; ``/chat/completions`` is added.
        model: its name there.
        timeout: seconds for the whole answer.
    Raises:
        Unanswered: no answer, or one without text, that a repetition may bring.
        UserError: no such address, or it refuses.
    """
    require_address(endpoint)
    question = {"model": model, "messages": list(messages), "temperature": temperature}
    body = json.dumps(question | ({"max_tokens": max_tokens} if max_tokens else {})).encode()
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    request = urllib.request.Request(f"{endpoint.rstrip('/')}/chat/completions", body, headers)
    try:
        content = _read(request, timeout)
    except urllib.error.HTTPError as error:
        raise _refused(endpoint, error) from error
    except (OSError, HTTPException) as error:
        raise Unanswered(f"{endpoint} does not answer: {getattr(error, 'reason', None) or error}") from error
    return _parsed(content, endpoint)


def require_address(endpoint: str) -> None:
    """Raises a `UserError` for what is no web address."""
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise UserError(f"endpoint={endpoint} is not an address that begins with http:// or https://")


def _read(request: urllib.request.Request, timeout: float) -> bytes:
    """The body of the answer; one that trickles in for longer than the time limit is given up, too."""
    deadline, content = time.monotonic() + timeout, b""
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as answer:
        while len(content) < LARGEST_ANSWER and (part := answer.read1(1 << 16)):
            content += part
            if time.monotonic() > deadline:
                raise TimeoutError("timed out")
    return content


def _refused(endpoint: str, error: urllib.error.HTTPError) -> UserError:
    hint = f"; set {KEY}" if error.code in (401, 403) else ""
    message = f"{endpoint} refuses: HTTP {error.code} {error.reason}{hint}"
    if error.code not in NOT_NOW:
        return UserError(message)
    unanswered = Unanswered(message)
    after = (error.headers or {}).get("Retry-After", "")
    unanswered.wait = float(after) if after.isdigit() else 0.0
    return unanswered


def _parsed(content: bytes, endpoint: str) -> Answer:
    try:
        answer = json.loads(content)
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        found = choice["message"]["content"]
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unanswered(f"{endpoint} did not answer as an OpenAI-compatible endpoint does") from error
    text = " ".join(found.split()) if isinstance(found, str) else ""
    if not text:
        raise Unanswered(f"{endpoint} answered without a text")
    return Answer(text, choice.get("finish_reason") == "length", *tokens)
