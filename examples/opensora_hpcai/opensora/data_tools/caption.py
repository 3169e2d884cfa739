"""``opensora data caption``: captions by a model that sees some frames of each video."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mindone.data.table import relative_path, says_something
from mindone.data.textfile import lines_of
from mindone.data.video import open_film
from mindone.errors import UserError
from opensora.config.data import CaptionConfig
from opensora.data_tools.listing import CAPTION, VIDEO
from opensora.data_tools.table import Cell, Row, Stop, Tally, Transient, open_table, process_rows
from opensora.text.endpoint import Answer, Message, Unanswered, ask, require_address

PARTS = ("subject", "action", "setting", "camera", "style")
_ORDER = "These {count} pictures are frames of one video, in their order. "
TEMPLATES = {
    "short": "Say in one sentence of at most 20 words what happens in the video. Answer with the sentence alone.",
    "long": (
        "Describe the video in one paragraph of 40 to 100 words: subjects and how they look, what they do and how they "
        "move, surroundings, light, style, and how the camera moves. Say only what can be seen, do not mention "
        "frames or pictures, and answer with the description alone."
    ),
    "structured": (
        "Answer with one JSON object and nothing else. Its values are texts: caption (one paragraph of 40 to 100 words "
        "that describes the video), subject, action, setting, camera (how it moves) and style. Say only what can be "
        "seen."
    ),
}
JPEG_QUALITY = 90
# Waits between repetitions, in seconds: twice as long every time.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# So many rows without an answer, one after the other, mean that the endpoint is gone.
MOST_FAILURES = 20

_THING = r"(short )?(video|clip|image|scene|footage)( clip)?"
_SHOWS = r"(shows?|presents?|depicts?|features?|displays?|captures?|illustrates?|portrays?|is about|begins with)"
_PREFIX = re.compile(
    rf"^(here is (a|the) (caption|description)[^:]*:|(the|this|a) {_THING} {_SHOWS}"
    rf"|in (the|this) {_THING},?( we (can )?see)?|we (can )?see|caption:|description:)\s+",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^```(?:json)?\s*|\s*```$")


def caption(config: CaptionConfig) -> Tally:
    """Writes the table with captions in place, and prints what they have cost.

    Raises:
        UserError: the table or the instructions cannot be read.
        Stop: the endpoint refuses, or does not answer any more; what is done is kept.
    """
    rows, asker = open_table(config.table, [VIDEO]), _Asker(config)
    since = time.monotonic()
    tally = process_rows(
        rows,
        asker,
        config.output,
        what="caption",
        adds=[CAPTION, *(f"{CAPTION}_{part}" for part in PARTS if config.template == "structured")],
        settings=asker.settings,
        workers=config.workers,
        threads=True,
        skip=None if config.overwrite else lambda row: says_something(row.get(CAPTION, "")),
        retry=config.retry,
    )
    print(f"{config.output}: {tally}\n{asker.account(time.monotonic() - since)}")
    return tally


class _Asker:
    """Asks for the caption of a row; several threads do so at once.

    Attributes:
        settings: what the captions depend on.
    """

    def __init__(self, config: CaptionConfig):
        require_address(config.endpoint)
        self.config, self.root = config, Path(config.video_folder or Path(config.table).parent)
        own = "".join(lines_of(config.instructions)).strip() if config.instructions else None
        self.instructions = own or TEMPLATES[config.template]
        self.settings = {
            "instructions": self.instructions,
            **{name: getattr(config, name) for name in ("model", "frames", "max_side", "template", "max_tokens")},
        }
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._failures = self._answers = self._tokens_in = self._tokens_out = 0

    def __call__(self, row: Row) -> dict[str, Cell]:
        path = self.root / relative_path(row[VIDEO], self.root, "the table")
        messages = [{"role": "user", "content": self._content(frames_of(path, self.config.frames))}]
        for attempt in range(self.config.retries + 1):
            try:
                return self._cells(self._ask(messages))
            except Unanswered as error:
                if attempt == self.config.retries:
                    self._failed(error)
                wait = min(LONGEST_WAIT, max(error.wait, FIRST_WAIT * 2**attempt))
                if attempt == self.config.retries or self._stopped.wait(wait):
                    raise Transient(str(error)) from error
        raise AssertionError("every attempt returns or raises")

    def _content(self, frames: Sequence[np.ndarray]) -> list[Message]:
        text = (_ORDER.format(count=len(frames)) if len(frames) > 1 else "") + self.instructions
        pictures = [{"type": "image_url", "image_url": {"url": as_url(f, self.config.max_side)}} for f in frames]
        return [{"type": "text", "text": text}, *pictures]

    def _ask(self, messages: Sequence[Message]) -> Answer:
        config = self.config
        try:
            answer = ask(messages, config.endpoint, config.model, config.timeout, config.temperature, config.max_tokens)
        except Unanswered:
            raise
        except UserError as error:
            raise self._stop(str(error)) from error
        with self._lock:
            self._failures = 0
            self._answers += 1
            self._tokens_in += answer.tokens_in
            self._tokens_out += answer.tokens_out
        return answer

    def _failed(self, error: Unanswered) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise self._stop(
                    f"{self._failures} videos in a row got no answer ({error}); what is done is kept: repeat the "
                    "command when the endpoint is there again"
                )

    def _stop(self, message: str) -> Stop:
        """The error that ends the verb; other threads give up, too."""
        self._stopped.set()
        return Stop(message)

    def _cells(self, answer: Answer) -> dict[str, Cell]:
        if self.config.template != "structured":
            return {CAPTION: cleaned(answer.text, answer.is_cut)}
        try:
            found = json.loads(_FENCE.sub("", answer.text))
            parts = {name: found[name] for name in (CAPTION, *PARTS)}
            if not all(isinstance(text, str) for text in parts.values()) or not parts[CAPTION].strip():
                raise ValueError("not texts")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise Unanswered(f"the model {self.config.model} did not answer with the JSON it was asked for") from error
        return {CAPTION: cleaned(parts[CAPTION])} | {f"{CAPTION}_{name}": parts[name] for name in PARTS}

    def account(self, seconds: float) -> str:
        """What was asked in that time, and what it has cost."""
        config = self.config
        cost = (self._tokens_in * config.price_in + self._tokens_out * config.price_out) / 1e6
        tokens = f"{self._tokens_in:,} tokens read, {self._tokens_out:,} written"
        rate = f"{60 * self._answers / max(seconds, 1e-9):.1f} a minute"
        return f"{self._answers} answers in {seconds:.0f} s ({rate}); {tokens}" + (f"; cost {cost:.4f}" if cost else "")


def frames_of(path: str | Path, count: int) -> list[np.ndarray]:
    """Evenly spaced frames (H, W, 3) uint8 of a video, one of a picture; the middles of equal parts.

    Raises:
        BadSample: it cannot be read.
    """
    with open_film(path) as film:
        total = film.info.num_frames
        places = sorted({int((number + 0.5) * total / count) for number in range(count)})
        found = list(film.frames(places, allow_short=True))
    if not found:
        raise UserError(f"{path} has no frames where its header says")
    return found


def as_url(frame: np.ndarray, max_side: int) -> str:
    """A frame (H, W, 3) uint8 RGB as a data URL with a JPEG whose longer side is at most ``max_side`` pixels."""
    scale = max_side / max(frame.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in frame.shape[1::-1]]
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()


def cleaned(text: str, is_cut: bool = False) -> str:
    """A caption without quotes around it and without "The video shows", beginning with a capital letter.

    Args:
        is_cut: it ends in the midst of a sentence, which is left out if another one stands before it.
    """
    text = " ".join(text.split())
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    for _ in range(2):
        text = _PREFIX.sub("", text, count=1)
    end = max(text.rfind(mark) for mark in ".!?")
    if is_cut and end > 0:
        text = text[: end + 1]
    return text[:1].upper() + text[1:]
