"""Video reading behind one interface: PyAV (default), OpenCV, or decord if it is installed.

Frames are (H, W, 3) uint8 RGB, as players show them: `mindone.data.display` says what that means for films,
`mindone.data.pictures` for pictures. A picture is a video of one frame, an animated one of several. Decoding streams:
only the frames asked for are converted, and only they are kept. What cannot be read raises `BadSample`, a `UserError`,
with the reason. Writing is in `mindone.data.write`; its functions can be imported from here too.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindone.data import pictures
from mindone.data.display import shrunk
from mindone.data.errors import BadSample, MissingFrames
from mindone.data.pictures import PictureReader
from mindone.data.readers import CV2Reader, DecordReader, HeaderReader, PyAVReader
from mindone.data.write import contact_sheet, slug, to_uint8, write_contact_sheet, write_gif, write_png, write_video
from mindone.errors import UserError

__all__ = [
    "BACKENDS",
    "BadSample",
    "Film",
    "MissingFrames",
    "VideoInfo",
    "clip_indices",
    "clip_rate",
    "contact_sheet",
    "count_frames",
    "is_image",
    "iter_frames",
    "open_film",
    "probe",
    "probe_header",
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
# PyAV, for what the header says alone
HEADER = "header"
Reader = PyAVReader | CV2Reader | DecordReader | PictureReader

# A seek costs about as much as decoding this many frames; nearer frames are reached by decoding.
SEEK_GAP = 64

# Containers write time stamps in steps of up to a millisecond: two of them may be off by so many seconds.
TIME_STEP = 0.002


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself: frame count, size in pixels as shown, frames per second (0 for a picture), seconds.

    Of a variable frame rate ``fps`` is the mean; see `clip_rate` for that of a part.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    duration: float


def is_image(path: str | Path) -> bool:
    """Whether the file's name is that of a picture."""
    return Path(path).suffix.lower() in pictures.SUFFIXES


def probe(path: str | Path) -> VideoInfo:
    """Size, rate and frame count of a video or picture.

    The frame count is the header's, and counted where the header has none; a damaged file may have fewer
    (see `count_frames`).

    Raises:
        BadSample: missing, not a video, without a video stream, or without a single frame that decodes.
    """
    with open_film(path) as film:
        return film.info


def probe_header(path: str | Path) -> VideoInfo:
    """As `probe`, by the file's header alone if that is enough: many times as fast, but damaged frames go unseen.

    Raises:
        BadSample: missing, not a video, or without a video stream.
    """
    with contextlib.closing(_open_reader(path, HEADER)) as reader:
        size, num_frames = reader.header_size(), reader.header_frames
        if size is not None:
            num_frames, fps = num_frames or reader.count_packets(), reader.fps
            if not num_frames:
                raise BadSample(f"{path} has no frames")
            return VideoInfo(num_frames, *size, fps, num_frames / fps if fps else 0.0)
    return probe(path)


def count_frames(path: str | Path) -> int:
    """The number of frames that really decode, whatever the header says; reads the whole file.

    Raises:
        BadSample: as for `probe`, or damaged.
    """
    count = 0
    with contextlib.closing(_open_reader(path)) as reader:
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
    path: str | Path,
    indices: Sequence[int] | None = None,
    backend: str = "pyav",
    allow_short: bool = False,
    times: list[float] | None = None,
    longest: int | None = None,
) -> Iterator[np.ndarray]:
    """Yields frames (H, W, 3) uint8 RGB one at a time, so that only one of them is in memory.

    Args:
        indices: ascending frame numbers, repeats allowed; all frames if not given.
        backend: ``pyav``, ``cv2`` or ``decord``.
        allow_short: end quietly with the video instead of raising `MissingFrames`.
        times: gets the time stamp of each frame in seconds, for `clip_rate`; nan where the file has none.
        longest: frames are shrunk so that no side is longer, which PyAV does in a fraction of the time of whole ones.
    Raises:
        BadSample: as for `probe`, damaged, or `MissingFrames` if the video ends before the last index.
    """
    with contextlib.closing(_open_reader(path, backend)) as reader:
        yield from _frames(path, reader, -1, indices, allow_short, times, longest)


