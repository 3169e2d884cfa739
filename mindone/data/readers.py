"""The readers behind `mindone.data.video`: PyAV, OpenCV, decord.

A reader stands before frame 0. `advance` goes to the next frame and says whether there is one, `image` converts the
frame it stands on to (H, W, 3) uint8 RGB as it is shown (see `mindone.data.display`), `time` is that frame's time stamp
in seconds, `seek` jumps to shortly before a frame and returns the number of the frame it then stands on.

Files are opened as files, whatever their name looks like, and only as one of `CONTAINERS`: playlists and other files
that would have further files or addresses opened are refused. OpenCV and decord know less of how a file is to be shown;
PyAV looks at it first, and what they would show otherwise is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from mindone.data import display
from mindone.data.display import Display
from mindone.data.errors import BadSample, reason
from mindone.data.iso import HEADER_BYTES, Stored, is_iso, is_upright, movie_box, stored_frames
from mindone.errors import UserError

# ffmpeg's names of the containers that hold a film themselves
CONTAINERS = (
    "mov,matroska,avi,flv,live_flv,mpegts,mpeg,mpegvideo,asf,ogg,mxf,nut,rm,dv,gif,apng,ivf,obu,av1,h264,hevc,m4v,"
    "yuv4mpegpipe,mjpeg,h263,vc1,vvc,evc,wtv,swf,mp3,flac,wav"
)

# Brands (ISO 14496-12) of pictures in a video's container; a big one is stored as tiles, each a stream of its own
PICTURE_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"}

# As many bytes tell what kind of file it is.
MAGIC_BYTES = 12


def require_file(path: str | Path, start: int = MAGIC_BYTES) -> tuple[int, bytes]:
    """The length in bytes of a regular file, and its first ``start`` bytes.

    Raises:
        BadSample: it is none (a pipe would be waited for), is empty, or is a HEIC picture.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise BadSample(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise BadSample(f"{path} cannot be opened ({reason(error)})") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadSample(f"{path} is not a file" + ("" if stat.S_ISDIR(status.st_mode) else " but a pipe or a device"))
    if status.st_size == 0:
        raise BadSample(f"{path} is empty")
    try:
        with open(path, "rb", buffering=0) as file:
            begin = file.read(max(start, MAGIC_BYTES))
    except OSError as error:
        raise BadSample(f"{path} cannot be read ({reason(error)})") from error
    if is_iso(begin) and begin[8:12] in PICTURE_BRANDS:
        raise BadSample(f"{path} is a HEIC or AVIF picture, which is not read; convert it to png or jpeg")
    return status.st_size, begin


def file_url(path: str | Path) -> str:
    """The name by which ffmpeg opens a file, never an address or a pattern."""
    return "file:" + os.path.abspath(path)


class PyAVReader:
    def __init__(self, path: str | Path):
        self._bytes, self._start = require_file(path, HEADER_BYTES)
        self.path, self._frame, self._pending, self._number = path, None, None, -1
        self._shown: tuple[tuple[int, int, float], Display] | None = None
        # one for all frames: a frame's own converter sets up its tables anew, which costs more than a small picture
        self._converter = VideoReformatter()
        self._open()

    def _open(self, threads: int = 0) -> None:
        """Opens the file, an MP4 or MOV of plain H.264 in a fraction of the time.

        Whatever the file, ffmpeg tries all containers that it knows, and decodes up to seven frames to learn in which
        order they come. Where the header surely says both, neither is needed.
        """
        self._shown = None
        with contextlib.suppress(BadSample, OSError):
            # a file that fails is opened as any other, which says what it is
            movie = movie_box(self.path, self._start) if is_iso(self._start) else b""
            if movie and self._open_iso(threads, movie):
                return
        self._open_as(threads)

    def _open_iso(self, threads: int, movie: bytes) -> bool:
        """Opens an MP4 or MOV whose headers are known, if they are enough."""
        stored = stored_frames(movie)
        return bool(stored and stored.order_known) and self._opened_as(
            threads, stored, skip_frame="all", probesize="32"
        )

    def _opened_as(self, threads: int, stored: Stored | None, **options: str) -> bool:
        """Opens an MP4 or MOV; says False if it has no count of frames, or another size than this."""
        self._open_as(threads, "mov", **options)
        stream = self._stream
        if stream.frames and (stored is None or stored[:2] == (stream.height, stream.width)):
            return True
        self._container.close()
        return False

    def _open_as(self, threads: int, kind: str | None = None, **more: str) -> None:
        """Opens the file; as a container of ``kind`` if that is said, and with ``more`` options of ffmpeg's."""
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"} | more
        try:
            self._container = av.open(file_url(self.path), format=kind, options=options, metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise BadSample(f"{self.path} is not a readable video ({reason(error)})") from error
        try:
            self._stream = self._film()
        except BadSample:
            self._container.close()
            raise
        self._stream.thread_type, self._stream.thread_count = "AUTO", threads
        self._frames = self._container.decode(self._stream)

    def _film(self) -> av.VideoStream:
        stream = display.film_stream(self._container)
        if stream is None:
            kinds = " and ".join(sorted({stream.type for stream in self._container.streams}))
            why = "a cover picture only" if "video" in kinds else f"{kinds} only" if kinds else "damaged or truncated"
            raise BadSample(f"{self.path} has no video stream ({why})")
        if stream.codec_context is None:
            raise BadSample(f"{self.path} has a video stream that no decoder knows; convert it to h264")
        display.check_size(self.path, stream.height, stream.width)
        stream.codec_context.options = {"max_pixels": str(display.MAX_PIXELS)}
        return stream

    @property
    def fps(self) -> float:
        return float(self._stream.average_rate or self._stream.guessed_rate or 0)

    @property
    def header_frames(self) -> int:
        return self._stream.frames

    def header_size(self) -> tuple[int, int] | None:
        """Height and width of the frames as the header has them; None if that says that they are shown otherwise.

        Raises:
            BadSample: the header lists frames beyond the end of the file.
        """
        stream = self._stream
        entries = getattr(stream, "index_entries", ())
        if len(entries) and entries[-1].pos + entries[-1].size > self._bytes:
            raise BadSample(f"{self.path} is truncated: its header lists frames up to beyond its {self._bytes:,} bytes")
        aspect = stream.sample_aspect_ratio or 1
        return (stream.height, stream.width) if aspect in (0, 1) and not self._says_matrix() else None

    def _says_matrix(self) -> bool:
        # PyAV gives the display matrix with frames only, but ffmpeg's description of a file names it.
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            described = self._container.dumps_format().lower()
        finally:
            av.logging.set_level(level)
        return "stream" not in described or "display matrix" in described or "displaymatrix" in described

    def count_packets(self) -> int:
        """The number of packets with content, which in nearly all files is that of the frames; nothing is decoded."""
        try:
            return sum(packet.size > 0 for packet in self._container.demux(self._stream))
        except (av.FFmpegError, OSError) as error:
            raise BadSample(f"{self.path} is damaged or truncated ({reason(error)})") from error

    @property
    def time(self) -> float | None:
        return self._frame.time

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame it stands on, as shown."""
        return self.display.size(self._frame.height, self._frame.width)

    @property
    def display(self) -> Display:
        frame = self._frame
        kind = frame.height, frame.width, frame.rotation
        if self._shown is None or self._shown[0] != kind:
            # seldom, because PyAV never frees a frame whose side data were looked at before a garbage collection
            self._shown = kind, display.display_of(frame, self._stream, self.path)
        return self._shown[1]

    def advance(self) -> bool:
        self._number += 1
        if self._pending is not None:
            self._frame, self._pending = self._pending, None
            return True
        try:
            self._frame = self._next()
        except (av.FFmpegError, OSError) as error:
            raise BadSample(f"{self.path} is damaged or truncated ({reason(error)})") from error
        except IndexError as error:
            # at its end, PyAV looks for streams that were not there when the file was opened
            raise BadSample(f"{self.path} gets further streams on its way, which PyAV does not read") from error
        return self._frame is not None

    def _next(self) -> av.VideoFrame | None:
        try:
            return next(self._frames, None)
        except av.InvalidDataError:
            # With several threads, frames from before a damaged packet can get lost with it: again, with one.
            self.close()
            self._open(threads=1)
            self._frames = itertools.islice(self._frames_before_the_end(), self._number, None)
            return next(self._frames, None)

    def _frames_before_the_end(self) -> Iterator[av.VideoFrame]:
        """Frames of a file whose last packet may be cut off; a damaged packet before the last one raises."""
        damage = None
        for packet in self._container.demux(self._stream):
            if damage and packet.size:
                raise damage
            try:
                yield from packet.decode()
            except av.InvalidDataError as error:
                damage = error

    def image(self, longest: int | None = None) -> np.ndarray:
        """The frame; with ``longest`` one that has no side beyond it, which is shrunk on its way to RGB."""
        frame, alpha = self._frame, display.has_alpha(self._frame)
        self.warn_of_loss()
        if not alpha and self._stream.metadata.get("alpha_mode") == "1":
            raise BadSample(f"{self.path} has transparency that is not decoded; put it on a background before")
        matrix, colour_range = display.colour_of(frame, self.path)
        shown, size = self.display, None
        if longest is not None and not alpha:
            height, width = shown.stretched(frame.height, frame.width)
            size = display.shrunk_size(height, width, longest) if longest < max(height, width) else None
        try:
            # Everything is said, because what releases of PyAV assume for what is left out is not the same.
            image = self._converter.reformat(
                frame,
                *(size[::-1] if size else ()),
                format="rgba" if alpha else "rgb24",
                src_colorspace=matrix,
                dst_colorspace=display.BT601 if matrix != display.BT601 else display.BT709,
                src_color_range=colour_range,
                dst_color_range=display.FULL_RANGE,
                interpolation="AREA" if size else "BILINEAR",
                threads=1 if size else 0,
            ).to_ndarray()
        except (av.FFmpegError, OSError, ValueError) as error:
            raise BadSample(f"{self.path} has frames that cannot be converted to RGB ({reason(error)})") from error
        if size:
            return shown.turned(image)
        image = shown.apply(display.over_white(image) if alpha else image)
        return image if longest is None else display.shrunk(image, longest)

    def warn_of_loss(self) -> None:
        display.warn_of_loss(self._frame, self.path)

    def deviations(self, knows_matrix: bool, turns: bool) -> Iterator[str]:
        """What of the frame it stands on the other backends show otherwise, or leave out.

        Args:
            knows_matrix: the backend converts by the colour matrix and range that the file names.
            turns: frames come from the backend as they are stored, so that turning them here is right.
        """
        frame, space = self._frame, int(self._frame.colorspace)
        matrix, colour_range = display.colour_of(frame, self.path)
        if self.display.is_turned and not turns:
            yield "frames to be turned or mirrored"
        if display.has_alpha(frame) or self._stream.metadata.get("alpha_mode") == "1":
            yield "transparency"
        if max(part.bits for part in frame.format.components) > 8:
            yield "more than 8 bits"
        if frame.interlaced_frame:
            yield "interlaced frames"
        if self._stream is not self._container.streams.video[0]:
            yield "several video streams"
        if matrix != display.BT601 and not (knows_matrix and space != display.UNSPECIFIED_SPACE):
            yield "a colour matrix other than BT.601"
        elif (
            colour_range == display.FULL_RANGE
            and not (knows_matrix or frame.format.is_rgb)
            and not frame.format.name.startswith("yuvj")
        ):
            yield "full-range colours"

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
        self._pending, self._number = frame, round(number) - 1
        return self._number

    def _restart(self) -> int:
        self.close()
        self._open()
        self._number = -1
        return -1

    def close(self) -> None:
        self._container.close()


class HeaderReader(PyAVReader):
    """What a film's header says, not its frames, though of some films it reads those as well.

    Of an MP4 or MOV no order is needed; where size and shape of pixels are not sure, one frame is enough to see them.
    """

    _is_upright = False

    def _open_iso(self, threads: int, movie: bytes) -> bool:
        self._is_upright, stored = is_upright(movie), stored_frames(movie)
        more = {"skip_frame": "all"} if stored else {}
        return self._opened_as(threads, stored, fflags="+noparse", **more)

    def _says_matrix(self) -> bool:
        return not self._is_upright and super()._says_matrix()


def _display_for(path: str | Path, backend: str, **abilities: bool) -> Display:
    """How to show the file, if ``backend`` gives the same pixels as PyAV.

    Raises:
        BadSample: it does not, or PyAV cannot read the file.
    """
    with contextlib.closing(PyAVReader(path)) as reader:
        if not reader.advance():
            raise BadSample(f"{path} has no frames")
        reader.warn_of_loss()
        deviations = list(reader.deviations(**abilities))
        if deviations:
            raise BadSample(f"{path} has {' and '.join(deviations)}, which {backend} shows wrongly; use pyav")
        return reader.display


class CV2Reader:
    def __init__(self, path: str | Path):
        self.path, self._display = path, _display_for(path, "cv2", knows_matrix=False, turns=True)
        self._capture = cv2.VideoCapture(file_url(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            self._capture.release()
            raise BadSample(f"{path} cannot be opened by OpenCV; try the pyav backend")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)

    @property
    def header_frames(self) -> int:
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    @property
    def time(self) -> float | None:
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000

    def advance(self) -> bool:
        return self._capture.grab()

    def image(self) -> np.ndarray:
        ok, image = self._capture.retrieve()
        if not ok:
            raise BadSample(f"{self.path} is damaged: a frame does not decode")
        return self._display.apply(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))

    def seek(self, index: int, position: int) -> int:
        if index >= self.header_frames or not self._capture.set(cv2.CAP_PROP_POS_FRAMES, index):
            return position
        return int(self._capture.get(cv2.CAP_PROP_POS_FRAMES)) - 1

    def close(self) -> None:
        self._capture.release()


class DecordReader:
    def __init__(self, path: str | Path):
        try:
            import decord
        except ImportError as error:
            raise UserError(
                "video backend decord is not installed; pip install decord, or choose pyav or cv2"
            ) from error
        self.path, self._position = path, -1
        self._display = _display_for(path, "decord", knows_matrix=True, turns=False)
        try:
            self._reader = decord.VideoReader(file_url(path), ctx=decord.cpu(0), num_threads=1)
        except Exception as error:
            raise BadSample(f"{path} cannot be opened by decord; try the pyav backend") from error

    @property
    def header_frames(self) -> int:
        return len(self._reader)

    @property
    def time(self) -> float | None:
        return float(self._reader.get_frame_timestamp(self._position)[0])

    def advance(self) -> bool:
        self._position += 1
        return self._position < len(self._reader)

    def image(self) -> np.ndarray:
        try:
            return self._display.apply(self._reader[self._position].asnumpy())
        except Exception as error:
            raise BadSample(
                f"{self.path} is damaged, or needs the pyav backend: decord does not decode frame {self._position}"
            ) from error

    def seek(self, index: int, position: int) -> int:
        self._position = min(index, len(self._reader)) - 1
        return self._position

    def close(self) -> None:
        self._reader = None
