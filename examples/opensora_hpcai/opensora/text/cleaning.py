"""Bringing a prompt into the form that captions had in training.

Published are two forms: lower case alone, and the rules of `clean_caption`, applied twice. Open-Sora 1.0 cleans every
text that its encoder sees by the rules; 1.1 and 1.2 clean prompts, and captions when the tables are made; 2.0 cleans
nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from urllib.parse import unquote_plus

from mindone.errors import UserError
from opensora.text.repair import repair, without_tags

Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_DOMAIN = r"[a-zA-Z0-9.-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_FILE_TYPES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DASHES = (
    r"\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0\ufe31\ufe32\ufe58"
    r"\ufe63\uff0d"
)

LINKS = _rules(
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN})", ""),
)
CHARACTERS = _rules(
    (r"@\w+\b", ""),
    # strokes and ideographs of Chinese, and the blocks between them
    (r"[\u31c0-\u9fff]+", ""),
    (rf"[{_DASHES}]+", "-"),
    (r"[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    (r"[\u2018\u2019]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    # addresses of computers; the ends of article numbers; line breaks that were written out
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_FILE_TYPES})", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
WORDS = _rules(
    # numbers of articles: jc6640, jc6640vc, 6640vc231
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILE_TYPES})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b[a-zA-Z]*\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    # sizes: 1920x1080, with a Latin or Cyrillic x or a times sign
    (r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b", ""),
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)
ENDS = _rules(
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,:;-]", ""),
    (r"['_,:+-]$", ""),
    (r"^\.\S+$", ""),
)


def basic_clean(text: str) -> str:
    """HTML entities resolved (twice, for captions that were escaped twice), lower case, stripped."""
    return html.unescape(html.unescape(text)).lower().strip()


def repaired(text: str) -> str:
    """Encodings put right and HTML entities resolved: one step of `clean_caption`."""
    return html.unescape(html.unescape(repair(text))).strip()


def clean_caption(text: str) -> str:
    """The caption in lower case, without links, file names, article numbers, advertising and odd punctuation.

    These are the rules that IF and PixArt clean captions by, in their order and with their peculiarities: Chinese
    characters are deleted, and more than three hyphens or underscores become spaces.
    """
    text = unquote_plus(text).strip().lower().replace("<person>", "person")
    text = _applied(CHARACTERS, without_tags(_applied(LINKS, text)))
    if len(re.findall("[-_]", text)) > 3:
        text = re.sub("[-_]", " ", text)
    return _applied(ENDS, _applied(WORDS, repaired(text))).strip()


def full_clean(text: str) -> str:
    """`clean_caption` twice, as it was always used: the first time may uncover what the second takes away."""
    return clean_caption(clean_caption(text))


def _applied(rules: Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


CLEANERS: dict[str, Callable[[str], str]] = {"none": str, "basic": basic_clean, "full": full_clean}


def cleaner(name: str) -> Callable[[str], str]:
    """The cleaning function called ``name``.

    Raises:
        UserError: there is none of that name.
    """
    if name not in CLEANERS:
        raise UserError(f"caption_cleaning={name} is not known; use one of {', '.join(CLEANERS)}")
    return CLEANERS[name]