def _frames(
    path: str | Path,
    reader: Reader,
    position: int,
    indices: Sequence[int] | None,
    allow_short: bool,
    times: list[float] | None,
    longest: int | None,
) -> Iterator[np.ndarray]:
    """`iter_frames` of a reader that stands on frame ``position``."""
    for index in range(sys.maxsize) if indices is None else indices:
        if index - position > SEEK_GAP:
            position = reader.seek(index, position)
        while position < index:
            if not reader.advance():
                if allow_short or indices is None:
                    return
                raise _missing(path, index, position + 1, reader.header_frames)
            position += 1
        if times is not None:
            times.append(math.nan if reader.time is None else reader.time)
        if longest is None:
            yield reader.image()
        elif isinstance(reader, PyAVReader):
            yield reader.image(longest)
        else:
            yield shrunk(reader.image(), longest)


class Film:
    """An opened video or picture, see `open_film`: what it says of itself, and then its frames, once.

    Attributes:
        fps: as in `VideoInfo`.
    """

    def __init__(self, path: str | Path, reader: PyAVReader | PictureReader, backend: str):
        self._path, self._reader, self._backend = path, reader, backend
        if not reader.advance():
            raise BadSample(f"{path} has no frames")
        (self._height, self._width), self.fps = reader.size, reader.fps

    @functools.cached_property
    def info(self) -> VideoInfo:
        """As `probe` gives it."""
        num_frames, fps = self._reader.header_frames or count_frames(self._path), self.fps
        return VideoInfo(num_frames, self._height, self._width, fps, num_frames / fps if fps else 0.0)

    def frames(
        self,
        indices: Sequence[int] | None = None,
        allow_short: bool = False,
        times: list[float] | None = None,
        longest: int | None = None,
    ) -> Iterator[np.ndarray]:
        """As `iter_frames` yields them."""
        if self._backend == "pyav" or isinstance(self._reader, PictureReader):
            return _frames(self._path, self._reader, 0, indices, allow_short, times, longest)
        return iter_frames(self._path, indices, self._backend, allow_short, times, longest)


@contextlib.contextmanager
def open_film(path: str | Path, backend: str = "pyav") -> Iterator[Film]:
    """Opens a file once for both its `VideoInfo` and its frames.

    Raises:
        BadSample: as for `probe`.
    """
    with contextlib.closing(_open_reader(path)) as reader:
        yield Film(path, reader, backend)


def _missing(path: str | Path, index: int, num_frames: int, header_frames: int) -> MissingFrames:
    if num_frames < header_frames:
        message = f"{path} is truncated: only {num_frames} of {header_frames} frames decode"
    else:
        message = f"{path} has {num_frames} frames, but frame {index} was asked for"
    return MissingFrames(message, num_frames)


def _open_reader(path: str | Path, backend: str = "pyav") -> Reader:
    readers = {"pyav": PyAVReader, "cv2": CV2Reader, "decord": DecordReader, HEADER: HeaderReader}
    if backend not in readers:
        raise UserError(f"video backend {backend} is not known; use one of {', '.join(BACKENDS)}")
    suffix = os.path.splitext(path)[1].lower()
    if suffix in pictures.UNREAD_SUFFIXES:
        raise BadSample(f"{path} is a {suffix[1:]} picture, which is not read; convert it to png or jpeg")
    return PictureReader(path) if suffix in pictures.SUFFIXES else readers[backend](path)


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


def clip_rate(times: Sequence[float], fps: float, stride: int = 1) -> float:
    """Frames per second of the frames taken, whose time stamps are ``times`` in seconds.

    It is ``fps / stride``, the mean rate of the file over the stride, wherever that agrees with the time stamps, which
    are rounded; of a variable frame rate, and of frames that were repeated, it is what the time stamps say.
    """
    steps, mean = len(times) - 1, fps / stride
    span = times[-1] - times[0] if steps > 0 else math.nan
    if math.isnan(span) or span <= 0 or (mean > 0 and abs(span - steps / mean) <= TIME_STEP):
        return mean
    return steps / span
