"""Video reading behind one interface: PyAV (default), OpenCV, or decord if it is installed.

Frames are (H, W, 3) uint8 RGB, upright (rotation metadata is applied). A picture is a video of one frame. Decoding
streams: only the frames asked for are converted, and only they are kept. What cannot be read raises `BadSample`, a
`UserError`, with the reason. Writing is in `mindone.data.write`; its functions can be imported from here too.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from mindone.data.errors import BadSample
from mindone.data.write import contact_sheet, slug, to_uint8, write_contact_sheet, write_gif, write_png, write_video
from mindone.errors import UserError

__all__ = [
    "BACKENDS",
    "BadSample",
    "MissingFrames",
    "VideoInfo",
    "contact_sheet",
    "count_frames",
    "is_image",
    "iter_frames",
    "probe",
    "read_frames",
    "read_video",
    "slug",
    "to_uint8",
    "write_contact_sheet",
    "write_gif",
    "write_png",
    "write_video",
]

BACKENDS = ("pyav", "cv2", "decord")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})

# A seek costs about as much as decoding this many frames; nearer frames are reached by decoding.
SEEK_GAP = 64


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself: frame count, size in upright pixels, frames per second (0 for a picture), seconds."""

    num_frames: int
    height: int
    width: int
    fps: float
    duration: float


class MissingFrames(BadSample):
    """A file ends before the frame asked for; ``num_frames`` is how many it really has."""

    def __init__(self, message: str, num_frames: int = 0):
        super().__init__(message)
        self.num_frames = num_frames

    def __reduce__(self):
        return MissingFrames, (str(self), self.num_frames)


