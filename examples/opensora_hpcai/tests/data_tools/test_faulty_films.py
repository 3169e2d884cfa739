"""Every verb that opens videos, on files that are wrong in every way: a row for each, in order, with a reason."""

import csv
import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mindone.data.video import count_frames
from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.cli import open_door
from opensora.data_tools.listing import listed
from opensora.toy.endpoint import serving

FRAMES = 20
NAMES = (
    "with space",
    "com,ma",
    'quo"te',
    "apos'trophe",
    "caf\u00e9 \u4e2d\u6587 \U0001f600",
    "-dash",
    "=1+1",
    "#?%20",
    "$(x)",
)


def video(count=FRAMES):
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return np.stack([np.roll(picture, at, axis=1) for at in range(count)])


def muxed(path, frames=None, rate=Fraction(8), times=None):
    """Frames, at time stamps in 30ths of a second if there are any; or sound without frames."""
    with av.open(str(path), "w") as container:
        if frames is None:
            sound = container.add_stream("aac", rate=16000)
            sound.layout = "mono"
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux([*sound.encode(frame), *sound.encode()])
            return
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 30)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def turned(film, *matrix):
    """The film's bytes with another display matrix, in 65536ths."""
    content = bytearray(film)
    # tkhd of version 0, ISO 14496-12: the matrix stands 40 bytes into the box's content
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = matrix
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return bytes(content)


def make_files(folder):
    """Files by name, and how many frames each has; 0 for those that cannot be used."""
    folder.mkdir()
    write_video(folder / "good.mp4", video(), 8)
    film = (folder / "good.mp4").read_bytes()
    Image.new("RGB", (40, 30)).save(folder / "picture.png")
    broken = {
        "empty": b"",
        "text": b"hello",
        "random": np.random.default_rng(1).bytes(4000),
        "no_frames": film[: film.index(b"mdat") + 50],
        "head": film[:20],
        "picture": (folder / "picture.png").read_bytes(),
        "turned45": turned(film, 46341, 46341, -46341, 46341),
    }
    right = {"turned90": turned(film, 0, 65536, -65536, 0), "tail": film + b"x" * 99, **dict.fromkeys(NAMES, film)}
    for name, content in {**broken, **right}.items():
        (folder / f"{name}.mp4").write_bytes(content)
    (folder / "folder.mp4").mkdir()
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    os.mkfifo(folder / "pipe.mp4")
    muxed(folder / "sound.mp4")
    muxed(folder / "odd_rate.mp4", video(), Fraction(24000, 1001))
    muxed(folder / "changing_rate.mp4", video(), times=np.cumsum([0, *[1, 5, 2, 9] * 5])[:FRAMES].tolist())
    muxed(folder / "two.mp4", video(2))
    wrong = [*broken, "folder", "gone", "pipe", "sound", "not there"]
    frames = dict.fromkeys(["good", *right, "odd_rate", "changing_rate"], FRAMES) | {"two": 2}
    return {f"{name}.mp4": frames.get(name, 0) for name in sorted([*wrong, *frames])}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("faulty")
    found = make_files(root / "films")
    with open(root / "films.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("video", "number"), *((name, at) for at, name in enumerate(found))])
    return root, found


def rows_of(files, verb, *more):
    root, _ = files
    output = root / f"{verb}.csv"
    where = ["--table", str(root / "films.csv"), "--video_folder", str(root / "films"), "--output", str(output)]
    open_door(f"data {verb}", [*where, *more], "opensora")
    with open(output, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def require_rows(verb, files, rows):
    """No row is lost or in another place, and those of unusable files, and no others, have a reason of this verb."""
    wanted = list(files[1].items())
    assert [int(row["number"]) for row in rows] == list(range(len(wanted)))
    for row, (name, frames) in zip(rows, wanted):
        assert row.get("source") or row["video"] == name
        assert row["problem"].startswith(f"{verb}: ") if frames == 0 else row["problem"] == "", (name, row["problem"])


def test_scenes_keeps_every_row(files):
    pytest.importorskip("scenedetect")
    rows = rows_of(files, "scenes", "--workers", "0")
    require_rows("scenes", files, rows)
    assert [int(row["end_frame"] or 0) for row in rows] == list(files[1].values())


def test_cut_keeps_every_row_and_its_clips_have_the_frames_they_say(files):
    clips = files[0] / "clips"
    rows = rows_of(files, "cut", "--workers", "0", "--output_folder", str(clips))
    require_rows("cut", files, rows)
    assert [int(row["num_frames"] or 0) for row in rows] == list(files[1].values())
    assert all(count_frames(clips / row["video"]) == int(row["num_frames"]) for row in rows if not row["problem"])


def test_score_keeps_every_row(files):
    rows = rows_of(files, "score", "--workers", "0", "--scores", "blur", "bars", "motion", "flow", "phash")
    require_rows("score", files, rows)


def test_camera_keeps_every_row(files):
    require_rows("camera", files, rows_of(files, "camera", "--workers", "0"))


def test_caption_keeps_every_row(files, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        server.reply = lambda number, body: (200, "a picture that moves")
        rows = rows_of(files, "caption", "--endpoint", server.address, "--model", "stub")
    require_rows("caption", files, rows)
    assert all(bool(row["caption"]) == (frames > 0) for row, frames in zip(rows, files[1].values()))


def test_a_film_that_ends_before_its_header_says_is_not_copied_as_a_clip(tmp_path):
    films = tmp_path / "films"
    write_video(films / "short.mp4", video(), 8)
    content = (films / "short.mp4").read_bytes()
    (films / "short.mp4").write_bytes(content[: -len(content) // 4])
    assert 0 < count_frames(films / "short.mp4") < FRAMES
    table, output = tmp_path / "films.csv", tmp_path / "clips.csv"
    table.write_text("video\nshort.mp4\n")
    where = ["--video_folder", str(films), "--output_folder", str(tmp_path / "clips"), "--workers", "0"]
    open_door("data cut", ["--table", str(table), "--output", str(output), *where], "opensora")
    with open(output, newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["problem"].startswith("cut: ") and "is truncated" in row["problem"]
    assert not list((tmp_path / "clips").glob("*"))


@pytest.fixture
def closed_folder(tmp_path, monkeypatch):
    """A folder with a film and a folder that only its owner may look into."""
    (tmp_path / "closed").mkdir()
    write_video(tmp_path / "film.mp4", video(2), 8)
    scandir = os.scandir

    def refused(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    # the superuser may look into any
    monkeypatch.setattr(os, "scandir", refused)
    return tmp_path


def test_a_folder_that_cannot_be_looked_into_is_a_row_with_a_reason(closed_folder):
    found = {each.path: each.problem for each in listed(closed_folder, "auto", closed_folder)}
    assert found == {"film.mp4": "", "closed": "index: this folder cannot be looked into (permission denied)"}


def test_a_table_of_a_closed_folder_alone_is_refused(closed_folder):
    with pytest.raises(UserError, match=r"closed cannot be looked into \(permission denied\)"):
        list(listed(closed_folder / "closed", "auto", closed_folder))


def test_a_film_that_is_called_a_picture_is_told_so(tmp_path):
    (tmp_path / "film.png").write_bytes(b"no picture")
    write_video(tmp_path / "film.mp4", video(2), 8)
    output = tmp_path / "table.csv"
    open_door("data index", ["--inputs", str(tmp_path), "--output", str(output), "--workers", "0"], "opensora")
    with open(output, newline="") as file:
        problems = {row["video"]: row["problem"] for row in csv.DictReader(file)}
    assert problems["film.png"].endswith("film.png is not a readable picture (damaged, or of no format that is known)")
