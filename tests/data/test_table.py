import codecs
import logging

import pytest

from mindone.data.table import read_header, read_table, read_video_table, shard
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
    with pytest.raises(UserError, match="line 2: the path .* leaves the folder"):
        read_video_table(table(tmp_path, f"video,caption\n{video},x\n"), tmp_path / "v")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,text\na.mp4,x\n", 'has no column "caption"; it has: video, text'),
        ("video,caption\n", "has no rows"),
        ("", "is empty"),
        ("\n \n,,\n", "is empty"),
        ("video,caption\n,x\n", "line 2 has no video path"),
        ("video,caption,video\na,b,c\n", 'has the column "video" more than once'),
        (
            "video,caption\na.mp4,x\n\nb.mp4,a red circle, moves left\n",
            r"line 4 has 3 cells, .* has 2 \(video, caption\)",
        ),
        ("caption,video\na red circle, moves left,0.mp4\n", "line 2 has 3 cells, .* put a cell with commas"),
        ("video,caption\na.mp4,x,\n", "line 2 has 3 cells"),
        ("video,caption\na.mp4\n", "line 2 has 1 cell, "),
        ('video,caption\na.mp4,x\n"b.mp4,y\n', "line 3: a cell begins with a quote that is never closed"),
        ('video,caption\na.mp4,"x\nb.mp4,"y"\n', "lines 2 to 3: there is text behind the closing quote"),
        ('video,caption\na.mp4,"x \\"red\\" y"\n', "line 2: there is text behind the closing quote"),
        ('video,caption\n"a\nb.mp4",y\n', "has a line break"),
        ("video,caption\na.mp4,a red\0circle\n", "line 2 has a NUL character"),
        ('video,caption\na.mp4,"' + "x" * 200_000, "a cell is longer than 131072 characters"),
        ("x" * 200_000, "line 1: a cell is longer than 131072 characters"),
        (
            "a,\x1b[31mb," + ",".join(map(str, range(999))),
            r'has no column "video"; it has: a, \?\[31mb, 0, .{150,200}\.\.\.$',
        ),
    ],
)
def test_wrong_tables_are_one_clear_sentence(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_video_table(table(tmp_path, text))


@pytest.mark.parametrize("name", ["fps", "num_frames", "height", "width"])
@pytest.mark.parametrize("cell", ["nan", "inf", "-3", "0", "fast", "1e999", "1_0", "0x10", "2,5", "9" * 400])
def test_numbers_have_to_be_positive(tmp_path, name, cell):
    with pytest.raises(UserError, match=f"line 3: {name}={cell[:20]}.* is not a positive"):
        read_video_table(table(tmp_path, f'video,caption,{name}\na,x,8\nb,y,"{cell}"\n'))


def test_frames_and_sizes_are_read_if_they_are_there(tmp_path):
    rows = read_video_table(table(tmp_path, "video,caption,width,fps,num_frames\na,x,640,29.97,51.0\nb,y,,,\n"))
    assert [row[3:8] for row in rows] == [(29.97, 51, None, 640, 2), (None, None, None, None, 3)]
    with pytest.raises(UserError, match=r"num_frames=51.5 is not a positive whole number"):
        read_video_table(table(tmp_path, "video,caption,num_frames\na,x,51.5\n"))


def test_quoted_cells_may_hold_anything(tmp_path):
    cells = ["a, b", 'a "red" circle', "two\nlines", "semi;colon", "a\x0b\x0c\x1c\x85\u2028 between"]
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    text = "video,caption\r\n" + "".join(f"{number}.mp4, {cell}\r\n" for number, cell in enumerate(quoted))
    rows = read_video_table(table(tmp_path, text))
    assert [row.caption.replace("\r\n", "\n") for row in rows] == cells
    assert [row.line for row in rows] == [2, 3, 4, 6, 7]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_tables_of_spreadsheets_may_be_separated_otherwise(tmp_path, separator):
    text = separator.join(("video", "caption")) + "\n" + separator.join(("a.mp4", "one, two")) + "\n"
    assert read_video_table(table(tmp_path, text))[0].caption == "one, two"
    with pytest.raises(UserError, match="line 2 has 1 cell, but"):
        read_video_table(table(tmp_path, f"video{separator}caption\na.mp4,x\n"))


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
    ],
)
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding, mark):
    path = tmp_path / "table.csv"
    path.write_bytes(mark + "video,caption\na.mp4,caf\u00e9\n".encode(encoding))
    assert read_video_table(path)[0].caption == "caf\u00e9"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"video,caption\na.mp4,x\nb.mp4,caf\xe9\n", "line 3: the byte 0xe9 is not UTF-8"),
        (codecs.BOM_UTF8 + b"video,caption\r\na.mp4,\xff\n", "line 2: the byte 0xff is not UTF-8"),
        ("video,caption\na,x\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (codecs.BOM_UTF16_LE + b"a\0,\0\0\xd8", "UTF-16 text but is damaged"),
        (b"PK\x03\x04" + bytes(99), "an Excel workbook"),
        (b"\xd0\xcf\x11\xe0" + bytes(99), "an old Excel workbook"),
        (b"\x1f\x8b" + bytes(99), "compressed by gzip"),
        (b"PAR1" + bytes(99), "a Parquet file"),
    ],
)
def test_files_that_are_no_tables_are_named_as_what_they_are(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_table(path)


def test_missing_captions_are_counted_and_can_be_left_out(tmp_path, caplog):
    path = table(tmp_path, "video,caption\na,x\nb,\nc,NaN\nd, none \ne,nand gate\n")
    with caplog.at_level(logging.WARNING):
        assert len(read_video_table(path)) == 5
    assert "3 of 5 rows have no caption" in caplog.text and "the first is line 3" in caplog.text
    assert [row.relative for row in read_video_table(path, drop_without_caption=True)] == ["a.mp4", "e.mp4"]
    with pytest.raises(UserError, match="no row with a caption"):
        read_video_table(table(tmp_path, "video,caption\na,\n"), drop_without_caption=True)


def test_a_whole_table_has_columns(tmp_path):
    path = table(tmp_path, ",a,b\n0,1,2\n\n1, 3 ,4\n")
    whole = read_table(path, ["b"])
    assert (whole.columns, whole.column("a"), whole.lines, len(whole)) == (["", "a", "b"], ["1", "3"], [2, 4], 2)
    assert read_header(path) == whole.columns


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match="none.csv is not a file"):
        read_table(tmp_path / "none.csv")


def test_shards_cover_all_rows_once():
    rows = list(range(7))
    assert sorted(shard(rows, 0, 3) + shard(rows, 1, 3) + shard(rows, 2, 3)) == rows


def test_the_motion_of_a_video_may_be_nothing_at_all(tmp_path):
    rows = read_video_table(table(tmp_path, "video,caption,score_vmafmotion\na,x,0\nb,y,2.5\nc,z,\n"))
    assert [row.motion for row in rows] == [0.0, 2.5, None]
    with pytest.raises(UserError, match="line 2: score_vmafmotion=-1 is not a number, at least 0"):
        read_video_table(table(tmp_path, "video,caption,score_vmafmotion\na,x,-1\n"))
