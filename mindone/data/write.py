"""Video and picture writing: h264 mp4, gif, png, contact sheets, and file names made from prompts.

Frames are (T, H, W, 3) uint8 RGB. Every file is written beside its place and renamed into it.
"""

from __future__ import annotations

import io
import itertools
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from imageio.plugins.pyav import PyAVPlugin
from PIL import Image, ImageDraw

from mindone.checkpoint.atomic import atomic_folder, atomic_write
from mindone.data.captions import draw_line, wrapped
from mindone.errors import UserError

SHEET_BACKGROUND, SHEET_TEXT = (255, 255, 255), (20, 20, 20)
TEXT_SIZE, LINE_HEIGHT = 12, 16


def to_uint8(video: np.ndarray) -> np.ndarray:
    """(C, T, H, W) in [-1, 1] to frames (T, H, W, C) uint8, rounded to the nearest value."""
    frames = np.asarray(video, np.float32).transpose(1, 2, 3, 0)
    return np.round(np.clip((frames + 1) * 127.5, 0, 255)).astype(np.uint8)


def write_video(path: str | Path, frames: np.ndarray, fps: float, crf: int = 18) -> Path:
    """Writes an h264 mp4 (yuv420p, index first) that players and browsers show.

    Args:
        frames: (T, H, W, 3) uint8; a last odd row or column is repeated, because 4:2:0 needs even sizes.
        crf: quality, from 0 (lossless) to 51.
    Raises:
        UserError: frames of another form, or a rate that is not positive.
    """
    write_frames(path, _checked(frames, path), fps, crf)
    return Path(path)


def write_frames(path: str | Path, frames: Iterable[np.ndarray], fps: float, crf: int = 18) -> int:
    """As `write_video`, of (H, W, 3) uint8 frames as they come, so that films of any length take the memory of a few.

    Returns how many there were.

    Raises:
        UserError: as there, or no frames; or whatever the frames raise, and there is no file then.
    """
    _check_rate(fps, path)
    coming = iter(frames)
    first = next(coming, None)
    if first is None:
        raise UserError(f"{path} cannot be written: there are no frames")
    with atomic_write(path) as file:
        # An absolute path, for ffmpeg takes what stands before the ":" of a relative one for a protocol.
        return _encode(str(Path(file.name).absolute()), itertools.chain([first], coming), fps, crf)


class _VideoWriter(PyAVPlugin):
    """imageio's writer with what it has no argument for: the options of the encoder."""

    def init_video_stream(self, codec: str, *, options: Mapping[str, str], **settings) -> None:
        super().init_video_stream(codec, **settings)
        self._video_stream.options.update(options)

    def __del__(self):
        """Does nothing: `_encode` closes the writer; closing a failed one again would print a traceback."""


