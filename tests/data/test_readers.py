"""What is opened at all, and under which name."""

import os
import socket

import av
import numpy as np
import pytest
from PIL import Image

from mindone.data import display, readers
from mindone.data.errors import BadSample
from mindone.data.video import count_frames, probe, read_frames, read_video, write_video

FRAMES = np.full((3, 32, 32, 3), 120, np.uint8)

NAMES = [
    "a:b",
    "-y",
    "clip%03d",
    "concat:x.mp4|y.mp4",
    "subfile,,start,0,end,9,,:x",
    "http:x",
    "file:x",
    "pipe:0",
    "data:,x",
    "crypto+file:x",
    "clip*[0-9]?",
    "x#y?z=1",
    "caf\u00e9 \u5f71",
    "two\nlines",
    "'quoted'",
]


@pytest.mark.parametrize("backend", ["pyav", "cv2"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_that_of_a_file_whatever_it_looks_like(tmp_path, monkeypatch, name, backend):
    write_video(tmp_path / "plain.mp4", FRAMES, fps=8)
    os.rename(tmp_path / "plain.mp4", tmp_path / f"{name}.mp4")
    Image.fromarray(FRAMES[0]).save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    for relative in (f"{name}.mp4", tmp_path / f"{name}.mp4"):
        assert read_video(relative, backend=backend).shape == FRAMES.shape and probe(relative).num_frames == 3
    assert read_video(f"{name}.png", backend=backend).shape == (1, 32, 32, 3)


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{url}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="0" '
    'bandwidth="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>',
}


@pytest.mark.parametrize("backend", ["pyav", "cv2"])
@pytest.mark.parametrize("suffix", ["mp4", "own"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlists_open_neither_other_files_nor_the_network(tmp_path, kind, suffix, backend):
    write_video(tmp_path / "other.mp4", FRAMES, fps=8)
    path = tmp_path / f"list.{kind if suffix == 'own' else suffix}"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        for url in ("other.mp4", f"file://{tmp_path}/other.mp4", f"http://127.0.0.1:{port}/x.ts"):
            path.write_text(PLAYLISTS[kind].format(url=url, port=port))
            with pytest.raises(BadSample, match="is not a readable video"):
                read_video(path, backend=backend)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_playlists_would_be_followed_if_nothing_forbade_it(tmp_path):
    write_video(tmp_path / "other.mp4", FRAMES, fps=8)
    (tmp_path / "list.txt").write_text(PLAYLISTS["concat"].format(url="other.mp4"))
    with av.open(str(tmp_path / "list.txt")) as container:
        assert len(list(container.decode(video=0))) == 3


@pytest.mark.parametrize("suffix", ["mp4", "png"])
def test_only_regular_files_are_opened(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    os.mkfifo(path)
    with pytest.raises(BadSample, match="is not a file but a pipe or a device"):
        probe(path)
    os.remove(path)
    path.symlink_to("/dev/zero")
    with pytest.raises(BadSample, match="is not a file but a pipe or a device"):
        probe(path)
    os.remove(path)
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadSample, match="is missing"):
        probe(path)
    with pytest.raises(BadSample, match="is not a file$"):
        read_video(tmp_path)
    for name in ("nul\0.", "x" * 300 + "."):
        with pytest.raises(BadSample, match="cannot be opened"):
            probe(name + suffix)


def test_frames_of_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, film, quarters, monkeypatch):
    path = film("clip.mp4", quarters)
    picture = tmp_path / "x.png"
    Image.fromarray(quarters[0]).save(picture)
    monkeypatch.setattr(display, "MAX_PIXELS", 32 * 64)
    assert read_video(path).shape == quarters.shape and read_video(picture).shape == (1, 32, 64, 3)
    monkeypatch.setattr(display, "MAX_PIXELS", 32 * 64 - 1)
    for refused in (path, picture):
        with pytest.raises(BadSample, match="32x64 pixels per frame, more than the 2047 that are read"):
            probe(refused)


def test_stretching_counts_for_the_number_of_pixels(film, quarters, monkeypatch):
    path = film("wide.mp4", quarters, aspect=8)
    monkeypatch.setattr(display, "MAX_PIXELS", 32 * 64 * 4)
    with pytest.raises(BadSample, match="32x512 pixels per frame"):
        probe(path)


def test_a_film_that_grows_too_large_on_its_way_is_refused(film, quarters, tmp_path, monkeypatch):
    small, large = film("small.h264", quarters), film("large.h264", quarters.repeat(4, 1).repeat(4, 2))
    path = tmp_path / "growing.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    monkeypatch.setattr(display, "MAX_PIXELS", 32 * 64)
    with pytest.raises(BadSample, match="growing.h264"):
        read_video(path)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
@pytest.mark.parametrize("name", ["x.jpg", "x.mp4"])
def test_heic_by_its_content_is_named(tmp_path, brand, name):
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(64))
    with pytest.raises(BadSample, match="is a HEIC or AVIF picture, which is not read; convert it to png or jpeg"):
        probe(tmp_path / name)


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "avif", "jxl", "jp2"])
def test_pictures_that_are_not_read_are_named_by_their_suffix(tmp_path, suffix):
    with pytest.raises(BadSample, match=f"is a {suffix.lower()} picture, which is not read"):
        probe(tmp_path / f"x.{suffix}")


