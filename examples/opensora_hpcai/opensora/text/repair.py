"""Text as it was meant: what encodings and web pages did to it is undone, without any further package.

The rules are those that the published caption cleaning takes from ftfy (its defaults) and Beautiful Soup (its text with
Python's own parser). One is narrower: of UTF-8 that was read as Windows-1252 only the sequences of European letters,
punctuation, symbols and emoji are put right, while ftfy weighs whole texts and knows further encodings.
"""

from __future__ import annotations

import html
import re
import unicodedata
from html.entities import html5
from html.parser import HTMLParser

_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_C1_CONTROL = re.compile("[\x80-\x9f]")
_LIGATURE = re.compile("[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06]")
_WIDE_OR_NARROW = re.compile("[\u3000\uff01-\uffef]")
_SINGLE_QUOTE = re.compile("[\u02bc\u2018-\u201b]")
_DOUBLE_QUOTE = re.compile("[\u201c-\u201f]")
_LINE_BREAK = re.compile("\r\n|[\r\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]")
_TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-9;]*[a-zA-Z]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")


def _windows_1252(byte: int) -> str:
    """The character that a byte is read as; those without one in Windows-1252 are read as in Latin-1."""
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


# As Windows-1252 shows them, and as Latin-1 does.
_BYTES = {form: byte for byte in range(0x80, 0x100) for form in (_windows_1252(byte), chr(byte))}
_NEXT = "[" + "".join(sorted(form for form, byte in _BYTES.items() if byte < 0xC0)) + "]"
# The first bytes of two, three and four: accented letters; punctuation, symbols, Japanese, wide forms; emoji.
_MISREAD = re.compile(f"[\xc2\xc3]{_NEXT}|[\xe2\xe3\xef]{_NEXT}{{2}}|\xf0{_NEXT}{{3}}")


def repair(text: str) -> str:
    """Encodings, entities, ligatures, widths, quotes, line ends and control characters put right, in Unicode's NFC."""
    lines = re.split("(?<=\n)", text)
    with_tags = False
    for number, line in enumerate(lines):
        # behind the first tag the text counts as HTML, whose entities stay
        with_tags = with_tags or "<" in line
        lines[number] = _settled(line, unescape=not with_tags)
    return "".join(lines)


def _settled(text: str, unescape: bool) -> str:
    """One line, repaired until nothing changes any more: repairs uncover others."""
    while True:
        before = text
        if unescape:
            text = _ENTITY.sub(lambda match: html.unescape(match.group()), text)
        text = _MISREAD.sub(_reread, text)
        text = _C1_CONTROL.sub(lambda match: _windows_1252(ord(match.group())), text)
        for pattern in (_LIGATURE, _WIDE_OR_NARROW):
            text = pattern.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text)
        text = _DOUBLE_QUOTE.sub('"', _SINGLE_QUOTE.sub("'", text))
        text = _SURROGATES.sub(_joined, _LINE_BREAK.sub("\n", text))
        text = unicodedata.normalize("NFC", _CONTROL.sub("", _TERMINAL_ESCAPE.sub("", text)))
        if text == before:
            return text


def _reread(match: re.Match[str]) -> str:
    try:
        return bytes(_BYTES[char] for char in match.group()).decode("utf-8")
    except UnicodeDecodeError:
        return match.group()


def _joined(match: re.Match[str]) -> str:
    pair = match.group()
    return pair.encode("utf-16", "surrogatepass").decode("utf-16") if len(pair) == 2 else "\ufffd"


def without_tags(text: str) -> str:
    """The text of a piece of HTML; what is no tag stays, scripts, styles and comments go.

    Raises nothing: a text that the parser cannot make sense of stays as it is.
    """
    parser = _Text()
    try:
        parser.feed(text)
        parser.close()
    except AssertionError:  # what the parser raises for declarations that it does not know
        return text
    return "".join(parser.pieces)


class _Text(HTMLParser):
    """Collects the text between tags, outside of elements whose content is not shown as text."""

    HIDDEN = frozenset(("script", "style", "template", "rt", "rp"))
    EMPTY = frozenset(
        ("area", "base", "br", "col", "embed", "hr", "img", "input", "keygen", "link", "menuitem", "meta")
    )
    EMPTY |= frozenset(("param", "source", "track", "wbr", "basefont", "bgsound", "command", "frame", "image"))
    EMPTY |= frozenset(("isindex", "nextid", "spacer"))

    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.pieces: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.HIDDEN.isdisjoint(self.open):
            self.pieces.append(data)

    def handle_charref(self, name: str) -> None:
        digits, base = (name[1:], 16) if name[:1] in "xX" else (name, 10)
        try:
            code = int(digits, base)
            self.handle_data(_windows_1252(code) if 0 <= code < 256 else chr(code))
        except (ValueError, OverflowError):
            self.handle_data("\ufffd")

    def handle_entityref(self, name: str) -> None:
        self.handle_data(html5.get(f"{name};", f"&{name}"))

    def unknown_decl(self, data: str) -> None:
        if data.upper().startswith("CDATA["):
            self.pieces.append(data[len("CDATA[") :])
