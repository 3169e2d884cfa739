import itertools
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from mindone.data.video import probe, read_video
from mindone.data.write import (
    LINE_HEIGHT,
    contact_sheet,
    slug,
    to_uint8,
    write_contact_sheet,
    write_frames,
    write_gif,
    write_png,
    write_video,
)
from mindone.errors import UserError


def gradient(num_frames: int, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    frame = np.stack([x * 200 // width, y * 200 // height, np.full_like(x, 90)], axis=-1)
    return np.stack([frame + shift for shift in range(num_frames)]).astype(np.uint8)


def test_mp4_keeps_size_rate_and_colours(tmp_path):
    frames = gradient(9, 48, 64)
    path = write_video(tmp_path / "clip.mp4", frames, fps=24)
    info = probe(path)
    assert (info.num_frames, info.height, info.width, info.fps) == (9, 48, 64, 24.0)
    assert np.abs(read_video(path).astype(int) - frames).mean() < 3


def test_mp4_of_odd_size_repeats_its_last_row_and_column(tmp_path):
    frames = gradient(4, 33, 47)
    written = read_video(write_video(tmp_path / "odd.mp4", frames, fps=8))
    assert written.shape == (4, 34, 48, 3)
    assert np.abs(written[:, :33, :47].astype(int) - frames).mean() < 3
    assert np.abs(written[:, 33].astype(int) - written[:, 32]).mean() < 3


def test_mp4_of_a_fractional_rate_keeps_it(tmp_path):
    assert probe(write_video(tmp_path / "clip.mp4", gradient(30, 32, 32), fps=30000 / 1001)).fps == pytest.approx(
        30000 / 1001
    )


@pytest.mark.parametrize("fps", [0.5, 8, 12.5, 23.976, 30000 / 1001, 60])
@pytest.mark.parametrize("count", [1, 2, 17])
def test_mp4_has_every_frame_at_its_time(tmp_path, fps, count):
    with av.open(str(write_video(tmp_path / "clip.mp4", gradient(count, 32, 32), fps))) as container:
        stream = container.streams.video[0]
        times = [frame.pts * stream.time_base for frame in container.decode(video=0)]
        assert stream.frames == len(times) == count
        np.testing.assert_allclose(np.array(times, float), np.arange(count) / fps, atol=1e-4)


def test_mp4_says_how_its_colours_were_made(tmp_path):
    with av.open(str(write_video(tmp_path / "clip.mp4", gradient(2, 32, 32), fps=8))) as container:
        codec = container.streams.video[0].codec_context
        smpte170m, limited_range = 6, 1
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_range) == (smpte170m, limited_range)


def test_quality_is_what_was_asked_for(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    sizes = [write_video(tmp_path / "clip.mp4", noise, 8, crf).stat().st_size for crf in (10, 18, 40)]
    assert sizes[0] > 1.1 * sizes[1] > 2 * sizes[2]


@pytest.mark.parametrize("writer", [write_video, write_gif])
def test_a_colon_in_a_file_name_is_no_protocol(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    path = writer("12:30 http:x", gradient(3, 32, 32), 8)
    assert path.stat().st_size > 0 and [file.name for file in tmp_path.iterdir()] == ["12:30 http:x"]


def test_mp4_can_be_played_while_it_loads(tmp_path):
    content = write_video(tmp_path / "clip.mp4", gradient(8, 32, 32), fps=8).read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match=r"shape \(2, 4, 4\)"):
        write_video(tmp_path / "clip.mp4", np.zeros((2, 4, 4), np.uint8), fps=8)
    for writer, fps in itertools.product((write_video, write_gif), (0, -1, float("nan"), float("inf"))):
        with pytest.raises(UserError, match=f"fps={fps} "):
            writer(tmp_path / "clip.mp4", gradient(2, 4, 4), fps)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_halfway_leaves_no_file_and_prints_nothing(tmp_path):
    code = """
import resource, signal, sys
import numpy as np
from mindone.data.write import write_video
from mindone.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    write_video(sys.argv[1], np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8), 8)
except UserError as error:
    print(str(error).rpartition(": ")[2])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "clip.mp4")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("File too large\n", "")
    assert list(tmp_path.iterdir()) == []


def test_frames_are_written_as_they_come_and_one_that_fails_leaves_no_file(tmp_path):
    path = tmp_path / "a.mp4"
    picture = np.full((31, 32, 3), 200, np.uint8)
    assert write_frames(path, (picture for _ in range(5)), 8) == 5
    assert read_video(path).shape == (5, 32, 32, 3)
    with pytest.raises(UserError, match="there are no frames"):
        write_frames(tmp_path / "b.mp4", iter(()), 8)

    def breaks():
        yield picture
        raise UserError("the film is damaged")

    with pytest.raises(UserError, match="the film is damaged"):
        write_frames(tmp_path / "b.mp4", breaks(), 8)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_gif_holds_every_frame_at_its_rate(tmp_path):
    frames = gradient(5, 20, 30)
    with Image.open(write_gif(tmp_path / "clip.gif", frames, fps=10)) as image:
        assert image.n_frames == 5 and image.info["duration"] == 100


def test_png_is_a_file_for_one_frame_and_a_folder_for_more(tmp_path):
    frames = gradient(3, 8, 8)
    single = write_png(tmp_path / "one.png", frames[:1])
    assert (np.asarray(Image.open(single)) == frames[0]).all()
    folder = write_png(tmp_path / "many.png", frames)
    assert folder == tmp_path / "many"
    assert [path.name for path in sorted(folder.iterdir())] == ["0000.png", "0001.png", "0002.png"]


def test_float_video_becomes_rounded_bytes():
    video = np.array([-1.5, -1, 0, 1 / 127.5, 1, 2], np.float32).reshape(1, 6, 1, 1).repeat(3, 0)
    assert to_uint8(video)[:, 0, 0, 0].tolist() == [0, 0, 128, 128, 255, 255]
    assert to_uint8(np.zeros((3, 5, 7, 9), np.float32)).shape == (5, 7, 9, 3)


def test_contact_sheet_has_a_row_per_clip(tmp_path):
    clips = [gradient(9, 32, 32), gradient(2, 32, 32)]
    sheet = contact_sheet(clips, ["a red circle moves left", "日本 " * 200], columns=4, width=32)
    assert sheet.shape[1] == 4 * 36 + 4 and sheet.shape[0] > 2 * 32
    path = write_contact_sheet(tmp_path / "sheet.png", clips, ["one", "two"])
    assert Image.open(path).width == 6 * 132 + 4


def test_a_long_caption_and_the_line_behind_it_are_whole():
    clips, long = [gradient(2, 32, 32)], "a red circle moves left " * 40
    short = contact_sheet(clips, ["a"], columns=4, width=32)
    one, other = (contact_sheet(clips, [f"{long}\nseed {seed}"], columns=4, width=32) for seed in (1, 2))
    assert one.shape == other.shape and len(one) > len(short) + 20 * LINE_HEIGHT
    changed = np.flatnonzero((one != other).any(axis=(1, 2)))
    assert changed.min() > len(one) - 2 * LINE_HEIGHT


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A red circle, moves/left!", "A-red-circle-moves-left"),
        ("one two three four five six seven eight nine ten eleven", "one-two-three-four-five-six-seven-eight-nine-ten"),
        ("../../etc/passwd", "etc-passwd"),
        ("a dog's tail", "a-dogs-tail"),
        ("...", "untitled"),
    ],
)
def test_slugs_are_safe_file_names(text, name):
    assert slug(text) == name


def test_slugs_are_short_in_any_script():
    assert len(slug("界" * 300).encode()) <= 80 and len(slug("x" * 300)) <= 80
