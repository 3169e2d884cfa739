import importlib.util
import logging
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mindone.data import display
from mindone.data.display import Display, over_white, quarter_turn
from mindone.data.errors import BadSample
from mindone.data.video import probe, read_video

INSTALLED = ["pyav", "cv2"] + (["decord"] if importlib.util.find_spec("decord") else [])


def with_matrix(path, a, b, c, d):
    """Writes a display matrix into the mp4's track header."""
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd") + 44
    values = (round(a * 65536), round(b * 65536), 0, round(c * 65536), round(d * 65536), 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", *values)
    path.write_bytes(content)
    return path


# column = a p + c q, row = b p + d q, of column p and row q
TURNS = {
    (1, 0, 0, 1): "RGBW",
    (-1, 0, 0, 1): "GRWB",
    (1, 0, 0, -1): "BWRG",
    (-1, 0, 0, -1): "WBGR",
    (0, 1, 1, 0): "RBGW",
    (0, 1, -1, 0): "BRWG",
    (0, -1, 1, 0): "GWRB",
    (0, -1, -1, 0): "WGBR",
}


@pytest.mark.parametrize("backend", ["pyav", "cv2"])
@pytest.mark.parametrize(("matrix", "seen"), TURNS.items())
def test_the_whole_display_matrix_is_applied(film, quarters, corners, backend, matrix, seen):
    path = with_matrix(film("turned.mp4", quarters), *matrix)
    shown = read_video(path, backend=backend)
    assert corners(shown[0]) == seen
    info = probe(path)
    assert (info.height, info.width) == shown.shape[1:3] == ((32, 64) if matrix[0] else (64, 32))


def test_other_angles_are_refused_and_a_matrix_of_zeros_says_nothing(film, quarters, corners):
    with pytest.raises(BadSample, match=r"turned.mp4 is to be shown turned by no multiple of 90 degrees"):
        read_video(with_matrix(film("turned.mp4", quarters), 0.8, 0.6, -0.6, 0.8))
    assert quarter_turn([0] * 9, "x") == (False, False, False)
    assert quarter_turn([65536, 100, 0, -100, 65536], "x") == (False, False, False)


def test_a_turn_beside_data_that_pyav_does_not_know_is_never_overlooked(tmp_path, quarters, corners):
    """ffmpeg hands on the EXIF of jpegs, which makes some releases of PyAV list none of a frame's data."""
    for orientation, seen in ((1, "RGBW"), (6, "BRWG"), (2, "GRWB")):
        image = Image.fromarray(quarters[0])
        exif = image.getexif()
        exif[274] = orientation
        image.save(tmp_path / "one.jpg", exif=exif)
        (tmp_path / "film.mjpeg").write_bytes((tmp_path / "one.jpg").read_bytes() * 3)
        try:
            shown = read_video(tmp_path / "film.mjpeg")
        except BadSample as error:
            assert orientation > 1 and "is to be shown turned in a way that PyAV" in str(error)
        else:
            assert len(shown) == 3 and corners(shown[0]) == seen


@pytest.mark.parametrize("backend", INSTALLED)
@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(2), (32, 128)), (Fraction(1, 2), (64, 64)), (Fraction(1), (32, 64))]
)
def test_pixels_become_square_by_growing(film, quarters, corners, backend, aspect, size):
    path = film("wide.mkv", quarters, aspect=aspect)
    shown = read_video(path, backend=backend)
    assert shown.shape[1:3] == size and corners(shown[0]) == "RGBW"
    assert (probe(path).height, probe(path).width) == size


def test_pixels_are_stretched_before_they_are_turned(film, quarters):
    path = with_matrix(film("both.mp4", quarters, aspect=Fraction(2)), 0, 1, -1, 0)
    assert read_video(path).shape[1:3] == (128, 32)
    assert Display(transpose=True, aspect=Fraction(2)).size(32, 64) == (128, 32)


def test_a_shape_of_pixels_beyond_sense_is_refused(film, quarters):
    with pytest.raises(BadSample, match="pixels of 1/40 times their height"):
        read_video(film("wide.mkv", quarters, aspect=Fraction(1, 40)))


@pytest.mark.parametrize("backend", INSTALLED)
def test_rows_and_columns_that_the_codec_cuts_off_are_not_shown(film, quarters, backend):
    assert read_video(film("cut.mp4", quarters[:, :30, :50]), backend=backend).shape == (2, 30, 50, 3)


# --- which stream is the film ----------------------------------------------------------------------------------------