def test_metadata_in_another_encoding_are_no_obstacle(film, quarters, tmp_path):
    content = film("clip.mp4", quarters).read_bytes()
    assert b"VideoHandler" in content
    (tmp_path / "latin.mp4").write_bytes(content.replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert read_video(tmp_path / "latin.mp4").shape == quarters.shape


@pytest.mark.parametrize("backend", ["pyav", "cv2"])
def test_a_codec_without_a_decoder_is_named_as_the_reason(film, quarters, tmp_path, backend):
    content = film("clip.mp4", quarters).read_bytes()
    (tmp_path / "odd.mp4").write_bytes(content.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(BadSample, match="odd.mp4 has a video stream that no decoder knows"):
        read_video(tmp_path / "odd.mp4", backend=backend)


# --- which frame is which --------------------------------------------------------------------------------------------


def numbered(num_frames):
    levels = np.arange(0, 3 * num_frames, 3, np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, 32, 32, 3)).copy()


def numbers(frames):
    return np.round(frames.mean(axis=(1, 2, 3)) / 3).astype(int).tolist()


@pytest.mark.parametrize("backend", ["pyav", "cv2"])
def test_an_edit_list_leaves_the_first_frames_out(film, backend):
    path = film("edited.mp4", numbered(80), g="10", bf="2", crf="1")
    content = bytearray(path.read_bytes())
    place = content.find(b"elst") + 8
    duration, start = (int.from_bytes(content[place + 4 * n : place + 4 * n + 4], "big") for n in (1, 2))
    frame_ticks = 16384 // 8
    content[place + 8 : place + 12] = (start + 5 * frame_ticks).to_bytes(4, "big")
    assert duration > 0
    path.write_bytes(content)
    assert numbers(read_video(path, backend=backend))[:3] == [5, 6, 7]
    assert numbers(read_frames(path, [0, 66, 70, 74], backend)) == [5, 71, 75, 79]


@pytest.mark.parametrize(
    ("name", "start"), [("clip.mp4", 3.0), ("clip.mkv", -1.0), ("clip.mkv", 3.0), ("clip.ts", -1.0), ("clip.ts", 3.0)]
)
def test_a_film_may_begin_before_or_after_zero(film, name, start):
    path = film(name, numbered(80), g="10", bf="2", crf="1", times=[start + n / 8 for n in range(80)])
    assert numbers(read_frames(path, [0, 1, 70, 79])) == [0, 1, 70, 79]


def test_a_film_whose_last_packet_is_cut_off_gives_the_frames_before_it(film):
    path = film("cut.mkv", numbered(80), g="10", bf="2", crf="1")
    path.write_bytes(path.read_bytes()[: os.path.getsize(path) * 2 // 3])
    count = count_frames(path)
    assert 30 < count < 80 and numbers(read_frames(path, [0, count - 1])) == [0, count - 1]


def test_a_damaged_packet_between_others_is_a_bad_sample(film):
    path = film("clip.mov", numbered(30), "png", "rgb24")
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    content[places[20][0] : sum(places[20])] = bytes(places[20][1])
    path.write_bytes(content)
    with pytest.raises(BadSample, match="clip.mov is damaged or truncated"):
        read_video(path)
    assert numbers(read_frames(path, [0, 19])) == [0, 19]


def test_lost_frames_are_read_again_with_one_thread(film, monkeypatch):
    path = film("clip.mp4", numbered(80), g="10", bf="2", crf="1")
    reader = readers.PyAVReader(path)

    def failing(frames):
        for _, frame in zip(range(52), frames):
            yield frame
        raise av.InvalidDataError(1, "injected")

    reader._frames = failing(reader._frames)
    shown = []
    while reader.advance():
        shown.append(reader.image())
    reader.close()
    assert numbers(np.stack(shown)) == list(range(80))
