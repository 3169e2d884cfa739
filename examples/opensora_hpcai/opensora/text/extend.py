"""Longer prompts by a language model behind an OpenAI-compatible endpoint; models are trained on detailed captions."""

from __future__ import annotations

from mindone.errors import UserError
from opensora.text.endpoint import TIMEOUT, ask

INSTRUCTIONS = (
    "You write captions for a text-to-video model. Describe the same scene as the user's text in one paragraph of 40 "
    "to 100 words: subjects, what they do, surroundings, light, style, camera. Keep everything that is said, add "
    "nothing that contradicts it, and answer with the caption alone."
)


def extend_prompt(prompt: str, endpoint: str, model: str, timeout: float = TIMEOUT) -> str:
    """A detailed caption of what a prompt says, in one line; see `ask` for the endpoint and the key.

    Raises:
        UserError: no such address, no answer, or one without text.
    """
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": prompt}]
    try:
        return ask(messages, endpoint, model, timeout).text
    except UserError as error:
        raise UserError(f"the prompt {prompt!r} is not extended: {error}") from error
