import importlib.util
import math
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mindone.data.errors import BadSample
from mindone.data.video import (
    MissingFrames,
    VideoInfo,
    clip_indices,
    clip_rate,
    count_frames,
    iter_frames,
    probe,
    read_frames,
    read_video,
    write_gif,
    write_video,
)
from mindone.errors import UserError


def clip(num_frames: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Frames whose number can be read off: their brightness."""
    values = np.arange(num_frames, dtype=np.uint8) * (240 // num_frames)
    return np.broadcast_to(values[:, None, None, None], (num_frames, height, width, 3)).copy()


def numbers(frames: np.ndarray, num_frames: int) -> list[int]:
    return np.round(frames.mean(axis=(1, 2, 3)) / (240 // num_frames)).astype(int).tolist()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", clip(20), fps=8)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """120 frames with keyframes every 25 and reordered frames, so that seeking has to find its way."""
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "25", "bf": "3", "crf": "10"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in clip(120):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_probe_tells_size_rate_and_length(video):
    assert probe(video) == VideoInfo(num_frames=20, height=32, width=32, fps=8.0, duration=2.5)


@pytest.mark.parametrize("backend", ["pyav", "cv2"])
def test_frames_come_in_the_order_asked_for_with_repeats(video, backend):
    frames = read_frames(video, [7, 2, 2, 19], backend)
    assert frames.shape == (4, 32, 32, 3) and frames.dtype == np.uint8
    assert numbers(frames, 20) == [7, 2, 2, 19]


def test_backends_agree_on_every_pixel(video):
    assert (read_video(video, backend="pyav") == read_video(video, backend="cv2")).all()


def test_channels_are_red_green_blue(tmp_path):
    red = np.zeros((4, 32, 32, 3), np.uint8)
    red[..., 0] = 250
    path = write_video(tmp_path / "red.mp4", red, fps=8)
    for backend in ("pyav", "cv2"):
        assert np.abs(read_video(path, backend=backend).astype(int) - red).max() < 12


def test_reading_with_start_and_stride(video):
    assert numbers(read_video(video, num_frames=4, start=3, stride=5), 20) == [3, 8, 13, 18]
    assert numbers(read_video(video, start=10, stride=4), 20) == [10, 14, 18]


@pytest.mark.parametrize("backend", ["pyav", "cv2"])
def test_seeking_finds_the_same_frames_as_decoding_from_the_start(long_video, backend):
    whole = read_video(long_video, backend=backend)
    for index in (64, 75, 99, 100, 101, 119):
        assert (read_frames(long_video, [index], backend)[0] == whole[index]).all()
    assert (read_frames(long_video, [0, 99, 118], backend) == whole[[0, 99, 118]]).all()


def test_variable_frame_rate_is_read_by_frame_number(tmp_path):
    path = tmp_path / "variable.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "10", "crf": "10"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 600)
        for number, pixels in enumerate(clip(120)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number * 20 + 15 * (number // 7), Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert numbers(read_frames(path, [80, 110]), 120) == [80, 110]


def test_a_picture_is_a_video_of_one_frame(tmp_path):
    pixels = clip(3)[2]
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    assert probe(tmp_path / "picture.png") == VideoInfo(1, 32, 32, 0.0, 0.0)
    assert (read_video(tmp_path / "picture.png") == pixels[None]).all()
    with pytest.raises(MissingFrames):
        read_frames(tmp_path / "picture.png", [1])


def test_frames_of_files_without_a_count_are_counted(tmp_path):
    path = write_gif(tmp_path / "clip.gif", clip(12), fps=10)
    assert probe(path).num_frames == 12


@pytest.mark.parametrize("backend", ["pyav", "cv2"])
def test_frames_can_be_shrunk_on_their_way(tmp_path, backend):
    gradient = np.linspace(0, 255, 256).astype(np.uint8)
    frames = np.broadcast_to(gradient[None, None, :, None], (3, 128, 256, 3))
    path = write_video(tmp_path / "wide.mp4", frames, 8)
    small = list(iter_frames(path, backend=backend, longest=64))
    assert [frame.shape for frame in small] == [(32, 64, 3)] * 3
    expected = gradient.reshape(64, 4).mean(1)
    assert np.abs(small[0].astype(float)[16] - expected[:, None]).max() < 6
    assert [frame.shape for frame in iter_frames(path, backend=backend, longest=512)] == [(128, 256, 3)] * 3


def test_streaming_stops_reading_where_the_caller_stops(video):
    frames = iter_frames(video)
    first = next(frames)
    frames.close()
    assert first.shape == (32, 32, 3)


# --- wrong inputs ----------------------------------------------------------------------------------------------------


def audio_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("backend", ["pyav", "cv2"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "is missing"), (b"", "is empty"), (b"no video" * 99, "not a readable video"), ("audio", r"audio only")],
)
def test_unusable_files_are_named_with_the_reason(tmp_path, backend, content, reason):
    path = tmp_path / "wrong.mp4"
    if content == "audio":
        audio_only(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BadSample, match=f"wrong.mp4.*{reason}"):
        read_video(path, backend=backend)


def test_a_damaged_picture_is_a_bad_sample(tmp_path):
    (tmp_path / "wrong.png").write_bytes(b"no picture" * 9)
    with pytest.raises(BadSample, match="wrong.png is not a readable picture"):
        probe(tmp_path / "wrong.png")


def test_a_header_that_promises_too_many_frames_is_found_out(long_video, tmp_path):
    content = long_video.read_bytes()
    whole = write_video(tmp_path / "whole.mp4", read_video(long_video), fps=30)
    content = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: len(content) * 2 // 3])
    decodable = count_frames(cut)
    assert probe(cut).num_frames == 120 and 0 < decodable < 120
    with pytest.raises(MissingFrames, match=f"only {decodable} of 120 frames decode") as caught:
        read_frames(cut, [0, 119])
    assert caught.value.num_frames == decodable


def test_a_file_cut_in_its_header_is_not_a_video(video, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:100])
    with pytest.raises(BadSample, match="damaged or truncated"):
        probe(tmp_path / "cut.mp4")


def test_asking_beyond_the_end_names_the_frame(video):
    with pytest.raises(MissingFrames, match="has 20 frames, but frame 25 was asked for"):
        read_frames(video, [3, 25])


def test_unknown_backend_lists_the_known_ones(video):
    with pytest.raises(UserError, match="use one of pyav, cv2, decord"):
        read_video(video, backend="ffmpeg")


def test_absent_decord_says_how_to_get_it(video, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    with pytest.raises(UserError, match="decord is not installed; pip install decord"):
        read_video(video, backend="decord")


# --- choosing frames -------------------------------------------------------------------------------------------------


def test_clips_start_anywhere_they_fit():
    starts = {clip_indices(10, 3, 2, np.random.default_rng(seed))[0] for seed in range(60)}
    assert starts == set(range(6))
    assert clip_indices(10, 3, 2) == [0, 2, 4]
    assert clip_indices(5, 3, 2, np.random.default_rng(0)) == [0, 2, 4]


def test_short_videos_are_refused_or_stretched():
    with pytest.raises(BadSample, match="too short: 4 frames, 3 frames at stride 2 need 5"):
        clip_indices(4, 3, 2)
    assert clip_indices(2, 4, 1, stretch=True) == [0, 0, 1, 1]


# --- rates -----------------------------------------------------------------------------------------------------------

INSTALLED = ["pyav", "cv2"] + (["decord"] if importlib.util.find_spec("decord") else [])


@pytest.mark.parametrize("backend", INSTALLED)
@pytest.mark.parametrize("name", ["slowing.mp4", "slowing.mkv"])
def test_the_rate_is_that_of_the_frames_taken(film, name, backend):
    """20 frames at 24 a second, then 20 at 6."""
    times = [n / 24 for n in range(20)] + [20 / 24 + n / 6 for n in range(20)]
    path = film(name, clip(40), rate=24, times=times)
    mean = probe(path).fps
    for indices, rate in (
        (range(10), 24),
        (range(20, 40), 6),
        (range(21, 39, 3), 2),
        (range(10, 30, 5), 2.4),
    ):
        taken = []
        list(iter_frames(path, indices, backend, times=taken))
        assert clip_rate(taken, mean, indices.step) == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, backend) for name in ("even.mp4", "even.mkv", "even.avi") for backend in INSTALLED]
    + [("even.ts", "pyav"), ("even.ts", "cv2")],
)
def test_a_constant_rate_is_the_headers_to_the_last_digit(film, name, backend):
    path = film(name, clip(20), rate=Fraction(30000, 1001))
    mean = probe(path).fps
    assert mean == pytest.approx(30000 / 1001, rel=1e-4)
    for indices in (range(20), range(3, 20, 4)):
        taken = []
        list(iter_frames(path, indices, backend, times=taken))
        assert clip_rate(taken, mean, indices.step) == mean / indices.step


def test_a_rate_without_time_stamps_is_the_headers():
    assert clip_rate([], 24.0, 2) == clip_rate([1.0], 24.0, 2) == clip_rate([math.nan, math.nan], 24.0, 2) == 12.0
    assert clip_rate([1.0, 1.0], 24.0) == clip_rate([2.0, 1.0], 24.0) == 24.0


def test_a_rate_of_repeated_frames_is_what_their_time_stamps_say():
    assert clip_rate([0, 0, 0.5, 0.5, 1.0], 2.0) == 4.0
    assert clip_rate([0, 0.1, 0.2], 0.0) == pytest.approx(10)
