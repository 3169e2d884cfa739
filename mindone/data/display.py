"""How a file says that its frames are to be shown: which stream is the film, how it is turned, stretched and coloured.

What is done, by every reader alike:

- The film is the stream that players choose: never a cover picture, else the default one, else the largest.
- The display matrix is applied if it turns by quarters or mirrors; other angles are refused.
- Pixels that are not square are stretched, along the side that grows, so that nothing is thrown away.
- Transparent pixels are shown on white, alpha being straight (not multiplied into the colours).
- A colour matrix that is not named is BT.709 for HD (at least 1280 columns or more than 576 rows) and BT.601 below.
- Primaries are not converted: they are taken for those of BT.709, as the models and the files written take them.
- HDR (PQ, HLG) is converted by its matrix but not tone mapped, and interlaced frames stay woven as they are stored;
  both are read with a warning.
- Cropping by the codec is done by its decoder. Crop boxes of containers are not known to the decoder and not applied.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from mindone.data.errors import BadSample

logger = logging.getLogger(__name__)

MAX_PIXELS = 2**26
"""A frame of more pixels (8192 x 8192) is refused: it is a mistake or meant to exhaust the memory."""

# ffmpeg's AVCOL_SPC to the number that swscale knows the matrix by; the ones that are missing are not plain matrices.
BT709, BT601 = 1, 5
UNSPECIFIED_SPACE = 2
MATRICES = {0: BT601, BT709: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: 9}
LIMITED_RANGE, FULL_RANGE = 1, 2
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}

# AV_DISPOSITION_*: a cover picture, and thumbnails along the film
DEFAULT, NO_FILM = 0x1, 0x400 | 0x800

_warned: set[str] = set()


def warn_once(kind: str, message: str) -> None:
    """Logs a warning the first time that ``kind`` comes up in this process: a dataset has many files of a kind."""
    if kind not in _warned:
        _warned.add(kind)
        logger.warning("%s", message)


def check_size(path: str | Path, height: int, width: int) -> None:
    """Raises BadSample for a frame of no pixels or of more than `MAX_PIXELS`."""
    if height * width > MAX_PIXELS:
        raise BadSample(f"{path} has {height}x{width} pixels per frame, more than the {MAX_PIXELS} that are read")


def over_white(rgba: np.ndarray) -> np.ndarray:
    """(..., 4) uint8 with straight alpha on a white background: (..., 3) uint8."""
    darkness = (255 - rgba[..., :3]).astype(np.uint16)
    darkness *= rgba[..., 3:]
    darkness += 127
    darkness //= 255
    return 255 - darkness.astype(np.uint8)


def shrunk_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Height and width with the longer side at most ``longest``; the shorter one keeps a pixel."""
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    """A picture (H, W, C) uint8 of `shrunk_size`, each of its pixels the mean of those it stands for."""
    height, width = shrunk_size(*image.shape[:2], longest)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def film_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video stream that players show; None if there is none but cover pictures."""
    films = [stream for stream in container.streams.video if not stream.disposition.value & NO_FILM]
    if len(films) == 1:
        return films[0]
    return max(films, key=lambda s: (s.disposition.value & DEFAULT, _pixels(s), -s.index), default=None)


def _pixels(stream: av.VideoStream) -> int:
    return stream.width * stream.height if stream.codec_context else 0


@dataclass(frozen=True)
class Display:
    """What is done to a stored frame to show it: stretched by ``aspect`` (a pixel's width over its height), then
    transposed, then mirrored."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False
    aspect: Fraction = Fraction(1)

    @property
    def is_turned(self) -> bool:
        return self.transpose or self.mirror_x or self.mirror_y

    def stretched(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a stored picture after its pixels were made square."""
        if self.aspect == 1:
            return height, width
        if self.aspect >= 1:
            return height, round(width * self.aspect)
        return round(height / self.aspect), width

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width as shown of a frame that is stored as ``height`` x ``width``."""
        height, width = self.stretched(height, width)
        return (width, height) if self.transpose else (height, width)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The shown picture of a stored one (H, W, C)."""
        height, width = self.stretched(*image.shape[:2])
        if (height, width) != image.shape[:2]:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return self.turned(image)

    def turned(self, image: np.ndarray) -> np.ndarray:
        """A picture (H, W, C) with square pixels, as it is shown."""
        if not self.is_turned:
            return image
        if self.transpose:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1])


def display_of(frame: av.VideoFrame, stream: av.VideoStream, path: str | Path) -> Display:
    """What the file says of how this frame is to be shown.

    Raises:
        BadSample: turned by an angle that is not a multiple of 90 degrees, or stretched beyond sense.
    """
    turn = quarter_turn(_display_matrix(frame, path), path)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect > 0 and not Fraction(1, 16) <= aspect <= 16:
        raise BadSample(f"{path} has pixels of {aspect} times their height, which cannot be meant")
    display = Display(*turn, aspect if aspect > 0 else Fraction(1))
    check_size(path, *display.size(frame.height, frame.width))
    return display


def _display_matrix(frame: av.VideoFrame, path: str | Path) -> list[int]:
    """The nine numbers of a frame's display matrix; zeros if it has none."""
    try:
        if "DISPLAYMATRIX" not in frame.side_data:
            return [0] * 9
        return np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32).tolist()
    except ValueError as error:
        # PyAV does not list a frame's data if one piece is of a kind that is newer than itself: EXIF in a jpeg
        if frame.rotation:
            raise BadSample(f"{path} is to be shown turned in a way that PyAV {av.__version__} cannot tell") from error
        return [0] * 9


def quarter_turn(matrix: Sequence[int], path: str | Path) -> tuple[bool, bool, bool]:
    """Whether a display matrix transposes, then mirrors left-right, then mirrors up-down.

    The matrix ``a b u, c d v, x y w`` (ISO 14496-12) takes column p and row q to column ``a p + c q`` and row
    ``b p + d q``; its scale is in the pixels' aspect already, and its shift only brings the picture back into view.

    Raises:
        BadSample: it does neither, but turns by another angle or shears.
    """
    a, b, _, c, d = matrix[:5]
    if not any((a, b, c, d)):
        return False, False, False
    transpose = abs(b) + abs(c) > abs(a) + abs(d)
    large, small = ((b, c), (a, d)) if transpose else ((a, d), (b, c))
    if max(map(abs, small)) * 100 > min(map(abs, large)):
        raise BadSample(f"{path} is to be shown turned by no multiple of 90 degrees, or sheared; turn it before")
    return (True, c < 0, b < 0) if transpose else (False, a < 0, d < 0)


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether pixels can be transparent: a channel, or a palette (gif), whose entries have one."""
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def colour_of(frame: av.VideoFrame, path: str | Path) -> tuple[int, int]:
    """Colour matrix (a value of `MATRICES`) and range (limited or full) to convert this frame to RGB by.

    Raises:
        BadSample: its colours are not made by a matrix.
    """
    if frame.format.is_rgb or frame.format.has_palette:
        return BT601, FULL_RANGE
    full = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
    space = int(frame.colorspace)
    if space == UNSPECIFIED_SPACE:
        matrix = BT709 if frame.width >= 1280 or frame.height > 576 else BT601
    elif space in MATRICES:
        matrix = MATRICES[space]
    else:
        raise BadSample(f"{path} has a colour space (number {space} of H.273) that is not read; convert it to BT.709")
    return matrix, FULL_RANGE if full else LIMITED_RANGE


def warn_of_loss(frame: av.VideoFrame, path: str | Path) -> None:
    """Says once per kind what of a film is not shown as it is meant to be."""
    transfer = HDR_TRANSFERS.get(int(frame.color_trc))
    if transfer:
        warn_once(
            transfer,
            f"{path} is HDR ({transfer}), as others may be: it is read without tone mapping and looks flat; "
            "convert it to SDR before",
        )
    if frame.interlaced_frame:
        warn_once(
            "interlaced",
            f"{path} is interlaced, as others may be: both fields are read as one frame, moving edges are combed; "
            "deinterlace it before",
        )
