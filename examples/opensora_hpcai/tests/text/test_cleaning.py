import pytest

from mindone.errors import UserError
from opensora.text.cleaning import clean_caption, cleaner, full_clean, repaired
from opensora.text.repair import repair, without_tags


@pytest.mark.golden("data_caption_cleaning")
def test_captions_are_cleaned_as_published(golden_case):
    rows = golden_case.sidecar["rows"]
    assert len(rows) > 90
    for row in rows:
        got = {"basic": repaired, "cleaned_once": clean_caption, "cleaned": full_clean}
        assert {name: clean(row["text"]) for name, clean in got.items()} == {name: row[name] for name in got}


def test_cleanings_go_by_name():
    assert cleaner("basic")(" A Cat &amp;amp; a DOG ") == "a cat & a dog"
    assert cleaner("none")(" A Cat ") == " A Cat "
    assert cleaner("full")("A cat, see https://cats.com (free download)") == "a cat, see"
    with pytest.raises(UserError, match="use one of none, basic, full"):
        cleaner("thorough")


def test_scores_survive_the_full_cleaning():
    prompt = "A sea. aesthetic score: 6.5. motion score: 4.0. camera motion: pan left."
    assert full_clean(prompt) == prompt.lower()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don\u2019t \u201cgo\u201d", 'don\'t "go"'),
        ("don\u00e2\u20ac\u2122t", "don't"),
        ("don\u00e2\x80\x99t", "don't"),
        ("caf\u00c3\u00a9 \u00f0\u0178\u02dc\u20ac", "caf\u00e9 \U0001f600"),
        ("voil\u00e0\u00a0\u00bb", "voil\u00e0\u00a0\u00bb"),
        ("e\u0301 \ufb01 \uff21\u3000\uff76", "\u00e9 fi A \u30ab"),
        ("\x93hi\x94 \x1b[31mred\x1b[0m\x07\ufeff", '"hi" red'),
        ("a\u2028b\u2029c\rd\r\ne", "a\nb\nc\nd\ne"),
        ("\ud83d\ude00 \ud83d", "\U0001f600 \ufffd"),
        ("&amp;amp;eacute;", "\u00e9"),
        ("&eacute;\n<i>&eacute;", "\u00e9\n<i>&eacute;"),
    ],
)
def test_what_encodings_did_is_undone(text, expected):
    assert repair(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <b>bold</b> & a < b", "a bold & a < b"),
        ("x<script>alert(1)</script><style>b{}</style><!-- c -->y<template>z</template>", "xy"),
        ("&#65;&#x42;&#150;&eacute;&foo; &copyright", "AB\u2013\u00e9&foo &copyright"),
        ("<ruby>a<rt><b>hidden</b></rt></ruby>b</rt>c<![CDATA[d]]>", "abcd"),
        ("<img src=x>seen<br/>too", "seentoo"),
        ("<![unknown x", "<![unknown x"),
        ("&#99999999999;", "\ufffd"),
    ],
)
def test_tags_go_and_text_stays(text, expected):
    assert without_tags(text) == expected
