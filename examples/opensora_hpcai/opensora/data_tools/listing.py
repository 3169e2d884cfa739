"""Which videos there are and what is said of them, before any of them is opened: folders, lists, known data sets."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from mindone.data.errors import reason
from mindone.data.pictures import SUFFIXES as PICTURES
from mindone.data.pictures import UNREAD_SUFFIXES
from mindone.data.table import CONTROL
from mindone.data.textfile import lines_of
from mindone.errors import UserError
from opensora.data_tools.table import PROBLEM, Row, to_text

logger = logging.getLogger(__name__)

VIDEOS = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "flv", "wmv", "asf", "mpg", "mpeg", "ts", "m2ts", "mts", "vob"),
        *("ogv", "3gp", "mxf", "gif", "y4m", "dv", "rm", "rmvb", "f4v", "h264", "h265"),
    )
)
MEDIA = VIDEOS | PICTURES | UNREAD_SUFFIXES
LISTS = (".json", ".jsonl", ".ndjson")
VIDEO, CAPTION = "video", "caption"
# What lists call a video and its captions, the most telling name first.
VIDEO_KEYS = ("video", "path", "video_path", "video_file", "file", "file_name", "filename", "image")
CAPTION_KEYS = ("caption", "captions", "cap", "text", "texts", "sentence", "prompt")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@dataclass(frozen=True)
class Found:
    """A file as a path that starts from the table's folder, its captions, and what else was said of it."""

    path: str
    captions: Sequence[str] = ()
    more: Mapping[str, str] | None = None
    problem: str = ""

    def rows(self, choice: str) -> list[Row]:
        """A row for every caption, or for the one that is chosen: ``all``, ``first`` or ``longest``."""
        texts = list(dict.fromkeys(filter(None, map(to_text, self.captions)))) or [""]
        if choice != "all":
            texts = [max(texts, key=len)] if choice == "longest" else texts[:1]
        problem = {PROBLEM: self.problem} if self.problem else {}
        return [{**(self.more or {}), VIDEO: to_text(self.path), CAPTION: text, **problem} for text in texts]


def listed(source: str | Path, layout: str, root: str | Path) -> Iterator[Found]:
    """What a folder or a list says, in a fixed order.

    Args:
        layout: as in `opensora.config.data.IndexConfig`.
        root: where the paths start from.
    Raises:
        UserError: neither a folder nor a list, or a list that is not one.
    """
    source = Path(source)
    if source.is_dir():
        if layout in ("list", "msrvtt"):
            raise UserError(f"layout={layout} needs the list, a .json or .jsonl file; {source} is a folder")
        is_ucf101 = layout == "ucf101" or (layout == "auto" and source.name.upper() in ("UCF-101", "UCF101"))
        return _in_folder(source, is_ucf101, root)
    if not source.is_file():
        raise UserError(f"{source} is neither a folder nor a file; give a folder of videos or a list of them")
    if source.suffix.lower() in LISTS:
        return _in_list(source, layout)
    if source.suffix.lower() in MEDIA:
        return iter([Found(os.path.relpath(source, root))])
    raise UserError(f"{source} is no list of videos; those end with {', '.join(LISTS)}")


# --- folders ---------------------------------------------------------------------------------------------------------


def _in_folder(folder: Path, is_ucf101: bool, root: str | Path) -> Iterator[Found]:
    found = others = 0
    closed: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative, beside = os.path.relpath(place, root), frozenset(names)
        for name in sorted(names):
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() not in MEDIA:
                others += not name.endswith(".txt")
                continue
            found += 1
            caption = words_of(os.path.basename(place)) if is_ucf101 else _text_beside(place, name, beside)
            path = name if relative == "." else os.path.join(relative, name)
            yield Found(path, [caption], problem=_problem_of_name(name))
    for error in closed:
        if error.filename == os.fspath(folder):
            raise UserError(f"{folder} cannot be looked into ({reason(error)})")
        found += 1
        path = os.path.relpath(error.filename, root)
        yield Found(path, problem=f"index: this folder cannot be looked into ({reason(error)})")
    if others:
        logger.info("%s: %d files are no videos or pictures by their names and are left out", folder, others)
    if not found:
        raise UserError(f"{folder} has no videos or pictures in it or in its folders")


def words_of(name: str) -> str:
    """The words of a class's name: ``ApplyEyeMakeup`` is ``apply eye makeup``."""
    return " ".join(_WORDS.findall(name)).lower() or name


