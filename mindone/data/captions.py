"""Text in pictures: lines of a given width in the fonts that the machine has; nothing is cut or drawn as a box."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from functools import lru_cache
from itertools import groupby

from PIL import ImageDraw, ImageFont

# Fonts of many alphabets that systems install under these names; Pillow knows where systems keep fonts.
FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "unifont.otf",
    "Arial Unicode.ttf",
)
NO_CHARACTER = "\U0010ffff"
# They join or style their neighbours and have no picture of their own.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff]")


@lru_cache
def fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    """The fonts of `FONTS` that there are, and Pillow's own, which knows hardly more than ASCII."""
    found = []
    for name in FONTS:
        with contextlib.suppress(OSError):
            found.append(ImageFont.truetype(name, size))
    return (*found, ImageFont.load_default(size))


@lru_cache(maxsize=4096)
def font_of(char: str, size: int) -> ImageFont.FreeTypeFont | None:
    """The first font that has a picture of the character; None if none has."""
    return next((font for font in fonts(size) if _picture(font, char) != _picture(font, NO_CHARACTER)), None)


def _picture(font: ImageFont.FreeTypeFont, char: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(char)
    return mask.size, bytes(mask)


def drawable(text: str, size: int) -> str:
    """The text with single spaces, and with escapes such as ``\\u4e2d`` in place of characters that no font has."""
    plain = " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())
    return "".join(char if font_of(char, size) else char.encode("unicode_escape").decode() for char in plain)


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Lines of `drawable` text, at most ``width`` pixels wide unless one character is wider; a line break is kept."""
    lines = []
    for part in text.split("\n"):
        line = ""
        for word in drawable(part, size).split(" "):
            longer = f"{line} {word}" if line else word
            if _length(longer, size) <= width:
                line = longer
                continue
            lines += [line] if line else []
            *full, line = _broken(word, width, size)
            lines += full
        lines.append(line)
    return lines


def _broken(word: str, width: int, size: int) -> list[str]:
    """A word in pieces that fit, for a script without spaces has long ones."""
    pieces = [""]
    for char in word:
        if pieces[-1] and _length(pieces[-1] + char, size) > width:
            pieces.append("")
        pieces[-1] += char
    return pieces


def draw_line(draw: ImageDraw.ImageDraw, x: float, baseline: float, line: str, size: int, color) -> None:
    """Draws `drawable` text that begins at ``x`` and stands on ``baseline``."""
    for font, run in _runs(line, size):
        draw.text((x, baseline), run, color, font, anchor="ls")
        x += font.getlength(run)


def _length(line: str, size: int) -> float:
    return sum(font.getlength(run) for font, run in _runs(line, size))


def _runs(line: str, size: int):
    """The line in parts of one font each, as (font, text)."""
    return ((font, "".join(chars)) for font, chars in groupby(line, lambda char: font_of(char, size)))
