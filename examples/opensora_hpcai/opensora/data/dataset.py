"""Datasets for a `mindone.data.loader.Loader`: raw videos, and cached latents, each with captions or cached text.

Items are dicts. ``frames`` (T, H, W, 3) uint8, or ``latent_mean`` and ``latent_std`` (C, T', h, w) float32
before normalisation; ``text_emb`` (L, D) float32 and ``text_mask`` (L,) uint8 where text is cached; ``caption``;
``fps`` of the item's own frames, and ``height``, ``width``, ``num_frames`` in pixels and frames, float32 numbers as the
networks take them; ``index``. A size is (frames, height, width) in pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from mindone.data.errors import BadSample
from mindone.data.table import VideoRow
from mindone.data.transforms import ResizeCrop, Transform
from mindone.data.video import Film, MissingFrames, clip_indices, clip_rate, count_frames, open_film
from mindone.errors import UserError
from opensora.data import cache
from opensora.sizes import VideoSize

IMAGE_FPS = 120.0
DEFAULT_FPS = 24.0


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Entry = TypeVar("Entry", bound=Sized)


class Memory:
    """Keeps what was read until ``limit`` bytes are used up; each worker process has its own."""

    def __init__(self, limit: int = 0):
        self.limit, self.used, self._entries = limit, 0, {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def fits(self, nbytes: int) -> bool:
        return self.used + nbytes <= self.limit

    def get(self, key: Hashable, read: Callable[[], Entry]) -> Entry:
        """The entry called ``key``, from memory, or read and kept if it fits."""
        if key in self._entries:
            return self._entries[key]
        entry = read()
        if self.fits(entry.nbytes):
            self._entries[key] = entry
            self.used += entry.nbytes
        return entry


@dataclass
class TextCache:
    """The text caches of a table's rows."""

    folder: str | Path
    memory: Memory = field(default_factory=Memory)

    def item(self, row: VideoRow) -> dict[str, np.ndarray]:
        """The row's embedding.

        Raises:
            BadSample: it cannot be used.
            UserError: it was made from another caption.
        """
        path = cache.cache_path(self.folder, row.relative)
        entry = self.memory.get(path, lambda: cache.read_text(path))
        cache.require_same_text(path, entry, row.caption)
        found = {"text_emb": entry.text_emb, "text_mask": entry.mask}
        return found if entry.pooled is None else {**found, "pooled": entry.pooled}