def is_image(path: str | Path) -> bool:
    """Whether the file's name is that of a picture."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def probe(path: str | Path) -> VideoInfo:
    """Size, rate and frame count of a video or picture.

    The frame count is the header's, and counted where the header has none; a damaged file may have fewer
    (see `count_frames`).

    Raises:
        BadSample: missing, not a video, without a video stream, or without a single frame that decodes.
    """
    if is_image(path):
        height, width, _ = _ImageReader(path).image().shape
        return VideoInfo(1, height, width, 0.0, 0.0)
    with contextlib.closing(_PyAVReader(path)) as reader:
        if not reader.advance():
            raise BadSample(f"{path} has no frames")
        height, width = reader.size
        fps, num_frames = reader.fps, reader.header_frames
    num_frames = num_frames or count_frames(path)
    return VideoInfo(num_frames, height, width, fps, num_frames / fps if fps else 0.0)


def count_frames(path: str | Path) -> int:
    """The number of frames that really decode, whatever the header says; reads the whole file.

    Raises:
        BadSample: as for `probe`, or damaged.
    """
    count = 0
    with contextlib.closing(_ImageReader(path) if is_image(path) else _PyAVReader(path)) as reader:
        while reader.advance():
            count += 1
    return count


def read_video(
    path: str | Path, num_frames: int | None = None, start: int = 0, stride: int = 1, backend: str = "pyav"
) -> np.ndarray:
    """Frames ``start, start + stride, ...`` as (T, H, W, 3) uint8 RGB; all up to the end without ``num_frames``.

    Raises:
        BadSample: as for `probe`, damaged, or `MissingFrames` if the video ends before.
    """
    if num_frames is not None:
        return read_frames(path, range(start, start + num_frames * stride, stride), backend)
    frames = list(iter_frames(path, range(start, sys.maxsize, stride), backend, allow_short=True))
    if not frames:
        raise MissingFrames(f"{path} has no frame {start}")
    return _stacked(path, frames)


def read_frames(path: str | Path, indices: Sequence[int], backend: str = "pyav") -> np.ndarray:
    """The frames at ``indices`` (any order, repeats allowed) as (N, H, W, 3) uint8 RGB.

    Raises:
        BadSample: as for `probe`, damaged, or `MissingFrames` if the video ends before.
    """
    if len(indices) == 0:
        raise UserError(f"no frame of {path} was asked for; give at least one index")
    wanted, where = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if wanted[0] < 0:
        raise UserError(f"frame {wanted[0]} of {path} was asked for; frames count from 0")
    return _stacked(path, list(iter_frames(path, wanted.tolist(), backend)))[where.reshape(-1)]


def _stacked(path: str | Path, frames: Sequence[np.ndarray]) -> np.ndarray:
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise BadSample(f"{path} changes its size: {' and '.join(f'{h}x{w}' for h, w in sorted(sizes))}")
    return np.stack(frames)


def iter_frames(
    path: str | Path, indices: Sequence[int] | None = None, backend: str = "pyav", allow_short: bool = False
) -> Iterator[np.ndarray]:
    """Yields frames (H, W, 3) uint8 RGB one at a time, so that only one of them is in memory.

    Args:
        indices: ascending frame numbers, repeats allowed; all frames if not given.
        backend: ``pyav``, ``cv2`` or ``decord``.
        allow_short: end quietly with the video instead of raising `MissingFrames`.
    Raises:
        BadSample: as for `probe`, damaged, or `MissingFrames` if the video ends before the last index.
    """
    allow_short = allow_short or indices is None
    with contextlib.closing(_open_reader(path, backend)) as reader:
        position = -1
        for index in range(sys.maxsize) if indices is None else indices:
            if index - position > SEEK_GAP:
                position = reader.seek(index, position)
            while position < index:
                if not reader.advance():
                    if allow_short:
                        return
                    raise _missing(path, index, position + 1, reader.header_frames)
                position += 1
            yield reader.image()


def _missing(path: str | Path, index: int, num_frames: int, header_frames: int) -> MissingFrames:
    if num_frames < header_frames:
        message = f"{path} is truncated: only {num_frames} of {header_frames} frames decode"
    else:
        message = f"{path} has {num_frames} frames, but frame {index} was asked for"
    return MissingFrames(message, num_frames)


# --- readers ---------------------------------------------------------------------------------------------------------
#
# A reader stands before frame 0. `advance` goes to the next frame and says whether there is one, `image` converts the
# frame it stands on, `seek` jumps to shortly before a frame and returns the number of the frame it then stands on.


def _open_reader(path: str | Path, backend: str) -> _PyAVReader | _CV2Reader | _DecordReader | _ImageReader:
    readers = {"pyav": _PyAVReader, "cv2": _CV2Reader, "decord": _DecordReader}
    if backend not in readers:
        raise UserError(f"video backend {backend} is not known; use one of {', '.join(BACKENDS)}")
    return _ImageReader(path) if is_image(path) else readers[backend](path)


def _require_file(path: str | Path) -> None:
    if not os.path.isfile(path):
        raise BadSample(f"{path} is not a file" if os.path.exists(path) else f"{path} is missing")
    if os.path.getsize(path) == 0:
        raise BadSample(f"{path} is empty")


class _PyAVReader:
    def __init__(self, path: str | Path):
        _require_file(path)
        self.path, self._frame, self._pending = path, None, None
        # one for all frames: a frame's own converter sets up its tables anew, which costs more than a small picture
        self._converter = VideoReformatter()
        self._open()

    def _open(self) -> None:
        try:
            self._container = av.open(str(self.path))
        except (av.FFmpegError, OSError) as error:
            raise BadSample(f"{self.path} is not a readable video ({_reason(error)})") from error
        if not self._container.streams.video:
            kinds = " and ".join(sorted({stream.type for stream in self._container.streams}))
            self._container.close()
            raise BadSample(f"{self.path} has no video stream ({f'{kinds} only' if kinds else 'damaged or truncated'})")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._frames = self._container.decode(self._stream)

    @property
    def fps(self) -> float:
        return float(self._stream.average_rate or self._stream.guessed_rate or 0)

    @property
    def header_frames(self) -> int:
        return self._stream.frames

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright frame it stands on."""
        frame = self._frame
        return (frame.width, frame.height) if self._turns % 2 else (frame.height, frame.width)

    @property
    def _turns(self) -> int:
        """Quarter turns to the left that make the frame upright; older releases of PyAV do not tell."""
        return round(getattr(self._frame, "rotation", 0) / 90) % 4

    def advance(self) -> bool:
        if self._pending is not None:
            self._frame, self._pending = self._pending, None
            return True
        try:
            self._frame = next(self._frames, None)
        except (av.FFmpegError, OSError) as error:
            raise BadSample(f"{self.path} is damaged or truncated ({_reason(error)})") from error
        return self._frame is not None

    def image(self) -> np.ndarray:
        try:
            image = self._converter.reformat(self._frame, format="rgb24").to_ndarray()
        except (av.FFmpegError, OSError, ValueError) as error:
            raise BadSample(f"{self.path} has frames that cannot be converted to RGB ({_reason(error)})") from error
        return np.ascontiguousarray(np.rot90(image, self._turns)) if self._turns else image

    def seek(self, index: int, position: int) -> int:
        """Jumps to the keyframe before ``index`` if frame numbers follow from time stamps: a constant frame rate."""
        stream, rate = self._stream, self._stream.average_rate
        if not rate or rate != stream.base_rate or stream.start_time is None or index >= (stream.frames or index):
            return position
        seconds = float(index / rate)
        try:
            self._container.seek(stream.start_time + int(seconds / stream.time_base), stream=stream)
            self._frames = self._container.decode(stream)
            frame = next(self._frames, None)
        except (av.FFmpegError, OSError):
            frame = None
        number = -1.0
        if frame is not None and frame.pts is not None:
            number = float((frame.pts - stream.start_time) * stream.time_base * rate)
        if not position < round(number) <= index or abs(number - round(number)) > 0.05:
            return self._restart()
        self._pending = frame
        return round(number) - 1

    def _restart(self) -> int:
        self.close()
        self._open()
        return -1

    def close(self) -> None:
        self._container.close()