def _encode(name: str, frames: Iterable[np.ndarray], fps: float, crf: int) -> int:
    count = 0
    # The colour matrix is the one that the conversion from RGB uses; without the tag players guess it from the size.
    encoder = {"crf": str(crf), "preset": "medium", "colorspace": "smpte170m", "color_range": "tv"}
    container = {"container": "mp4", "extension": ".mp4", "options": {"movflags": "+faststart"}}
    with iio.imopen(name, "w", plugin=_VideoWriter, **container) as video:
        video.init_video_stream("libx264", options=encoder, fps=float(fps), pixel_format="yuv420p")
        for frame in frames:
            count += 1
            height, width = frame.shape[:2]
            video.write_frame(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
    return count


def write_gif(path: str | Path, frames: np.ndarray, fps: float) -> Path:
    """Writes an endlessly looping gif; its time resolution is 10 ms, so rates above 50 are slowed down."""
    frames = _checked(frames, path)
    _check_rate(fps, path)
    duration = max(20, round(100 / fps) * 10)
    with atomic_write(path) as file:
        iio.imwrite(file, frames, plugin="pillow", extension=".gif", duration=duration, loop=0)
    return Path(path)


def write_png(path: str | Path, frames: np.ndarray) -> Path:
    """Writes one frame as a png file, or several as ``0000.png, 0001.png, ...`` in the folder of that name.

    Returns:
        the file, or the folder: ``path`` without its suffix.
    """
    frames = _checked(frames, path)
    if len(frames) == 1:
        _write_image(path, frames[0])
        return Path(path)
    folder = Path(path).with_suffix("") if Path(path).suffix == ".png" else Path(path)
    with atomic_folder(folder) as unfinished:
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(unfinished / f"{index:04d}.png")
    return folder


def _write_image(path: str | Path, image: np.ndarray) -> None:
    with atomic_write(path) as file:
        Image.fromarray(image).save(file, "PNG")


def write_palette_png(path: str | Path, picture: np.ndarray, max_bytes: int) -> bool:
    """Writes a picture (H, W, 3) uint8 as a png file of at most 256 colours, if it is no larger than ``max_bytes``.

    Returns:
        whether it was written.
    """
    data = io.BytesIO()
    Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    if data.tell() > max_bytes:
        return False
    with atomic_write(path) as file:
        file.write(data.getvalue())
    return True


def _checked(frames: np.ndarray, path: str | Path) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise UserError(
            f"frames for {path} have shape {frames.shape} and dtype {frames.dtype}; (T, H, W, 3) uint8 is needed"
        )
    return frames


def _check_rate(fps: float, path: str | Path) -> None:
    if not 0 < fps < math.inf:
        raise UserError(f"fps={fps} for {path} has to be a positive number")


# --- contact sheets --------------------------------------------------------------------------------------------------


def contact_sheet(
    clips: Sequence[np.ndarray], captions: Sequence[str], columns: int = 6, width: int = 128
) -> np.ndarray:
    """A picture (H, W, 3) uint8 with one row per clip: evenly spaced frames, and the caption under them.

    Args:
        clips: each (T, H, W, 3) uint8.
        captions: whole, in as many lines as they need; a line break in one is kept.
        columns: frames per row; a shorter clip shows all it has.
        width: pixels of a frame.
    """
    if len(clips) != len(captions) or not clips:
        raise UserError(f"a contact sheet of {len(clips)} clips cannot have {len(captions)} captions")
    rows = [
        _sheet_row(_checked(clip, "a contact sheet"), caption, columns, width) for clip, caption in zip(clips, captions)
    ]
    return np.concatenate(rows)


def write_contact_sheet(path: str | Path, clips: Sequence[np.ndarray], captions: Sequence[str], **layout) -> Path:
    """Writes the `contact_sheet` of some clips as a png file."""
    _write_image(path, contact_sheet(clips, captions, **layout))
    return Path(path)


def _sheet_row(clip: np.ndarray, caption: str, columns: int, width: int, gap: int = 4) -> np.ndarray:
    height = max(1, round(clip.shape[1] * width / clip.shape[2]))
    chosen = np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int)
    sheet_width = columns * (width + gap) + gap
    lines = wrapped(caption, sheet_width - 2 * gap, TEXT_SIZE)
    row = Image.new("RGB", (sheet_width, height + gap + LINE_HEIGHT * len(lines) + 2 * gap), SHEET_BACKGROUND)
    for column, index in enumerate(chosen):
        row.paste(Image.fromarray(clip[index]).resize((width, height)), (gap + column * (width + gap), gap))
    draw = ImageDraw.Draw(row)
    for number, line in enumerate(lines, 1):
        draw_line(draw, gap, height + gap + LINE_HEIGHT * number, line, TEXT_SIZE, SHEET_TEXT)
    return np.asarray(row)


def slug(text: str, words: int = 10, max_length: int = 80) -> str:
    """A file name made from a prompt: its first words, letters and digits only, joined by ``-``.

    The result is not empty and at most ``max_length`` bytes long.
    """
    plain = unicodedata.normalize("NFKC", text)
    spaced = "".join(char if char.isalnum() else " " for char in plain.replace("'", "").replace("’", ""))
    name = "-".join(spaced.split()[:words])
    while len(name.encode()) > max_length:
        name = name[:-1]
    return name.strip("-") or "untitled"
