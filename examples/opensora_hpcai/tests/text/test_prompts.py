import pytest

from mindone.errors import UserError
from opensora.text.cleaning import cleaner
from opensora.text.prompts import append_scores, collect_prompts, read_prompts


def test_a_text_file_has_one_prompt_per_line_and_blank_lines_do_not_count(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle moves left\n\n   \n  a cat \n", encoding="utf-8")
    assert read_prompts(path) == ["a red circle moves left", "a cat"]
    assert collect_prompts(["ignored"], str(path)) == ["a red circle moves left", "a cat"]


def test_a_csv_gives_its_caption_column(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text('\ufeffvideo,caption\na.mp4,"one, two"\nb.mp4,\nc.mp4,three\n', encoding="utf-8")
    assert read_prompts(path) == ["one, two", "three"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n \n", "no prompt"),
        ("empty.csv", b"caption\n", "no prompt"),
        ("other.csv", b"video,text\na.mp4,hello\n", "caption"),
        ("nothing.csv", b"", "caption"),
        ("latin.txt", "caf\u00e9".encode("latin-1"), "UTF-8"),
    ],
)
def test_prompt_files_that_cannot_be_used_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(path)


def test_a_missing_file_or_no_prompt_at_all_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a file"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(UserError, match="captions"):
        collect_prompts([" ", ""], None)


def test_scores_are_appended_in_the_words_of_training():
    assert (
        append_scores("A cat runs.", 6.5, 4, "pan right")
        == "A cat runs. aesthetic score: 6.5. motion score: 4.0. camera motion: pan right."
    )
    assert append_scores("a cat") == "a cat"
    assert append_scores("a cat", 0.0) == "a cat aesthetic score: 0.0."


def test_a_score_the_prompt_already_names_is_not_repeated():
    prompt = "x motion score: 3.0. camera motion: pan left."
    assert append_scores(prompt, 5.25, 0.04, "static") == prompt + " aesthetic score: 5.2."


def test_an_unknown_camera_motion_is_refused():
    with pytest.raises(UserError, match="zoom in"):
        append_scores("a cat", camera="roll")


def test_basic_cleaning_lowers_and_unescapes():
    assert cleaner("basic")(" A Cat &amp;amp; a DOG ") == "a cat & a dog"
    assert cleaner("none")(" A Cat ") == " A Cat "
    with pytest.raises(UserError, match="basic"):
        cleaner("thorough")