def several(path, *streams):
    """Writes streams ``(brightness, size, disposition)``; cover pictures have disposition 1024 (attached picture)."""
    with av.open(str(path), "w") as container:
        made = []
        for brightness, size, disposition in streams:
            cover = disposition == 1024
            stream = container.add_stream("mjpeg" if cover else "libx264", rate=8)
            stream.height, stream.width, stream.pix_fmt = size, size, "yuvj420p" if cover else "yuv420p"
            stream.disposition = disposition
            made.append((stream, np.full((size, size, 3), brightness, np.uint8), 1 if cover else 3))
        for stream, pixels, num_frames in made:
            for _ in range(num_frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("backend", INSTALLED)
def test_a_cover_picture_is_not_the_film(tmp_path, backend):
    path = several(tmp_path / "cover.mp4", (10, 80, 1024), (200, 32, 0))
    assert read_video(path, backend=backend).shape == (3, 32, 32, 3)


def test_the_default_stream_is_the_film_else_the_largest(tmp_path):
    assert read_video(several(tmp_path / "default.mkv", (10, 64, 0), (200, 32, 1))).mean() > 190
    assert read_video(several(tmp_path / "largest.mkv", (10, 32, 0), (200, 64, 0))).mean() > 190


@pytest.mark.parametrize("backend", ["cv2", "decord"])
def test_a_backend_that_reads_another_stream_refuses(tmp_path, backend, monkeypatch):
    path = several(tmp_path / "second.mkv", (10, 32, 0), (200, 64, 0))
    if backend == "decord":
        monkeypatch.setitem(__import__("sys").modules, "decord", object())
    with pytest.raises(BadSample, match=f"several video streams, which {backend} shows wrongly; use pyav"):
        read_video(path, backend=backend)


def test_a_cover_picture_alone_is_no_film(tmp_path):
    with pytest.raises(BadSample, match="no video stream .a cover picture only"):
        read_video(several(tmp_path / "cover.mp4", (10, 80, 1024)))


# --- transparency ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.mov", "qtrle", "argb"), ("a.mov", "png", "rgba"), ("a.mkv", "ffv1", "yuva420p"), ("a.apng", "apng", "rgba")],
)
def test_transparent_pixels_are_shown_on_white(film, quarters, name, codec, pix_fmt):
    alpha = np.zeros_like(quarters[..., :1])
    alpha[:, :, :32], alpha[:, 16:] = 255, 128
    shown = read_video(film(name, np.concatenate([quarters, alpha], -1), codec, pix_fmt))[0].astype(int)
    assert np.abs(shown[8, 16] - [250, 0, 0]).max() <= 3
    assert (shown[8, 48] == 255).all()
    assert np.abs(shown[24, 16] - [127, 127, 252]).max() <= 3


def test_transparent_pixels_of_a_gif_are_shown_on_white(tmp_path):
    images = [Image.new("RGBA", (32, 32), (level, 0, 0, 255)) for level in (100, 200)]
    for image in images:
        image.paste((0, 0, 0, 0), (0, 0, 16, 32))
    images[0].save(tmp_path / "x.gif", save_all=True, append_images=images[1:], duration=100, disposal=2)
    shown = read_video(tmp_path / "x.gif")
    assert (shown[:, 16, 8] == 255).all() and shown[:, 16, 24].tolist() == [[100, 0, 0], [200, 0, 0]]
    with pytest.raises(BadSample, match="transparency, which cv2 shows wrongly"):
        read_video(tmp_path / "x.gif", backend="cv2")


def test_alpha_is_straight_and_rounded():
    assert over_white(np.array([[100, 0, 255, 255], [100, 0, 255, 0], [100, 0, 255, 51]], np.uint8)).tolist() == [
        [100, 0, 255],
        [255, 255, 255],
        [224, 204, 255],
    ]


def test_transparency_that_is_not_decoded_or_not_known_to_a_backend_is_refused(film, quarters):
    rgba = np.concatenate([quarters, np.full_like(quarters[..., :1], 9)], -1)
    with pytest.raises(BadSample, match="transparency that is not decoded"):
        read_video(film("vp9.webm", rgba, "libvpx-vp9", "yuva420p"))
    with pytest.raises(BadSample, match="transparency, which cv2 shows wrongly"):
        read_video(film("a.mov", rgba, "qtrle", "argb"), backend="cv2")


# --- colours ---------------------------------------------------------------------------------------------------------

LUMA = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114), "bt2020nc": (0.2627, 0.0593)}
SHADES = np.array([[200, 40, 60], [30, 180, 90], [60, 70, 220], [128, 128, 128]])


