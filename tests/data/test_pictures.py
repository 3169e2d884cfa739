import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from mindone.data.errors import BadSample
from mindone.data.pictures import to_rgb
from mindone.data.video import probe, read_frames, read_video

RAMP = np.tile(np.linspace(0, 65535, 64).astype(int), (8, 1))


def gray_png(values):
    """A 16-bit gray png, as any Pillow reads but not every Pillow writes it."""
    return png(values.shape[::-1], 16, 0, b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))


def png(size, bits, colour_type, rows, *chunks):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    parts = (b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0)), *chunks
    parts = *parts, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(values, order="<", bits=16, photometric=1, sample_format=1, orientation=1):
    """A TIFF of one strip; ``values`` are the bytes of its rows."""
    height, width, content = values
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 200), (274, orientation)]
    entries += [(277, 1), (278, height), (279, len(content)), (339, sample_format)]
    table = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(entries))
    return (head + table + bytes(4)).ljust(200, b"\0") + content


def rows(values):
    return (*values.shape, values.tobytes())


# --- numbers of more than 8 bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.png", gray_png(RAMP)),
        ("x.tif", tiff(rows(RAMP.astype("<u2")))),
        ("x.tif", tiff(rows(RAMP.astype(">u2")), ">")),
        ("x.tif", tiff(rows((65535 - RAMP).astype("<u2")), photometric=0)),
        ("x.pgm", b"P5 64 8 65535\n" + RAMP.astype(">u2").tobytes()),
        ("x.tif", tiff(rows((RAMP / 65535).astype("<f4")), bits=32, sample_format=3)),
        ("x.tif", tiff(rows((RAMP / 65535).astype(">f4")), ">", bits=32, sample_format=3)),
    ],
    ids=["png", "tif", "big-endian tif", "white is zero", "pgm", "float", "big-endian float"],
)
def test_a_gray_ramp_of_any_depth_goes_from_black_to_white(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    shown = read_video(tmp_path / name)[0]
    expected = np.round((RAMP if "f4" in name else RAMP) / 257)
    assert shown.shape == (8, 64, 3) and np.abs(shown - expected[..., None]).max() <= (
        1 if b"\x03\0\x01" in content else 0
    )


def test_white_of_12_bits_is_4095(tmp_path):
    values = np.array([[0, 4095, 2048, 1024]] * 2)
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2).tolist())
    (tmp_path / "x.tif").write_bytes(tiff((2, 4, packed), bits=12))
    assert read_video(tmp_path / "x.tif")[0, 0, :, 0].tolist() == [0, 255, 128, 64]


