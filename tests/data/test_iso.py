"""What boxes say of MP4 and MOV files is what their frames say, or nothing."""

from fractions import Fraction

import numpy as np
import pytest

from mindone.data.iso import HEADER_BYTES, is_upright, movie_box, stored_frames
from mindone.data.readers import HeaderReader
from mindone.data.video import count_frames, probe, probe_header

FRAMES = np.random.default_rng(0).integers(0, 256, (9, 36, 50, 3)).astype(np.uint8)


def movie(path):
    with open(path, "rb") as file:
        return movie_box(path, file.read(HEADER_BYTES))


def without_shape(path):
    """The shape of pixels is known to the film's own parameter set alone."""
    content = bytearray(path.read_bytes().replace(b"pasp", b"free"))
    place = content.find(b"tkhd") + 4 + 76
    content[place : place + 4] = (FRAMES.shape[2] << 16).to_bytes(4, "big")
    path.write_bytes(content)
    return path


KINDS = {
    "plain": {},
    "without B frames": {"profile": "baseline"},
    "main profile": {"profile": "main"},
    "all colours": {"pix_fmt": "yuv444p"},
    "ten bits": {"pix_fmt": "yuv420p10le"},
    "fields": {"x264-params": "interlaced=1"},
    "scaling lists": {"x264-params": "cqm=jvt"},
    "square pixels": {"aspect": Fraction(1)},
    "wide pixels": {"aspect": Fraction(2)},
    "headers before the frames": {"movflags": "faststart"},
    "fragments": {"movflags": "frag_keyframe+empty_moov"},
    "another codec": {"codec": "mpeg4"},
    "another codec with wide pixels": {"codec": "mpeg4", "aspect": Fraction(2)},
    "uneven times": {"times": [0, 0.1, 0.2, 0.5, 0.6, 0.9, 1.0, 1.4, 1.5]},
}


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_header_says_what_the_frames_say(film, kind, suffix):
    path = film(f"film.{suffix}", FRAMES, **KINDS[kind])
    found = probe_header(path)
    assert found == probe(path) and found.num_frames == count_frames(path) == len(FRAMES)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_shape_of_pixels_that_no_box_names_is_seen(film, codec):
    path = without_shape(film("wide.mp4", FRAMES, codec, aspect=Fraction(2)))
    assert (probe_header(path).height, probe_header(path).width) == (36, 100)


def test_a_film_that_is_turned_is_not_upright(film):
    path = film("turned.mp4", FRAMES)
    assert is_upright(movie(path))
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd") + 4 + 40
    content[place : place + 20] = b"".join(n.to_bytes(4, "big", signed=True) for n in (0, 65536, 0, -65536, 0))
    path.write_bytes(content)
    assert not is_upright(movie(path))
    assert (probe_header(path).height, probe_header(path).width) == (50, 36)


@pytest.mark.parametrize("kind", ["plain", "without B frames", "main profile", "square pixels"])
def test_the_size_is_known_without_a_frame(film, kind):
    path = film("film.mp4", FRAMES, **KINDS[kind])
    assert stored_frames(movie(path))[:2] == (36, 50)
    content = path.read_bytes()
    begin, end = content.find(b"mdat") + 4, content.find(b"moov") - 4
    path.write_bytes(content[:begin] + bytes(end - begin) + content[end:])
    assert (probe_header(path).height, probe_header(path).width) == (36, 50)


@pytest.mark.parametrize("kind", ["all colours", "fields", "wide pixels", "another codec"])
def test_what_is_not_sure_is_left_to_a_frame(film, kind):
    assert stored_frames(movie(film("film.mp4", FRAMES, **KINDS[kind]))) is None


def test_a_size_that_frames_contradict_is_that_of_the_frames(film):
    path = film("film.mp4", FRAMES)
    content = bytearray(path.read_bytes())
    place = content.find(b"avc1") + 4 + 24
    content[place : place + 4] = (48).to_bytes(2, "big") + (32).to_bytes(2, "big")
    path.write_bytes(content)
    assert (probe_header(path).height, probe_header(path).width) == (36, 50)


def test_headers_behind_the_frames_are_found_wherever_those_end(film):
    path = film("film.mp4", np.random.default_rng(0).integers(0, 256, (9, 128, 128, 3)).astype(np.uint8), crf="1")
    content = path.read_bytes()
    assert content.find(b"moov") > HEADER_BYTES
    assert stored_frames(movie(path)) == (128, 128, True)


def test_headers_of_any_damage_are_not_sure(film):
    headers = movie(film("film.mp4", FRAMES))
    rng = np.random.default_rng(0)
    for length in range(len(headers)):
        assert stored_frames(headers[:length]) in (None, (36, 50, False), (36, 50, True))
        is_upright(headers[:length])
    for _ in range(500):
        damaged = bytearray(headers)
        damaged[rng.integers(len(headers))] = rng.integers(256)
        stored_frames(bytes(damaged)), is_upright(bytes(damaged))


def test_a_reader_of_headers_reads_frames_of_other_containers(film):
    reader = HeaderReader(film("film.mkv", FRAMES))
    assert reader.advance() and reader.size == (36, 50)
    reader.close()
