import json

import pytest

from mindone.errors import UserError
from opensora.text.lines import line_of, line_of_json, line_of_text
from opensora.text.prompts import collect_lines, read_lines


def values(line):
    return {name: value for name, value in vars(line).items() if value is not None and name not in ("where", "text")}


def test_options_stand_behind_the_text_of_a_prompt():
    line = line_of_text("a cat -- my cat --w 320 --h 240 --f 17 --s 7 --n a dog, blurry --task i2v", "line 1")
    assert line.text == "a cat -- my cat"
    expected = {"width": 320, "height": 240, "num_frames": "17", "seed": 7, "negative": "a dog, blurry", "task": "i2v"}
    assert values(line) == expected
    assert line_of_text("wait \\--fast runs", "line 1").text == "wait --fast runs"


def test_a_table_has_columns_for_what_stands_beside_a_prompt(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    path = tmp_path / "p.csv"
    path.write_text(
        "caption,reference,mask_strategy,negative,seed,image_size,num_frames,note\n"
        "a cat,a.png;b.png,0,,3,240x320,2s,x\na dog,,,ugly,,,,\n"
    )
    cat, dog = read_lines(path)
    assert (cat.text, dog.text) == ("a cat", "a dog")
    assert values(cat) == {
        "reference_path": f"{tmp_path / 'a.png'};b.png",
        "mask_strategy": "0",
        "seed": 3,
        "height": 240,
        "width": 320,
        "num_frames": "2s",
    }
    assert values(dog) == {"negative": "ugly"}


def test_lines_of_json_have_the_same_keys(tmp_path):
    path = tmp_path / "p.jsonl"
    lines = [
        {"prompt": "a cat", "reference_path": ["a.png", "b.png"], "height": 240, "width": 320, "seed": 5},
        {"caption": "a dog", "image_size": [64, 96], "num_frames": 17, "negative": None},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    cat, dog = read_lines(path)
    assert values(cat) == {"reference_path": "a.png;b.png", "height": 240, "width": 320, "seed": 5}
    assert values(dog) == {"height": 64, "width": 96, "num_frames": "17"}


def test_json_at_the_end_of_a_prompt_says_its_reference():
    (line,) = collect_lines(['a cat{"reference_path": "a.png", "mask_strategy": "0"} '], None)
    assert (line.text, line.reference_path, line.mask_strategy) == ("a cat", "a.png", "0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat --fast 3", "line 4: --fast is not known; use one of --w"),
        ("a cat --w", "--w has no value"),
        ("a cat --w 320", "a height or a width alone"),
        ("--w 320 --h 240", "has options, but no prompt"),
        ("a cat --s -1", "seed=-1 has to be a whole number from 0 on"),
        ("a cat --w 3.5 --h 2", "width=3.5 has to be a whole number"),
        ("a cat --s 1 --seed 2", "says seed twice"),
        ("a cat --image_size 1x2x3", "one number, or two"),
        ("a cat --image_size 64 --h 64", "one of them is enough"),
        ('a cat{"mask_strategy": 3}', "have to be texts"),
    ],
)
def test_options_that_cannot_be_read_are_refused_with_their_line(text, message):
    with pytest.raises(UserError, match=message):
        line_of_text(text, "line 4")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "no JSON object"),
        ({"seed": 3}, "has no text; give it as one of caption, prompt, text"),
        ({"prompt": "a", "text": "b"}, "has no text; give it as one of"),
        ({"prompt": "a", "size": 3}, "has size; known are"),
        ({"prompt": "a", "seed": {}}, "seed is neither a text nor a number"),
        ({"prompt": "a", "seed": True}, "seed is neither"),
    ],
)
def test_json_that_is_no_prompt_is_refused(found, message):
    with pytest.raises(UserError, match=message):
        line_of_json(found, "line 1")


def test_a_file_that_is_not_json_is_refused_with_the_line(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": }\n')
    with pytest.raises(UserError, match="p.jsonl, line 2 is not JSON"):
        read_lines(path)
    path.write_text('{"prompt": "\\ud800"}\n')
    with pytest.raises(UserError, match="one half of a character"):
        read_lines(path)


def test_what_is_said_twice_is_refused():
    with pytest.raises(UserError, match="line 1 says reference_path twice"):
        line_of("a", {"reference": "a.png", "reference_path": "b.png"}, "line 1")
