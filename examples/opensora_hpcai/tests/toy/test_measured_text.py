"""The score of text against drawn text: what is drawn where, and what the numbers say."""

from collections import Counter

import numpy as np
import pytest

from opensora.cli import open_door
from opensora.config.toy import MeasuredTextConfig
from opensora.data_tools import text_boxes
from opensora.toy.measured_text import NO_TEXT, Seen, clips, lines, on_text
from opensora.toy.writing import BACKGROUNDS, COLOURS, HEIGHT, PLACES, SIZES, WIDTH, background, fonts, written


@pytest.fixture(scope="module")
def made():
    return list(clips(MeasuredTextConfig()))


def test_every_font_comes_in_every_size_and_as_many_clips_have_no_text(made):
    labels = [each for each, _ in made]
    assert Counter(each[:2] for each in labels if each[0] != NO_TEXT) == {
        (font, f"{size:g}"): 1 for font in fonts() for size in SIZES
    }
    assert sum(each[0] == NO_TEXT for each in labels) == len(fonts()) * len(SIZES)
    for place, values in ((2, COLOURS), (3, BACKGROUNDS), (4, PLACES)):
        counts = Counter(each[place] for each in labels if each[0] != NO_TEXT)
        assert counts.keys() == set(values) and max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("has_edge", [True, False])
def test_text_is_where_its_boxes_say_and_nowhere_else(place, has_edge):
    before = background("leaves", np.random.default_rng(0))
    after = written(before, fonts()["Pillow's own"]("Abc", 30), "white", has_edge, place)
    for old, new, (left, top, right, bottom) in zip(before, after.frames, after.boxes):
        changed = (old != new).any(-1)
        assert changed[top:bottom, left:right].mean() > 0.1
        changed[top:bottom, left:right] = False
        assert not changed.any()
    assert (after.boxes[0] == after.boxes[1]) == (place != "moving")


def test_backgrounds_move_and_are_the_same_again():
    for name in BACKGROUNDS:
        first, again = (background(name, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert first.shape == (2, HEIGHT, WIDTH, 3) and (first[0] != first[1]).mean() > 0.3


def test_a_box_is_on_a_text_if_its_middle_is():
    where = (WIDTH // 2, HEIGHT // 2, WIDTH, HEIGHT)
    assert on_text((0.5, 0.5, 1, 1), where) and not on_text((0, 0, 0.9, 0.9), where)


def test_precision_and_recall_are_counted_over_clips():
    text = [Seen("a", "0.1", "red", "plain", "edge", found, found, found) for found in (True, True, True, False)]
    bare = [Seen(NO_TEXT, "", "", "plain", "", False, flagged, False) for flagged in (True, False, False, False)]
    printed = lines([*text, *bare])
    assert "| font a | 4 | 0.75 |" in printed and "| plain | 4 | 1 |" in printed
    assert printed[-1].startswith("precision 0.750, recall 0.750; called a watermark: 3 of 4 texts at an edge")


def test_a_finder_that_sees_white_finds_white_text_alone(monkeypatch, tmp_path, capsys):
    def bright(picture):
        y, x = np.nonzero((picture > 252).all(-1))
        if not len(y):
            return []
        return [tuple(float(each) for each in (x.min() / WIDTH, y.min() / HEIGHT, x.max() / WIDTH, y.max() / HEIGHT))]

    monkeypatch.setattr(text_boxes, "finder", lambda: bright)
    seen = open_door("measure-text", ["--json", str(tmp_path / "seen.json")], "opensora")
    found = [each.found for each in seen if each.colour == "white" and each.background == "plain"]
    assert found and all(found)
    assert "| colour white |" in capsys.readouterr().out and (tmp_path / "seen.json").is_file()