class _CV2Reader:
    def __init__(self, path: str | Path):
        _require_file(path)
        self.path, self._capture = path, cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            self._capture.release()
            probe(path)
            raise BadSample(f"{path} cannot be opened by OpenCV; try the pyav backend")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)

    @property
    def header_frames(self) -> int:
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def advance(self) -> bool:
        return self._capture.grab()

    def image(self) -> np.ndarray:
        ok, image = self._capture.retrieve()
        if not ok:
            raise BadSample(f"{self.path} is damaged: a frame does not decode")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def seek(self, index: int, position: int) -> int:
        if index >= self.header_frames or not self._capture.set(cv2.CAP_PROP_POS_FRAMES, index):
            return position
        return int(self._capture.get(cv2.CAP_PROP_POS_FRAMES)) - 1

    def close(self) -> None:
        self._capture.release()


class _DecordReader:
    def __init__(self, path: str | Path):
        try:
            import decord
        except ImportError as error:
            raise UserError(
                "video backend decord is not installed; pip install decord, or choose pyav or cv2"
            ) from error
        _require_file(path)
        self.path, self._position = path, -1
        try:
            self._reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        except Exception as error:
            probe(path)
            raise BadSample(f"{path} cannot be opened by decord; try the pyav backend") from error

    @property
    def header_frames(self) -> int:
        return len(self._reader)

    def advance(self) -> bool:
        self._position += 1
        return self._position < len(self._reader)

    def image(self) -> np.ndarray:
        try:
            return self._reader[self._position].asnumpy()
        except Exception as error:
            raise BadSample(f"{self.path} is damaged: frame {self._position} does not decode") from error

    def seek(self, index: int, position: int) -> int:
        self._position = min(index, len(self._reader)) - 1
        return self._position

    def close(self) -> None:
        self._reader = None


class _ImageReader:
    header_frames = 1

    def __init__(self, path: str | Path):
        from PIL import Image, ImageOps

        _require_file(path)
        self._position = -1
        try:
            with Image.open(path) as image:
                self._image = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadSample(f"{path} is not a readable picture ({_reason(error)})") from error

    def advance(self) -> bool:
        self._position += 1
        return self._position < 1

    def image(self) -> np.ndarray:
        return self._image

    def seek(self, index: int, position: int) -> int:
        return position

    def close(self) -> None:
        self._image = None


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error).splitlines()[0] if str(error) else type(error).__name__
    return text[0].lower() + text[1:] if text else type(error).__name__


# --- choosing frames -------------------------------------------------------------------------------------------------


def clip_indices(
    total: int, num_frames: int, stride: int = 1, rng: np.random.Generator | None = None, stretch: bool = False
) -> list[int]:
    """The frames of a clip of ``num_frames`` at ``stride`` out of ``total``, with a random start.

    Args:
        rng: draws the start; without it the clip starts at frame 0.
        stretch: take ``num_frames`` evenly spaced frames of a video that is too short, some of them repeatedly, as
            Open-Sora 1.0 does, instead of refusing it.
    Raises:
        BadSample: the video is too short.
    """
    span = (num_frames - 1) * stride + 1
    if total < span and not (stretch and total > 0):
        raise BadSample(f"too short: {total} frames, {num_frames} frames at stride {stride} need {span}")
    if total < span:
        return [math.floor(position + 0.5) for position in np.linspace(0, total - 1, num_frames)]
    start = int(rng.integers(total - span + 1)) if rng is not None else 0
    return list(range(start, start + span, stride))