def _text_beside(place: str, name: str, names: Set[str]) -> str:
    text = os.path.splitext(name)[0] + ".txt"
    if text not in names:
        return ""
    try:
        return " ".join("".join(lines_of(os.path.join(place, text))).split())
    except UserError as error:
        logger.warning("no caption for %s: %s", os.path.join(place, name), error)
        return ""


def _problem_of_name(name: str) -> str:
    if CONTROL.search(name):
        return "index: its name has a line break or control character; rename it"
    if to_text(name) != name:
        return "index: its name is not UTF-8 text, or begins or ends with blanks; rename it"
    return ""


# --- lists -----------------------------------------------------------------------------------------------------------


def _in_list(source: Path, layout: str) -> Iterator[Found]:
    text = "".join(lines_of(source))
    content = _records(source, text)
    if isinstance(content, dict) and layout != "list":
        for names in MSRVTT:
            if {names.videos, names.sentences} <= content.keys():
                return _msrvtt(source, content, names)
    if layout == "msrvtt":
        raise UserError(f"{source} has no videos and sentences, as the annotations of MSR-VTT have")
    if isinstance(content, dict):
        # {"a.mp4": "caption", ...}, or one object that holds the list
        inner = [value for value in content.values() if isinstance(value, list)]
        several = len(inner) == 1 and all(isinstance(item, dict) for item in inner[0])
        content = inner[0] if several else [{VIDEO: name, CAPTION: value} for name, value in content.items()]
    return (_entry(source, number, entry) for number, entry in enumerate(content, start=1))


def _records(source: Path, text: str) -> dict | list:
    try:
        return _object(json.loads(text))
    except (ValueError, RecursionError) as error:
        if source.suffix.lower() == ".json":
            raise UserError(f"{source} is not JSON: {error}") from error
    return [_line(line) for line in text.splitlines() if line.strip()]


def _object(content: object) -> dict | list:
    if not isinstance(content, dict | list):
        raise ValueError("it is neither an object nor a list")
    return content


def _line(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return UserError(f"is not JSON: {error}")


def _entry(source: Path, number: int, entry: object) -> Found:
    """An object of a list; what cannot be understood is kept as a row with a problem."""
    where = f"entry {number} of {source.name}"
    if isinstance(entry, str):
        return Found(entry)
    if not isinstance(entry, dict):
        why = str(entry) if isinstance(entry, UserError) else "is no object"
        return Found("", problem=f"index: {where} {why}")
    video = next((key for key in VIDEO_KEYS if isinstance(entry.get(key), str)), None)
    if video is None:
        return Found("", more=_more(entry, ()), problem=f"index: {where} names no video ({', '.join(VIDEO_KEYS[:3])})")
    caption = next((key for key in CAPTION_KEYS if entry.get(key)), None)
    captions = entry[caption] if caption else []
    captions = [captions] if not isinstance(captions, list) else captions
    texts = [text for text in captions if isinstance(text, str)]
    return Found(entry[video], texts, _more(entry, (video, caption)))


def _more(entry: Mapping[str, object], known: Sequence[str | None]) -> Row:
    """What else an object says, under its own names; lists and objects as JSON."""
    return {
        to_text(name): to_text(value if isinstance(value, str | int | float) else json.dumps(value))
        for name, value in entry.items()
        if name not in (*known, VIDEO, CAPTION, PROBLEM) and value is not None
    }


@dataclass(frozen=True)
class _Names:
    """What the annotations of MSR-VTT call their parts."""

    videos: str
    id: str
    sentences: str
    video_of: str


# As they were published, and as they are packed with the videos.
MSRVTT = (_Names("videos", "video_id", "sentences", "video_id"), _Names("images", "id", "annotations", "image_id"))


def _msrvtt(source: Path, content: Mapping[str, object], names: _Names) -> Iterator[Found]:
    """The annotations of MSR-VTT: videos, some with ``category`` and ``split``, and sentences on them."""
    captions: dict[str, list[str]] = {}
    try:
        for sentence in content[names.sentences]:
            captions.setdefault(sentence[names.video_of], []).append(sentence["caption"])
        for video in content[names.videos]:
            name = video[names.id]
            more = {key: to_text(video[key]) for key in ("category", "split") if key in video}
            yield Found(f"{name}.mp4", captions.get(name, []), more)
    except (LookupError, TypeError) as error:
        raise UserError(f"{source} is not as the annotations of MSR-VTT are: {error!r} is missing") from error