def tagged(path, matrix, tag, full_range=False, bits=8, size=(32, 128), named=True):
    """Four stripes of `SHADES`, made YCbCr by ``matrix`` here, and stored without loss under the name ``tag``."""
    kr, kb = LUMA[matrix]
    rgb = np.repeat(SHADES, size[1] // 4, axis=0) / 255
    luma = rgb @ [kr, 1 - kr - kb, kb]
    blue, red = (rgb[:, 2] - luma) / (2 - 2 * kb), (rgb[:, 0] - luma) / (2 - 2 * kr)
    scale, low, gain, chroma = 2 ** (bits - 8), *((0, 255, 255) if full_range else (16, 219, 224))
    planes = [low + gain * luma, 128 + chroma * blue, 128 + chroma * red]
    kind = np.uint8 if bits == 8 else np.uint16
    pix_fmt = "yuv444p" if bits == 8 else "yuv444p10le"
    frame = av.VideoFrame(size[1], size[0], pix_fmt)
    for plane, row in zip(frame.planes, planes):
        padded = np.zeros((size[0], plane.line_size // kind().itemsize), kind)
        padded[:, : size[1]] = np.round(row * scale)
        plane.update(padded)
    options = {"qp": "0", "color_range": "pc" if full_range else "tv"} | ({"colorspace": tag} if named else {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def stripes(image):
    return image[image.shape[0] // 2, image.shape[1] // 8 :: image.shape[1] // 4].astype(int)


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", LUMA)
def test_colours_are_converted_by_the_named_matrix_and_range(tmp_path, matrix, full_range, bits):
    path = tagged(tmp_path / "colour.mkv", matrix, matrix, full_range, bits)
    assert np.abs(stripes(read_video(path)[0]) - SHADES).max() <= 2


def test_an_unnamed_matrix_is_that_of_hd_for_hd_only(tmp_path):
    small = tagged(tmp_path / "small.mkv", "smpte170m", None, named=False)
    large = tagged(tmp_path / "large.mkv", "bt709", None, size=(578, 64), named=False)
    for path in (small, large):
        assert np.abs(stripes(read_video(path)[0]) - SHADES).max() <= 2


def test_a_space_that_is_no_matrix_of_rgb_is_refused(tmp_path):
    with pytest.raises(BadSample, match="colour space .number 8 of H.273. that is not read"):
        read_video(tagged(tmp_path / "odd.mkv", "bt709", "ycgco"))


@pytest.mark.parametrize(
    ("why", "settings"),
    [
        ("a colour matrix other than BT.601", {"matrix": "bt709", "tag": "bt709"}),
        ("a colour matrix other than BT.601", {"matrix": "bt709", "tag": None, "size": (578, 64), "named": False}),
        ("more than 8 bits", {"matrix": "smpte170m", "tag": "smpte170m", "bits": 10}),
    ],
)
def test_opencv_refuses_colours_that_it_shows_wrongly(tmp_path, why, settings):
    with pytest.raises(BadSample, match=f"{why}.*, which cv2 shows wrongly; use pyav"):
        read_video(tagged(tmp_path / "colour.mkv", **settings), backend="cv2")


@pytest.mark.parametrize("backend", INSTALLED)
def test_backends_agree_on_what_they_do_not_refuse(film, quarters, backend):
    for pix_fmt, options in (("yuv420p", {}), ("yuv444p", {}), ("yuvj420p", {"color_range": "pc"})):
        path = film("x.mp4", quarters, pix_fmt=pix_fmt, **options)
        assert (read_video(path, backend=backend) == read_video(path)).all()


def test_the_chroma_of_interlaced_frames_is_that_of_their_field(tmp_path, caplog, monkeypatch):
    """Odd and even rows have other colours, which must not mix: this is why older releases of PyAV are not allowed."""
    monkeypatch.setattr(display, "_warned", set())
    path = tmp_path / "fields.mkv"
    frame = av.VideoFrame(64, 32, "yuv420p")
    for plane, values in zip(frame.planes, ([82, 145], [90, 54], [240, 34])):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[0::2], rows[1::2] = values
        plane.update(rows)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=8, options={"qp": "0", "flags": "+ilme+ildct", "colorspace": "smpte170m"}
        )
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with caplog.at_level(logging.WARNING):
        shown = read_video(path)[0].astype(int)
    assert np.abs(shown[4:28:2] - [255, 0, 0]).max() <= 3
    assert np.abs(shown[5:28:2] - [0, 255, 0]).max() <= 3
    assert "fields.mkv is interlaced" in caplog.text and "deinterlace it before" in caplog.text


@pytest.mark.parametrize("backend", INSTALLED)
@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_read_with_one_warning(film, quarters, caplog, monkeypatch, backend, transfer, name):
    monkeypatch.setattr(display, "_warned", set())
    path = film("hdr.mp4", quarters, transfer=transfer)
    with caplog.at_level(logging.WARNING):
        read_video(path, backend=backend)
        read_video(path, backend=backend)
    assert [record.message.split(", as")[0] for record in caplog.records] == [f"{path} is HDR ({name})"]
