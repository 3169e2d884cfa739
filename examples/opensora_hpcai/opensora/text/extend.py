"""Longer prompts by a language model behind an OpenAI-compatible endpoint; models are trained on detailed captions."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from mindone.errors import UserError

KEY = "OPENAI_API_KEY"
TIMEOUT = 60.0
LARGEST_ANSWER = 1 << 20
INSTRUCTIONS = (
    "You write captions for a text-to-video model. Describe the same scene as the user's text in one paragraph of 40 "
    "to 100 words: subjects, what they do, surroundings, light, style, camera. Keep everything that is said, add "
    "nothing that contradicts it, and answer with the caption alone."
)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key would go to wherever an answer points."""

    def redirect_request(self, *arguments: object) -> None:
        return None


def extend_prompt(prompt: str, endpoint: str, model: str, timeout: float = TIMEOUT) -> str:
    """A detailed caption of what a prompt says, in one line.

    The key is taken from the environment (`KEY`) and sent to the endpoint alone; without one none is sent.

    Args:
        endpoint: base address, such as ``http://127.0.0.1:8000/v1``; ``/chat/completions`` is added.
        model: its name there.
        timeout: seconds.
    Raises:
        UserError: no such address, no answer, or one without text.
    """
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise UserError(f"endpoint={endpoint} is not an address that begins with http:// or https://")
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": prompt}]
    body = json.dumps({"model": model, "messages": messages, "temperature": 0}).encode()
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    request = urllib.request.Request(f"{endpoint.rstrip('/')}/chat/completions", body, headers)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as answer:
            found = json.loads(answer.read(LARGEST_ANSWER))["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        hint = f"; set {KEY}" if error.code in (401, 403) else ""
        raise UserError(f"{endpoint} refuses the prompt: HTTP {error.code} {error.reason}{hint}") from error
    except OSError as error:
        raise UserError(f"{endpoint} does not answer: {getattr(error, 'reason', error)}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{endpoint} did not answer as an OpenAI-compatible endpoint does") from error
    text = " ".join(found.split()) if isinstance(found, str) else ""
    if not text:
        raise UserError(f"{endpoint} answered without a text for the prompt {prompt!r}")
    return text
