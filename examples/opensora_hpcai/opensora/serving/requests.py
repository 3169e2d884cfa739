"""What a request of the videos endpoint says, as settings; and a job as the endpoint shows it."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from mindone.errors import UserError
from opensora.serving.jobs import VideoJob
from opensora.serving.settings import OPEN

# Fields of the published endpoint whose settings have other names.
PROMPT, NEGATIVE, SIZE, SECONDS, MODEL, REFERENCE = (
    "prompt",
    "negative_prompt",
    "size",
    "seconds",
    "model",
    "input_reference",
)
_REPLACED = {"captions": PROMPT, "negative_prompts": NEGATIVE, "image_size": SIZE}
FIELDS = (PROMPT, NEGATIVE, MODEL, SIZE, SECONDS, REFERENCE, *(name for name in OPEN if name not in _REPLACED))
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_ERROR = "video_generation_failed"


class BadField(UserError):
    """A field of a request that cannot be; ``field`` names it."""

    def __init__(self, message: str, field: str):
        super().__init__(message)
        self.field = field


def settings_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, by label, of a request's fields; ``model`` and files are left to the caller.

    Raises:
        BadField: an unknown field, no prompt, or a size or length that is none.
    """
    for name in fields:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"use some of {', '.join(FIELDS)}"
            raise BadField(f"unknown field '{name}'; {hint}", name)
    prompt = fields.get(PROMPT)
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadField("there is no prompt; give prompt as text", PROMPT)
    settings: dict[str, Any] = {"captions": [prompt]}
    if fields.get(NEGATIVE):
        settings["negative_prompts"] = [_text(fields, NEGATIVE)]
    if fields.get(SIZE) is not None:
        settings["image_size"] = size_in(_text(fields, SIZE))
    if fields.get(SECONDS) is not None:
        settings["num_frames"] = _length(fields)
    own = (name for name in OPEN if name not in _REPLACED and fields.get(name) not in (None, ""))
    return settings | {name: _value(name, fields[name]) for name in own}


def _text(fields: Mapping[str, Any], name: str) -> str:
    if not isinstance(fields[name], str):
        raise BadField(f"{name} has to be text", name)
    return fields[name]


def _value(name: str, value: object) -> str | int | float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadField(f"{name} has to be text or a number", name)
    return value


def size_in(text: str) -> list[int]:
    """Height and width of ``WIDTHxHEIGHT``.

    Raises:
        BadField: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise BadField(f"size={text!r} is no size; give WIDTHxHEIGHT in pixels, such as 1280x720", SIZE)
    return [int(found[2]), int(found[1])]


def _length(fields: Mapping[str, Any]) -> str:
    if fields.get("num_frames") not in (None, ""):
        raise BadField("seconds and num_frames both say how long the video is; give one", SECONDS)
    try:
        seconds = float(fields[SECONDS])
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < 1e5:
        raise BadField(f"seconds={fields[SECONDS]!r} is no length; give a number above 0", SECONDS)
    return f"{seconds:g}sec"


def shown(job: VideoJob, progress: float, place: int | None) -> dict[str, Any]:
    """A job as the endpoint answers.

    Args:
        progress: 0 to 1.
        place: jobs before it, while it waits.
    """
    settings = job.settings
    size = settings.get("image_size")
    return {
        "id": job.id,
        "object": "video",
        "model": job.model,
        "status": job.status,
        "progress": int(100 * progress),
        "created_at": int(job.created_at),
        "started_at": None if job.started_at is None else int(job.started_at),
        "completed_at": None if job.completed_at is None else int(job.completed_at),
        "queue_position": place,
        "prompt": settings["captions"][0],
        "seed": settings["seed"],
        "size": f"{size[1]}x{size[0]}" if isinstance(size, list) and len(size) == 2 else None,
        "seconds": str(settings.get("num_frames", "")).removesuffix("sec") if _is_seconds(settings) else None,
        "settings": {name: value for name, value in settings.items() if name in OPEN},
        "error": None if job.error is None else {"code": _ERROR, "message": job.error},
    }


def _is_seconds(settings: Mapping[str, Any]) -> bool:
    return str(settings.get("num_frames", "")).endswith("sec")