@pytest.mark.parametrize("alpha", [False, True])
def test_16_bits_per_channel_become_8(tmp_path, alpha):
    colours = np.stack([RAMP, 65535 - RAMP, RAMP // 3] + [np.full_like(RAMP, 65535)] * alpha, -1)
    content = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    (tmp_path / "x.png").write_bytes(png((64, 8), 16, 6 if alpha else 2, content))
    assert np.abs(read_video(tmp_path / "x.png")[0] - colours[..., :3] / 257).max() < 1


def test_floats_beyond_0_to_1_and_numbers_without_a_white_are_refused(tmp_path):
    for values, why in ((RAMP, "from 0 to 65535; scale them to 0 to 1"), (RAMP * np.nan, "from nan to nan; scale")):
        (tmp_path / "x.tif").write_bytes(tiff(rows(values.astype("<f4")), bits=32, sample_format=3))
        with pytest.raises(BadSample, match=f"x.tif has float values {why}"):
            read_video(tmp_path / "x.tif")
    for bits, sample_format in ((32, 1), (32, 2), (16, 2)):
        content = tiff(rows((RAMP / 2).astype(f"<i{bits // 8}")), bits=bits, sample_format=sample_format)
        (tmp_path / "x.tif").write_bytes(content)
        with pytest.raises(BadSample, match="32-bit or signed numbers without a white"):
            read_video(tmp_path / "x.tif")


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pillow_mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_of_8_bits_shows_its_colours(pillow_mode):
    gray = pillow_mode in ("1", "L", "LA", "La")
    colour = (255, 255, 255) if gray else (204, 102, 51)
    image = Image.new("RGB", (4, 4), colour)
    for step in {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA")}.get(pillow_mode, (pillow_mode,)):
        image = image.convert(step)
    assert image.mode == pillow_mode
    assert np.abs(to_rgb(image, "x").astype(int) - colour).max() <= 3


@pytest.mark.parametrize("pillow_mode", ["I;16", "I;16L", "I;16B"])
def test_every_mode_of_16_bits_shows_its_shades(pillow_mode):
    image = Image.frombytes(pillow_mode, (64, 8), RAMP.astype(">u2" if pillow_mode.endswith("B") else "<u2").tobytes())
    assert (to_rgb(image, "x")[..., 0] == np.round(RAMP / 257)).all()


def test_lab_is_converted(tmp_path):
    # L of 8 bits, a and b about 128: the red of sRGB is L 54, a 81, b 70 at D50
    image = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (139, 209, 198)])
    image.save(tmp_path / "x.tif")
    assert np.abs(read_video(tmp_path / "x.tif").astype(int) - [255, 0, 0]).max() <= 8


def test_cmyk_as_adobe_writes_it_is_not_inverted(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "x.jpg").read_bytes()
    assert np.abs(read_video(tmp_path / "x.jpg").astype(int) - [255, 0, 0]).max() <= 3


# --- transparency ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pillow_mode", ["LA", "RGBA", "PA", "La", "RGBa"])
@pytest.mark.parametrize(("alpha", "seen"), [(255, 0), (0, 255), (51, 204)])
def test_transparent_pixels_are_on_white(pillow_mode, alpha, seen):
    image = Image.new("RGB", (2, 2), 0).convert({"PA": "P"}.get(pillow_mode, pillow_mode.upper()))
    if pillow_mode == "PA":
        image = image.convert("PA")
    image.putalpha(Image.new("L", (2, 2), alpha))
    if pillow_mode != image.mode:
        image = image.convert(pillow_mode)
    assert (to_rgb(image, "x") == seen).all()


@pytest.mark.parametrize(
    ("bits", "colour_type", "row", "chunks", "seen"),
    [
        (8, 0, b"\x00\xc8", [(b"tRNS", b"\0\0")], [255, 200]),
        (16, 0, b"\x00\x00\xc8\xc8", [(b"tRNS", b"\0\0")], [255, 200]),
        (8, 2, b"\x07\x07\x07\xc8\xc8\xc8", [(b"tRNS", b"\0\7\0\7\0\7")], [255, 200]),
        (16, 2, b"\x07" * 6 + b"\xc8" * 6, [(b"tRNS", b"\7\7\7\7\7\7")], [255, 200]),
        (8, 3, b"\x00\x01", [(b"PLTE", b"\7\7\7\xc8\xc8\xc8"), (b"tRNS", b"\0")], [255, 200]),
        (8, 3, b"\x00\x01", [(b"PLTE", b"\0\0\0\xc8\xc8\xc8"), (b"tRNS", b"\x33\xff")], [204, 200]),
        (1, 0, b"\x40", [(b"tRNS", b"\0\0")], [255, 255]),
    ],
    ids=["gray", "gray of 16 bits", "colour", "colour of 16 bits", "palette", "half a palette", "two shades"],
)
def test_a_transparent_colour_of_a_png_is_on_white(tmp_path, bits, colour_type, row, chunks, seen):
    (tmp_path / "x.png").write_bytes(png((2, 1), bits, colour_type, b"\0" + row, *chunks))
    assert read_video(tmp_path / "x.png")[0, 0].tolist() == [[value] * 3 for value in seen]


# --- colour profiles, gamma ------------------------------------------------------------------------------------------


def swapped_profile():
    """sRGB with red and green swapped, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return (
        profile.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
        .replace(b"rXYZ", b"-XYZ")
        .replace(b"gXYZ", b"rXYZ")
        .replace(b"-XYZ", b"gXYZ")
    )


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.webp"])
@pytest.mark.parametrize("pillow_mode", ["RGB", "RGBA", "P"])
def test_colours_are_converted_by_the_pictures_profile(tmp_path, name, pillow_mode):
    image = Image.new("RGB", (16, 16), (250, 0, 0)).convert(pillow_mode)
    image = image.convert("RGB") if (name, pillow_mode) in itertools.product(["x.jpg"], ["RGBA", "P"]) else image
    image.save(tmp_path / name, icc_profile=swapped_profile())
    shown = read_video(tmp_path / name)[0, 8, 8].astype(int)
    assert np.abs(shown - [0, 250, 0]).max() <= 12


def test_srgb_damaged_and_unfitting_profiles_change_nothing(tmp_path):
    pixels = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"no profile" * 20):
        Image.fromarray(pixels).save(tmp_path / "x.png", icc_profile=profile)
        assert (read_video(tmp_path / "x.png")[0] == pixels).all()
    Image.fromarray(pixels[..., 0]).save(tmp_path / "x.png", icc_profile=swapped_profile())
    assert (read_video(tmp_path / "x.png")[0] == pixels[..., :1]).all()


def test_a_png_of_linear_light_is_brightened(tmp_path):
    row = b"\0" + bytes([0, 55, 128, 255])
    linear, usual, srgb = (b"gAMA", struct.pack(">I", 100000)), (b"gAMA", struct.pack(">I", 45455)), (b"sRGB", b"\0")
    for chunks, seen in (
        ([linear], [0, 127, 186, 255]),
        ([usual], [0, 55, 128, 255]),
        ([srgb, linear], [0, 55, 128, 255]),
    ):
        (tmp_path / "x.png").write_bytes(png((4, 1), 8, 0, row, *chunks))
        assert np.abs(read_video(tmp_path / "x.png")[0, 0, :, 0] - np.array(seen)).max() <= 1


# --- orientation -----------------------------------------------------------------------------------------------------

SEEN = ["RGBW", "GRWB", "WBGR", "BWRG", "RBGW", "BRWG", "WGBR", "GWRB"]


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif"])
@pytest.mark.parametrize(("orientation", "seen"), enumerate(SEEN, 1))
def test_pictures_are_upright(tmp_path, quarters, corners, name, orientation, seen):
    image = Image.fromarray(quarters[0])
    exif = image.getexif()
    exif[274] = orientation
    image.save(tmp_path / name, exif=exif)
    shown = read_video(tmp_path / name)[0]
    assert corners(shown) == seen
    info = probe(tmp_path / name)
    assert (info.height, info.width) == shown.shape[:2] == ((32, 64) if orientation < 5 else (64, 32))


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, lambda x: x), (2, lambda x: x[:, ::-1]), (6, lambda x: np.rot90(x, -1)), (8, np.rot90), (5, np.transpose)],
)
def test_gray_pictures_of_16_bits_are_upright(tmp_path, orientation, turned):
    (tmp_path / "x.tif").write_bytes(tiff(rows(RAMP.astype("<u2")), orientation=orientation))
    expected = turned(np.round(RAMP / 257))
    assert (read_video(tmp_path / "x.tif")[0, ..., 0] == expected).all()
    exif = Image.Exif()
    exif[274] = orientation
    png_bytes = gray_png(RAMP)
    content = exif.tobytes()[6:]
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    (tmp_path / "x.png").write_bytes(png_bytes[:33] + chunk + png_bytes[33:])
    assert (read_video(tmp_path / "x.png")[0, ..., 0] == expected).all()


# --- several pictures in a file --------------------------------------------------------------------------------------


def frames_of(levels, size=16):
    return [Image.new("RGB", (size, size), (level, level, level)) for level in levels]


@pytest.mark.parametrize("name", ["x.png", "x.apng", "x.webp", "x.gif"])
def test_an_animated_picture_is_a_video(tmp_path, name):
    first, *others = frames_of([0, 120, 240])
    kind = "PNG" if name.endswith("png") else None
    first.save(
        tmp_path / name,
        kind,
        save_all=True,
        append_images=others,
        duration=200,
        **({"lossless": True} if "webp" in name else {}),
    )
    shown = read_video(tmp_path / name)
    assert shown.shape == (3, 16, 16, 3) and np.abs(shown[:, 8, 8, 0] - np.array([0.0, 120, 240])).max() <= 1
    info = probe(tmp_path / name)
    assert (info.num_frames, info.fps, info.duration) == (3, pytest.approx(5), pytest.approx(0.6))
    assert (read_frames(tmp_path / name, [2, 1]) == shown[[2, 1]]).all()


def test_the_still_picture_before_an_animation_is_no_frame(tmp_path):
    first, *others = frames_of([0, 120, 240])
    first.save(tmp_path / "x.png", save_all=True, append_images=others, duration=200, default_image=True)
    assert (
        read_video(tmp_path / "x.png")[:, 0, 0, 0].tolist() == [120, 240] and probe(tmp_path / "x.png").num_frames == 2
    )


def test_pages_of_a_tiff_are_refused(tmp_path):
    first, *others = frames_of([0, 120, 240])
    first.save(tmp_path / "x.tif", save_all=True, append_images=others)
    with pytest.raises(BadSample, match="x.tif holds 3 pictures; save them as one file each"):
        probe(tmp_path / "x.tif")


def test_the_other_pictures_of_a_phones_jpeg_are_left_out(tmp_path):
    first, other = frames_of([50, 200])
    first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[other])
    assert read_video(tmp_path / "x.jpg").shape[0] == 1 and abs(read_video(tmp_path / "x.jpg").mean() - 50) < 3


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif", "x.bmp", "x.ppm"])
def test_cut_pictures_are_bad_samples(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for length in (4, 30, len(content) // 2):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(BadSample, match="is not a readable picture"):
            read_video(tmp_path / name)


def test_formats_that_run_programs_are_not_tried(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was run"))
    (tmp_path / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(BadSample, match="is not a readable picture"):
        probe(tmp_path / "x.png")


def test_a_bomb_is_refused_by_its_header(tmp_path):
    (tmp_path / "x.png").write_bytes(png((60000, 60000), 8, 0, b""))
    with pytest.raises(BadSample, match="x.png"):
        probe(tmp_path / "x.png")
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "0" * 2**27, zip=True)
    content = io.BytesIO()
    Image.new("L", (4, 4)).save(content, "PNG", pnginfo=text)
    (tmp_path / "x.png").write_bytes(content.getvalue())
    with pytest.raises(BadSample, match="x.png is not a readable picture"):
        probe(tmp_path / "x.png")