class VideoTextDataset:
    """Clips of raw videos.

    Args:
        rows: see `mindone.data.table.read_video_table`.
        num_frames: of a clip; its start is random. 1 frame also takes pictures.
        frame_stride: take every so many-th frame; one number for all, or (N,) whole numbers.
        size: (height, width); frames are resized to cover it and cropped at the centre. A planned batch may ask for
            another size, and another number of frames. Or a transform that does something else.
        text_folder: cached text embeddings; None gives captions only.
        stretch: repeat frames of videos that are too short, instead of calling them bad.
        flip: mirror half of the clips; not for captions that tell left from right.
        random_start: False starts each clip at its first frame.
        backend: ``pyav``, ``cv2`` or ``decord``.
        cache_bytes: keep whole resized videos and text embeddings in memory, up to this size per process.
    """

    def __init__(
        self,
        rows: Sequence[VideoRow],
        num_frames: int,
        size: tuple[int, int] | Transform,
        frame_stride: int | np.ndarray = 1,
        text_folder: str | Path | None = None,
        stretch: bool = False,
        flip: bool = False,
        random_start: bool = True,
        transform_name: str = "center",
        backend: str = "pyav",
        cache_bytes: int = 0,
    ):
        if num_frames < 1 or np.min(frame_stride) < 1:
            raise UserError(f"num_frames={num_frames} and frame_stride={frame_stride} have to be at least 1")
        self.rows, self.num_frames, self.frame_stride = list(rows), num_frames, frame_stride
        self.stretch, self.flip, self.random_start, self.backend = stretch, flip, random_start, backend
        self.transform = ResizeCrop(*size, transform_name) if isinstance(size, tuple) else size
        self.memory = Memory(cache_bytes)
        self.text = TextCache(text_folder, self.memory) if text_folder else None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return str(self.rows[index].file)

    def get(self, index: int, rng: np.random.Generator, size: VideoSize | None = None) -> dict[str, Any]:
        """A clip of a size, or of the dataset's own."""
        row, wanted = self.rows[index], self._wanted(index, size)
        frames, fps = self._clip(row, wanted, rng)
        if self.flip and rng.random() < 0.5:
            frames = frames[:, :, ::-1]
        item = {"frames": frames, "caption": row.caption, "index": index}
        item |= conditions(fps, *frames.shape[1:3], wanted.num_frames)
        return item | self.text.item(row) if self.text else item

    def _wanted(self, index: int, size: VideoSize | None) -> _Wanted:
        stride = self.frame_stride if isinstance(self.frame_stride, int) else int(self.frame_stride[index])
        if size is None:
            return _Wanted(self.num_frames, stride, self.transform)
        return _Wanted(size[0], stride, replace(self.transform, height=size[1], width=size[2]))

    def _clip(self, row: VideoRow, wanted: _Wanted, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """Resized frames (T, H, W, 3) uint8 and their rate."""
        key = (row.file, wanted.transform)
        if key in self.memory:
            return self._part(row, self.memory.get(key, None), wanted, rng)
        with open_film(row.file, self.backend) as film:
            transform = wanted.transform.of(film.info.height, film.info.width)
            if self.memory.fits(film.info.num_frames * transform.height * transform.width * 3):
                return self._part(row, self.memory.get(key, lambda: _read(film, wanted)), wanted, rng)
            start = rng.bit_generator.state
            try:
                clip = _read(film, wanted, self._indices(row, film.info.num_frames, wanted, rng))
            except MissingFrames:
                # the header promises more frames than there are: choose again among those that decode
                rng.bit_generator.state = start
                indices = self._indices(row, count_frames(row.file), wanted, rng)
                with open_film(row.file, self.backend) as again:
                    clip = _read(again, wanted, indices)
        return clip.frames, clip_rate(clip.times, clip.fps, wanted.stride)

    def _part(
        self, row: VideoRow, whole: TimedFrames, wanted: _Wanted, rng: np.random.Generator
    ) -> tuple[np.ndarray, float]:
        return whole.part(self._indices(row, len(whole.frames), wanted, rng), wanted.stride)

    def _indices(self, row: VideoRow, total: int, wanted: _Wanted, rng: np.random.Generator) -> list[int]:
        try:
            return clip_indices(
                total, wanted.num_frames, wanted.stride, rng if self.random_start else None, self.stretch
            )
        except BadSample as error:
            raise BadSample(f"{row.file} is {error}") from error


@dataclass(frozen=True)
class _Wanted:
    """Frames of a clip, the step between them, and how they are resized."""

    num_frames: int
    stride: int
    transform: Transform


def _read(film: Film, wanted: _Wanted, indices: Sequence[int] | None = None) -> TimedFrames:
    """The frames at ``indices``, or all, resized."""
    times: list[float] = []
    transform = wanted.transform.of(film.info.height, film.info.width)
    frames = transform.clip(film.frames(indices, times=times), count=len(indices) if indices is not None else None)
    return TimedFrames(frames, np.asarray(times), film.info.fps)


@dataclass(frozen=True)
class TimedFrames:
    """Resized frames (T, H, W, 3) uint8 of a video, their time stamps in seconds, and the video's mean rate."""

    frames: np.ndarray
    times: np.ndarray
    fps: float

    def part(self, indices: Sequence[int], stride: int) -> tuple[np.ndarray, float]:
        """The frames at ``indices`` and their rate."""
        return self.frames[indices], clip_rate(self.times[indices], self.fps, stride)

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes


class WholeVideoDataset:
    """Whole videos, for encoding: ``frames`` (T, height, width, 3) uint8, their ``fps``, ``ori_size``, and ``index``.

    Args:
        num_frames: so many frames from the start, a shorter video being bad; None takes all.
    """

    def __init__(
        self,
        rows: Sequence[VideoRow],
        transform: Transform,
        num_frames: int | None = None,
        frame_stride: int = 1,
        backend: str = "pyav",
    ):
        self.rows, self.transform, self.backend = list(rows), transform, backend
        self.num_frames, self.frame_stride = num_frames, frame_stride

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return str(self.rows[index].file)

    def get(self, index: int, rng: np.random.Generator, size: None = None) -> dict[str, Any]:
        stop = self.num_frames * self.frame_stride if self.num_frames else sys.maxsize
        wanted = range(0, stop, self.frame_stride)
        times: list[float] = []
        with open_film(self.rows[index].file, self.backend) as film:
            info = film.info
            transform = self.transform.of(info.height, info.width)
            frames = transform.clip(film.frames(wanted, self.num_frames is None, times))
        return {
            "frames": frames,
            "fps": clip_rate(times, info.fps or IMAGE_FPS, self.frame_stride),
            "ori_size": (info.height, info.width),
            "index": index,
        }


class LatentTextDataset:
    """Cached latents with cached text.

    Args:
        rows: see `mindone.data.table.read_video_table`; the videos themselves are not opened.
        latent_folder: made by ``infer_vae.py``. Of several subfolders ``latent_{h}x{w}`` that of the planned size is
            taken; without a size one is chosen at random per sample (this needs batch size 1).
        text_folder: made by ``infer_t5.py``; None gives captions only.
        latent_frames: cut a random piece of so many latent frames out of longer ones; None takes all. A mapping has
            them by the frames of the planned size, and then a file has to be in the folder of just that size.
        latent_align: pieces start at multiples of this: 5 for 1.2, whose chunks of 17 frames become 5 latent ones.
        spatial_compression: pixels per latent, for files that do not tell the size that was encoded.
        cache_bytes: keep what was read in memory, up to this size per process.
        ends: latent frames of a sample -> names of what conditions may give of it, which its file has to hold, encoded
            by itself; whole videos are needed then.
    """

    def __init__(
        self,
        rows: Sequence[VideoRow],
        latent_folder: str | Path,
        text_folder: str | Path | None = None,
        latent_frames: int | Mapping[int, int] | None = None,
        latent_align: int = 1,
        spatial_compression: int = 8,
        cache_bytes: int = 0,
        ends: Callable[[int], Sequence[str]] | None = None,
    ):
        self.rows, self.folders = list(rows), cache.latent_folders(latent_folder)
        self.latent_frames, self.latent_align = latent_frames, latent_align
        self.spatial_compression, self.ends = spatial_compression, ends
        self.memory = Memory(cache_bytes)
        self.text = TextCache(text_folder, self.memory) if text_folder else None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.rows[index].relative

    def get(self, index: int, rng: np.random.Generator, size: VideoSize | None = None) -> dict[str, Any]:
        """Latents of any size, or of videos of one height and width where several are cached."""
        row = self.rows[index]
        path = self._path(row, rng, size)
        by_size = isinstance(self.latent_frames, Mapping)
        wanted = self.latent_frames[size[0]] if by_size else self.latent_frames
        ends = self.ends(wanted) if self.ends else ()
        entry = self.memory.get(path, lambda: cache.read_latent(path, ends))
        total = len(entry.mean)
        piece = self._piece(path, total, wanted, rng)
        height, width = entry.size or tuple(side * self.spatial_compression for side in entry.mean.shape[2:])
        # without a word on it, one latent frame is one frame: older files come from frame-wise autoencoders
        num_frames = entry.num_frames or total
        if piece.stop - piece.start < total:
            if ends:
                raise BadSample(
                    f"{path} has {total} latent frames, {piece.stop - piece.start} are needed; what conditions give is "
                    "cached of whole videos, so cache them at the length that is trained"
                )
            num_frames = round(num_frames * (piece.stop - piece.start) / total)
        item = {
            "caption": row.caption,
            "index": index,
        }
        for name, parts in {"latent": (entry.mean[piece], entry.std[piece]), **entry.ends}.items():
            item |= {f"{name}_{part}": array.transpose(1, 0, 2, 3) for part, array in zip(("mean", "std"), parts)}
        item |= conditions(entry.fps or row.fps or 0.0, height, width, num_frames)
        return item | self.text.item(row) if self.text else item

    def _path(self, row: VideoRow, rng: np.random.Generator, size: VideoSize | None) -> Path:
        found = cache.folder_of_size(self.folders, *size[1:], self.spatial_compression) if size else None
        if isinstance(self.latent_frames, Mapping) and found is None:
            raise BadSample(f"{row.relative} is not cached in a folder latent_{size[1]}x{size[2]}")
        fitting = [] if found is None else [found]
        paths = [cache.cache_path(folder, row.relative) for folder in fitting or self.folders]
        if len(paths) > 1:
            paths = [path for path in paths if path.is_file()] or paths
        return paths[int(rng.integers(len(paths)))] if len(paths) > 1 else paths[0]

    def _piece(self, path: Path, total: int, wanted: int | None, rng: np.random.Generator) -> slice:
        wanted = wanted or total
        if total < wanted:
            raise BadSample(f"{path} is too short: {total} latent frames, {wanted} are needed")
        starts = (total - wanted) // self.latent_align + 1
        start = int(rng.integers(starts)) * self.latent_align if starts > 1 else 0
        return slice(start, start + wanted)


def conditions(fps: float, height: int, width: int, num_frames: int) -> dict[str, np.float32]:
    """What the networks are told of a clip; a picture counts as 120 frames per second, and no rate as 24."""
    rate = IMAGE_FPS if num_frames == 1 else fps or DEFAULT_FPS
    values = {"fps": rate, "height": height, "width": width, "num_frames": num_frames}
    return {name: np.float32(value) for name, value in values.items()}
