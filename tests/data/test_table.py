import pytest

from mindone.data.table import read_table, read_video_table, shard
from mindone.errors import UserError


def table(tmp_path, text: str):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_have_paths_below_the_folder_and_captions(tmp_path):
    path = table(tmp_path, 'video,caption\na/b.mp4,"a dog, running"\nc,NA\nd_0.5,x\n')
    rows = read_video_table(path, tmp_path / "videos")
    assert [row.relative for row in rows] == ["a/b.mp4", "c.mp4", "d_0.5.mp4"]
    assert rows[0].file == tmp_path / "videos/a/b.mp4"
    assert [row.caption for row in rows] == ["a dog, running", "NA", "x"]
    assert rows[0].fps is None


def test_without_a_folder_paths_are_relative_to_the_table(tmp_path):
    assert read_video_table(table(tmp_path, "video,caption\na.mp4,x\n"))[0].file == tmp_path / "a.mp4"


def test_an_autoencoder_table_has_its_videos_in_the_first_column(tmp_path):
    rows = read_video_table(table(tmp_path, "path,size\na.mp4,3\n"), video_column=None, caption_column=None)
    assert rows[0].relative == "a.mp4" and rows[0].caption == ""


def test_columns_can_have_other_names_and_rates(tmp_path):
    rows = read_video_table(table(tmp_path, "file,text,fps\na.mp4,x,12.5\n"), None, "file", "text")
    assert rows[0].caption == "x" and rows[0].fps == 12.5


def test_an_absolute_path_inside_the_folder_is_taken(tmp_path):
    path = table(tmp_path, f"video,caption\n{tmp_path}/v/a.mp4,x\n")
    assert read_video_table(path, tmp_path / "v")[0].relative == "a.mp4"


@pytest.mark.parametrize("video", ["../a.mp4", "/etc/passwd", "a/../../b.mp4", "."])
def test_paths_cannot_leave_the_folder(tmp_path, video):
    with pytest.raises(UserError, match="row 1: the path .* leaves the folder"):
        read_video_table(table(tmp_path, f"video,caption\n{video},x\n"), tmp_path / "v")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,text\na.mp4,x\n", 'has no column "caption"; it has: video, text'),
        ("video,caption\n", "has no rows"),
        ("", "is not a readable CSV"),
        ('video,caption\n"a,b\n', "is not a readable CSV"),
        ("video,caption\n,x\n", "row 1 has no video path"),
        ("video,caption,fps\na,x,fast\n", "row 1: fps=fast is not a number"),
    ],
)
def test_wrong_tables_are_one_clear_sentence(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_video_table(table(tmp_path, text))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match="none.csv is not a file"):
        read_table(tmp_path / "none.csv")


def test_shards_cover_all_rows_once():
    rows = list(range(7))
    assert sorted(shard(rows, 0, 3) + shard(rows, 1, 3) + shard(rows, 2, 3)) == rows
