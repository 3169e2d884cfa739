"""Small files of model folders, and files that only stand in for what should be there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindone.errors import UserError

# A published index of thousands of shards has a few megabytes.
MAX_JSON = 1 << 26
_START = 256
_LFS, _ANNEX, _WEB_PAGES = b"version https://git-lfs.github.com/spec", b"/annex/objects/", (b"<!doctype html", b"<html")


def refuse_stand_in(path: str | Path) -> None:
    """Refuses a pointer of Git LFS or git-annex, and a web page that was saved under the name of a model's file.

    Raises:
        UserError: it is one of these, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if start.startswith(_LFS):
        raise UserError(f"{path} is only a pointer of Git LFS; fetch the file itself: git lfs pull, or download it")
    if start.startswith(_ANNEX):
        raise UserError(f"{path} is only a pointer of git-annex; fetch the file itself: git annex get")
    if start.lstrip().lower().startswith(_WEB_PAGES):
        raise UserError(f"{path} is a web page; download the file itself (the hub's link for it has /resolve/ in it)")


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        what: the file in words, for the message: "index of shards".
    Raises:
        UserError: it cannot be read, is longer than any such file, or holds no object.
    """
    path = Path(path)
    refuse_stand_in(path)
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a {what} in readable JSON ({error}); copy or download it again") from error
    return content
