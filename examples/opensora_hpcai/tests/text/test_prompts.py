import pytest

from mindone.errors import UserError
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


def test_empty_prompts_of_a_table_and_the_word_nan_are_counted(tmp_path, caplog):
    path = tmp_path / "prompts.csv"
    path.write_text("video,caption\na,one\nb,\nc,NaN\n")
    assert read_prompts(path) == ["one", "NaN"]
    assert "2 of 3 prompts are empty" in caplog.text


def test_comments_of_a_text_file_are_left_out(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# circles\n#\na red circle # not blue\n  #a cat\n\\#sunset\n")
    assert read_prompts(path) == ["a red circle # not blue", "#sunset"]


def test_only_line_ends_end_a_prompt(tmp_path):
    odd = "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i"
    path = tmp_path / "prompts.txt"
    path.write_bytes(f"{odd}\r\nsecond\rthird\n".encode())
    assert read_prompts(path) == [odd, "second", "third"]


def test_a_comma_in_a_csv_prompt_is_never_cut_off(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("caption\na red circle, which moves left\n")
    with pytest.raises(UserError, match="line 2 has 2 cells, but the header has 1 .* double quotes"):
        read_prompts(path)
    path.write_text('caption\n"a red circle, which moves left"\n# not a comment in a table\n')
    assert read_prompts(path) == ["a red circle, which moves left", "# not a comment in a table"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a red circle caf\udce9", "prompt 2 has the byte 0xe9, which is not UTF-8, behind 'a red circle caf'"),
        ("\ud83d face", r"prompt 2 has one half of a character \(.ud83d\)"),
        ("a\0b", "prompt 2 has a NUL character"),
    ],
)
def test_prompts_that_are_no_text_are_refused(prompt, message):
    with pytest.raises(UserError, match=message):
        collect_prompts(["caf\u00e9 \U0001f600", prompt], None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n \n", "no prompt"),
        ("comments.txt", b"# a\n", "no prompt"),
        ("binary.txt", b"a\nb\0c\n", "line 2 has a NUL character"),
        ("empty.csv", b"caption\n", "no rows"),
        ("blank.csv", b"video,caption\na,\n", "no prompt"),
        ("other.csv", b"video,text\na.mp4,hello\n", "caption"),
        ("nothing.csv", b"", "is empty"),
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
