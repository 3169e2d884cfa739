"""Buckets: at which resolution, length and aspect ratio a sample trains, by the published rules.

Resolutions are tried from the largest to the smallest. A sample fits one when its area is at least 0.8 of the
resolution's pixels. There, lengths are tried from the longest to the shortest; a picture goes to those of one frame
only, a video to the others. A length has the chance that it is taken at all, otherwise the next shorter one is tried;
and once it is taken the resolution has the chance to keep the sample, otherwise the next smaller one is tried. A chance
of 0 to be kept sends samples of that length on to smaller resolutions. The aspect ratio is the nearest one in height /
width. What no resolution keeps is left out of the epoch.

Open-Sora 1.1 and 1.2: a video has to have more than ``frames * frame_stride`` frames, and a pair ``[keep, take]`` has
the chance that the length is taken. Open-Sora 2.0: at least ``frames``, after its frame rate has been brought below a
limit, and the second of a pair ``[keep, pass]`` is the chance that the length is passed over.

Beside the published names of resolutions, ``64x96`` (height x width) is a bucket of that one size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mindone.config import SettingError
from mindone.data.metadata import Metadata
from opensora.data.aspect import (
    ASPECT_TABLES,
    PIXELS,
    aspect_table_2_0,
    exact_size,
    named_resolution,
    pixels_2_0,
    ratio_2_0,
)
from opensora.sizes import VideoSize

# resolution -> frames -> [chance, batch size], where a chance is a number or a pair
BucketConfig = Mapping[str, Mapping[int, Any]]
# (number of resolution and length, "take" or "keep", rows) -> a number in [0, 1) per row
Draw = Callable[[int, str, np.ndarray], np.ndarray]

SMALLEST_AREA = 0.8
# Rows whose aspect ratios are compared at once.
ROWS_AT_ONCE = 1 << 16

UNREADABLE = "cannot be read"
TOO_SMALL = "smaller than every resolution"
NO_PICTURES = "a picture, and no resolution that it is large enough for has a bucket of 1 frame"
TOO_SHORT = "too short for every length of the resolutions that it is large enough for"
BY_CHANCE = "passed over by the probabilities"


@dataclass(frozen=True)
class Bucket:
    """Samples that train at one size."""

    resolution: str
    ratio: str
    size: VideoSize
    batch_size: int
    """samples per rank"""

    def __str__(self) -> str:
        frames, height, width = self.size
        return f"{self.resolution}, {frames} frames, {height}x{width}"


@dataclass(frozen=True)
class Length:
    """A length at one resolution; ``number`` counts lengths from the largest resolution and longest length on."""

    number: int
    num_frames: int
    keep: float
    take: tuple[float, float] | None
    """the length is taken for draws from the first number on and below the second; None: always, nothing is drawn"""
    batch_size: int


@dataclass(frozen=True)
class Resolution:
    """One name of a bucket config, its lengths from the longest on."""

    name: str
    pixels: int
    sizes: Mapping[str, tuple[int, int]]
    """(height, width) per aspect ratio"""
    ratios: np.ndarray
    """height / width of these, float64"""
    lengths: Sequence[Length]


@dataclass(frozen=True)
class BucketRules:
    """The rules of one version with one bucket config.

    Args:
        strict: a video needs more frames than a bucket has, not as many.
    """

    resolutions: Sequence[Resolution]
    strict: bool

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """All buckets, in the order of the numbers that `Fitted.assign` gives."""
        return tuple(
            Bucket(resolution.name, ratio, (length.num_frames, *size), length.batch_size)
            for resolution in self.resolutions
            for length in resolution.lengths
            for ratio, size in resolution.sizes.items()
        )

    def fit(self, metadata: Metadata, interval: np.ndarray | int = 1) -> Fitted:
        """What of the rules is the same in every epoch; every ``interval``-th frame of a video is taken, (N,) int."""
        return Fitted(self, metadata, interval)


class Fitted:
    """The rules on one table."""

    def __init__(self, rules: BucketRules, metadata: Metadata, interval: np.ndarray | int):
        self.rules, self.known = rules, metadata.num_frames > 0
        frames = metadata.num_frames
        # so many frames a bucket may have at most
        longest = (frames - 1) // interval if rules.strict else frames // interval
        self.is_picture = self.known & ((frames if rules.strict else longest) == 1)
        self.longest = np.where(self.is_picture, 1, longest)
        self.area = metadata.height.astype(np.int64) * metadata.width
        self._ratios = [self._nearest(resolution, metadata) for resolution in rules.resolutions]

    def _nearest(self, resolution: Resolution, metadata: Metadata) -> np.ndarray:
        """(N,) uint8 place of the aspect ratio that is nearest; the first one wins a tie."""
        nearest = np.zeros(len(metadata), np.uint8)
        rows = np.flatnonzero(self._is_large_enough(resolution, slice(None)))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            ratio = metadata.height[some] / metadata.width[some]
            nearest[some] = np.abs(resolution.ratios - ratio[:, None]).argmin(axis=1)
        return nearest

    def _is_large_enough(self, resolution: Resolution, rows: np.ndarray | slice) -> np.ndarray:
        return self.known[rows] & (self.area[rows] >= SMALLEST_AREA * resolution.pixels)

    def _may_have(self, length: Length, rows: np.ndarray) -> np.ndarray:
        if length.num_frames == 1:
            return self.is_picture[rows]
        return ~self.is_picture[rows] & (self.longest[rows] >= length.num_frames)

    def assign(self, draw: Draw) -> np.ndarray:
        """(N,) int32 number of each sample's bucket in `BucketRules.buckets`; -1 where it has none."""
        found = np.full(len(self.area), -1, np.int32)
        left, first = np.arange(len(self.area)), 0
        for resolution, ratios in zip(self.rules.resolutions, self._ratios):
            rows = left[self._is_large_enough(resolution, left)]
            for length in resolution.lengths:
                taken, kept = self._taken(length, rows, draw)
                rows = rows[~taken]
                found[kept] = first + ratios[kept].astype(np.int32)
                first += len(resolution.sizes)
            left = left[found[left] < 0]
        return found

    def _taken(self, length: Length, rows: np.ndarray, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Of ``rows``, where the length is taken (bool), and those rows that are kept."""
        where = np.flatnonzero(self._may_have(length, rows))
        if length.take is not None and len(where):
            chances, (low, high) = draw(length.number, "take", rows[where]), length.take
            where = where[(low <= chances) & (chances < high)]
        taken = np.zeros(len(rows), bool)
        taken[where] = True
        kept = rows[where]
        if length.keep < 1 and len(kept):
            kept = kept[draw(length.number, "keep", kept) < length.keep]
        return taken, kept

    def reasons(self, found: np.ndarray) -> dict[str, np.ndarray]:
        """Why samples have no bucket: reason -> their rows."""
        out = np.flatnonzero(found < 0)
        large, possible = np.zeros(len(out), bool), np.zeros(len(out), bool)
        for resolution in self.rules.resolutions:
            fits = self._is_large_enough(resolution, out)
            large |= fits
            for length in resolution.lengths:
                possible |= fits & self._may_have(length, out)
        pictures = self.is_picture[out]
        cases = {
            UNREADABLE: ~self.known[out],
            TOO_SMALL: self.known[out] & ~large,
            NO_PICTURES: large & ~possible & pictures,
            TOO_SHORT: large & ~possible & ~pictures,
            BY_CHANCE: possible,
        }
        return {reason: out[which] for reason, which in cases.items() if which.any()}


class Sizes(NamedTuple):
    """Of a resolution: its pixels, (height, width) per aspect ratio, and these ratios as numbers (float64)."""

    pixels: int
    sizes: Mapping[str, tuple[int, int]]
    ratios: np.ndarray


# --- versions --------------------------------------------------------------------------------------------------------


def rules_1(config: BucketConfig) -> BucketRules:
    """The rules of Open-Sora 1.1 and 1.2.

    Raises:
        SettingError: the config has unknown names, or values that cannot be.
    """

    def named(name: str) -> Sizes:
        table = ASPECT_TABLES[named_resolution(name)]
        return Sizes(PIXELS[name], table, np.array([float(key) for key in table]))

    return BucketRules(_resolutions(config, named, lambda second: (0.0, second)), strict=True)


def rules_2_0(config: BucketConfig, grid: int = 16) -> BucketRules:
    """The rules of Open-Sora 2.0, with sides that are multiples of ``grid``.

    Raises:
        SettingError: the config has unknown names, or values that cannot be.
    """

    def named(name: str) -> Sizes:
        table = aspect_table_2_0(name, training=True, grid=grid)
        return Sizes(pixels_2_0(name), table, np.array([ratio_2_0(key) for key in table]))

    return BucketRules(_resolutions(config, named, lambda second: (second, 1.0)), strict=False)


def sampling_intervals(fps: np.ndarray, fps_max: float | None) -> np.ndarray:
    """Every how many-th frame of videos is taken, so that they have at most ``fps_max`` frames per second (2.0).

    Args:
        fps: (N,) of the files; 0 or nan where it is not known.
        fps_max: None sets no limit.
    Returns:
        (N,) int32.
    """
    rates = np.nan_to_num(np.asarray(fps, np.float64))
    if fps_max is None:
        return np.ones(rates.shape, np.int32)
    return np.maximum(1, np.ceil(rates / fps_max)).astype(np.int32)


def _resolutions(
    config: BucketConfig, named: Callable[[str], Sizes], take: Callable[[float], tuple[float, float]]
) -> list[Resolution]:
    """The config's resolutions from the largest on.

    Args:
        named: the sizes of a version's published names.
        take: the draws for which a pair takes a length.
    """
    sizes = {name: _one_size(name) or named(name) for name in config}
    found, number = [], 0
    for name in sorted(config, key=lambda name: sizes[name].pixels, reverse=True):
        lengths = []
        for frames in sorted(config[name], reverse=True):
            keep, second, batch_size = _entry(name, frames, config[name][frames])
            lengths.append(Length(number, frames, keep, None if second is None else take(second), batch_size))
            number += 1
        found.append(Resolution(name, *sizes[name], lengths))
    if not any(length.keep for resolution in found for length in resolution.lengths):
        raise SettingError("bucket_config has no bucket with a probability above 0", "bucket_config")
    return found


def _one_size(name: str) -> Sizes | None:
    """Of a name ``64x96``, a resolution of that size alone; None of any other name."""
    size = exact_size(name)
    if size is None:
        return None
    height, width = size
    return Sizes(height * width, {f"{height / width:.2f}": size}, np.array([height / width]))


def _entry(name: str, frames: int, entry: Any) -> tuple[float, float | None, int]:
    """Chance to be kept, second number of a pair, and batch size."""
    what = f"bucket_config.{name}.{frames}"
    if not (isinstance(entry, list | tuple) and len(entry) == 2):
        raise SettingError(f"{what}={entry} has to be [probability, batch size]", what)
    chance, batch_size = entry
    pair = list(chance) if isinstance(chance, list | tuple) else [chance]
    if len(pair) > 2 or not all(_is_number(value) and 0 <= value <= 1 for value in pair) or not pair:
        raise SettingError(f"{what}={entry}: a probability is a number from 0 to 1, or a pair of them", what)
    least = 1 if pair[0] > 0 else 0
    if batch_size is None and not least:
        batch_size = 0
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < least or frames < 1:
        raise SettingError(f"{what}={entry}: frames and batch size have to be whole numbers of at least 1", what)
    return float(pair[0]), float(pair[1]) if len(pair) == 2 else None, batch_size


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
