import numpy as np
import pytest
from PIL import Image, ImageDraw

from mindone.data import captions
from mindone.data.captions import draw_line, drawable, font_of, wrapped

SIZE = 12
TEXT = "caf\u00e9 cafe\u0301 \u4e2d\u6587 \U0001f680 \ue123 \u0636 a\u200db"


@pytest.fixture(params=["fonts of the machine", "no fonts"])
def fonts(request, monkeypatch):
    if request.param == "no fonts":
        monkeypatch.setattr(captions, "FONTS", ())
    clear()
    yield request.param
    clear()


def clear():
    captions.fonts.cache_clear()
    font_of.cache_clear()


def test_no_character_is_drawn_as_a_box(fonts):
    text = drawable(TEXT, SIZE)
    assert all(font_of(char, SIZE) for char in text)
    first, second, *_, private, _, joined = text.split()
    assert first == second
    assert (private, joined) == (r"\ue123", "ab")
    if fonts == "no fonts":
        assert text == r"caf\xe9 caf\xe9 \u4e2d\u6587 \U0001f680 \ue123 \u0636 ab"


@pytest.mark.parametrize("text", ["a red circle moves left " * 9, "x" * 200, "\u4e2d\u6587" * 50, f"{TEXT} " * 5])
def test_lines_fit_and_nothing_is_lost(fonts, text):
    lines = wrapped(text, 150, SIZE)
    assert len(lines) > 1
    assert max(captions._length(line, SIZE) for line in lines) <= 150
    assert "".join(lines).replace(" ", "") == drawable(text, SIZE).replace(" ", "")


def test_a_line_break_is_kept_and_other_spaces_are_one():
    assert wrapped("a  b\t\u2028c\nseed 1", 500, SIZE) == ["a b c", "seed 1"]
    assert wrapped("", 500, SIZE) == [""]


def test_a_line_stands_on_its_baseline_from_left_to_right(fonts):
    picture = Image.new("L", (200, 40), 255)
    draw_line(ImageDraw.Draw(picture), 10, 25, drawable(f"H{TEXT}H", SIZE), SIZE, 0)
    rows, columns = np.nonzero(np.asarray(picture) < 128)
    assert 10 <= columns.min() <= 13 and columns.max() > 60
    assert rows.min() > 25 - 2 * SIZE and rows.max() < 25 + SIZE
