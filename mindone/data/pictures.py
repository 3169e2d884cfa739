"""Pictures as 8-bit RGB, as they are shown: upright, in sRGB, on white; animated ones are videos.

Of a picture with a colour profile the colours are converted to sRGB; a png's ``gAMA`` holds where there is none.
16-bit values are brought to 8 bits, and floats between 0 and 1 to 0 to 255; other numbers have no white and are
refused. The density in pictures (dpi) is not applied, as viewers do not.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from mindone.data.display import check_size, over_white
from mindone.data.errors import BadSample, reason
from mindone.data.readers import require_file

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".apng", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
UNREAD_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".exr", ".dng"})
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "PPM", "TIFF", "GIF")
ANIMATED_FORMATS = frozenset({"PNG", "WEBP", "GIF"})

# tags of TIFF 6.0 and EXIF; orientations from 5 on exchange height and width
ORIENTATION, FIRST_TURNED = 274, 5
NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, PHOTOMETRIC = 254, 258, 262
REDUCED_RESOLUTION = 1
DISPLAY_GAMMA = 2.2


@contextlib.contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Turns whatever Pillow raises for damaged files, which is many kinds, into BadSample."""
    try:
        yield
    except (BadSample, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadSample(f"{path} is not a readable picture (damaged, or of no format that is known)") from error
    except Exception as error:
        raise BadSample(f"{path} is not a readable picture ({reason(error)})") from error


class PictureReader:
    """A reader like those of `mindone.data.readers`; most pictures have one frame."""

    def __init__(self, path: str | Path):
        require_file(path)
        self.path, self._position, self._start, self._time = path, -1, 0, 0.0
        # an open file, because Pillow maps named ones into memory and then turns some uncompressed tiffs wrongly
        self._file = io.BufferedReader(io.FileIO(path))
        with contextlib.ExitStack() as on_failure, _reading(path):
            on_failure.callback(self._file.close)
            self._picture = Image.open(self._file, formats=FORMATS)
            check_size(path, self._picture.height, self._picture.width)
            self.header_frames = self._count()
            on_failure.pop_all()
        self._image: np.ndarray | None = None

    def _count(self) -> int:
        pictures = getattr(self._picture, "n_frames", 1)
        if self._picture.format == "TIFF" and pictures > 1:
            self._refuse_pages(pictures)
        if self._picture.format not in ANIMATED_FORMATS:
            return 1
        # an apng may begin with a picture for viewers that do not know animations
        self._start = 1 if self._picture.info.get("default_image") and pictures > 1 else 0
        return pictures - self._start

    def _refuse_pages(self, pictures: int) -> None:
        pages = 0
        for number in range(pictures):
            self._picture.seek(number)
            pages += not self._picture.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED_RESOLUTION
        self._picture.seek(0)
        if pages > 1:
            raise BadSample(f"{self.path} holds {pages} pictures; save them as one file each")

    def header_size(self) -> tuple[int, int]:
        """Height and width as shown, by the file's header."""
        with _reading(self.path):
            width, height = self._picture.size
            is_turned = self._picture.getexif().get(ORIENTATION, 1) >= FIRST_TURNED
        return (width, height) if is_turned else (height, width)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame it stands on, as shown."""
        return self.image().shape[:2]

    @property
    def fps(self) -> float:
        """Mean rate of an animation, 0 of a picture."""
        if self.header_frames == 1:
            return 0.0
        with contextlib.closing(PictureReader(self.path)) as reader:
            seconds = sum(reader._duration() for _ in iter(reader.advance, False))
        return self.header_frames / seconds if seconds else 0.0

    @property
    def time(self) -> float | None:
        return self._time

    def _duration(self) -> float:
        return float(self._picture.info.get("duration") or 0) / 1000

    def advance(self) -> bool:
        if self._position >= self.header_frames - 1:
            return False
        self._time += self._duration() if self._position >= 0 else 0.0
        self._position, self._image = self._position + 1, None
        with _reading(self.path):
            if self.header_frames > 1:
                self._picture.seek(self._start + self._position)
            self._picture.load()
        return True

    def image(self) -> np.ndarray:
        if self._image is None:
            with _reading(self.path):
                self._image = to_rgb(self._picture, self.path)
        return self._image

    def seek(self, index: int, position: int) -> int:
        return position

    def close(self) -> None:
        self._picture.close()
        self._file.close()


def to_rgb(picture: Image.Image, path: str | Path) -> np.ndarray:
    """A picture of any of Pillow's modes as (H, W, 3) uint8 sRGB, upright, on white.

    Raises:
        BadSample: its numbers do not say what is white.
    """
    info = dict(picture.info)
    image = ImageOps.exif_transpose(_in_8_bits(picture, path))
    image, alpha = _without_alpha(image)
    profile = info.get("icc_profile")
    rgb = np.array(_in_srgb(image, profile))
    gamma = info.get("gamma")
    if gamma and not profile and "srgb" not in info and abs(gamma * DISPLAY_GAMMA - 1) > 0.05:
        rgb = np.round(255 * (np.arange(256) / 255) ** (1 / (gamma * DISPLAY_GAMMA))).astype(np.uint8)[rgb]
    return rgb if alpha is None else over_white(np.dstack((rgb, alpha)))


def _in_8_bits(picture: Image.Image, path: str | Path) -> Image.Image:
    """The picture itself, or, of one channel with more than 8 bits, a gray one with the same orientation."""
    tags = getattr(picture, "tag_v2", {})
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
        values, white = np.asarray(picture).astype(np.float64), 2.0**bits - 1
    elif picture.mode == "F":
        values, white = np.asarray(picture).astype(np.float64), 1.0
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise BadSample(
                f"{path} has float values from {values.min():g} to {values.max():g}; "
                "scale them to 0 to 1 (0 is black, 1 is white), or save it with 8 or 16 bits"
            )
    elif picture.mode == "I":
        raise BadSample(f"{path} has 32-bit or signed numbers without a white; save it with 8 or 16 bits")
    else:
        return picture
    shades = np.round(values * (255 / white)).clip(0, 255).astype(np.uint8)
    gray = Image.fromarray(255 - shades if tags.get(PHOTOMETRIC) == 0 else shades)
    key = picture.info.get("transparency")
    if isinstance(key, int):
        gray.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    gray.getexif().update(picture.getexif())
    return gray


def _without_alpha(image: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
    """The colours, and (H, W) uint8 alpha if the picture can be transparent."""
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    key = image.info.get("transparency")
    if key is not None and image.mode in ("1", "L", "RGB", "P"):
        if isinstance(key, tuple) and max(key) > 255:
            # of 16 bits per channel, the upper 8 of which Pillow reads
            image.info["transparency"] = tuple(value >> 8 for value in key)
        image = image.convert("RGBA")
    elif image.mode == "PA":
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        colours = image.convert("L" if image.mode == "LA" else "RGB")
        return colours, np.array(image.getchannel("A"))
    return image, None


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB in sRGB, by the picture's profile if it has one that fits its mode."""
    if image.mode not in ("L", "CMYK", "LAB"):
        image = image.convert("RGB")
    source = ImageCms.createProfile("LAB") if image.mode == "LAB" else _opened(profile)
    if source is not None:
        try:
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except ImageCms.PyCMSError:
            if image.mode == "LAB":
                raise
            # a profile of another kind of colours than the picture's: viewers leave it out, too
    return image.convert("RGB")


def _opened(profile: bytes | None) -> ImageCms.ImageCmsProfile | None:
    """The profile; None if there is none, it is damaged, or it is sRGB, which the picture is in anyway."""
    if not profile:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return None if "srgb" in ImageCms.getProfileDescription(opened).lower() else opened
    except (ImageCms.PyCMSError, OSError):
        return None
