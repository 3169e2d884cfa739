"""Text files that people made: whatever their encoding, read line by line, with errors that name the line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from mindone.errors import UserError

# The longest first: a UTF-32 mark begins like a UTF-16 one.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

OTHER_KINDS = (
    (b"PK\x03\x04", "an Excel workbook or another zip file; export it as text (in Excel: CSV UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; export it as text (in Excel: CSV UTF-8)"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"PAR1", "a Parquet file; export it as CSV"),
    (b"%PDF", "a PDF file; save its text as UTF-8"),
    (b"{\\rtf", "a rich text file; save it as plain text in UTF-8"),
)


def lines_of(path: str | Path) -> Iterator[str]:
    r"""The lines of a text file, each with its line end: ``\n``, ``\r\n`` or ``\r``, and no other character.

    It is UTF-8, or UTF-16 or UTF-32 if a byte order mark says so.

    Raises:
        UserError: the file cannot be opened, is of another kind, has bytes that are no text, or a NUL character.
    """
    encoding = "utf-8"
    try:
        encoding = _encoding(path)
        with open(path, encoding=encoding, newline="") as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise UserError(
                        f"{path}, line {number} has a NUL character: it is no text, or UTF-16 without a byte order "
                        "mark; save it as UTF-8"
                    )
                yield line
    except UnicodeDecodeError as error:
        raise UserError(_undecodable(path, encoding)) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _encoding(path: str | Path) -> str:
    with open(path, "rb") as file:
        start = file.read(16)
    for magic, kind in OTHER_KINDS:
        if start.startswith(magic):
            raise UserError(f"{path} is {kind}")
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")


def _undecodable(path: str | Path, encoding: str) -> str:
    """The message for a file that is not in its encoding: the decoder knows the place within a block only."""
    content = Path(path).read_bytes()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        if not encoding.startswith("utf-8"):
            return f"{path} begins as {encoding.upper()} text but is damaged at byte {error.start}; save it as UTF-8"
        # With a byte order mark the decoder counts from behind it.
        place = error.start + (len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
        line = content[:place].replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
        return f"{path}, line {line}: the byte 0x{content[place]:02x} is not UTF-8 text; save the file as UTF-8"
    return f"{path} was changed while it was read"
