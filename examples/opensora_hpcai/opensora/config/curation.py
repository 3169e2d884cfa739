"""Settings of ``opensora data scenes|cut|score|camera|duplicates``: what is in films, and their parts as clips."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mindone.config import FilePath, require_at_least
from opensora.config.data import TableSettings

ScoreName = Literal["blur", "bars", "motion", "flow", "phash", "ocr", "aesthetic", "match", "likeness"]


@dataclass
class FilmSettings(TableSettings):
    """Of verbs that look into the videos of a table."""

    video_folder: FilePath = "."
    """where the paths in the table start from"""
    workers: int | None = None
    """processes; that of processors if not given, 0: none but this one"""
    retry: bool = False
    """also rows whose problem is from this verb"""

    def check(self) -> None:
        super().check()
        require_at_least(self, workers=0)


@dataclass
class ScenesConfig(FilmSettings):
    """A row for each scene of each film: its first frame, the one after its last, and both in seconds."""

    threshold: float = 3.0
    """how many times as much as around it a cut changes the picture"""
    min_content: float = 10.0
    """how much a cut changes the picture at least, 0 to 255"""
    fades: bool = True
    """a second pass that also finds fades through black or white, and dissolves"""
    black: float = 12.0
    """mean brightness, 0 to 255, below which a frame is black; one as close to 255 is white"""
    min_frames: int = 8
    """scenes that are shorter are joined with the one before"""

    def check(self) -> None:
        super().check()
        require_at_least(self, threshold=0, min_content=0, black=0, min_frames=1)


@dataclass
class CutConfig(FilmSettings):
    """A file for each scene of a table that ``opensora data scenes`` wrote; rows keep their source and time."""

    output_folder: FilePath = "clips"
    """where the clips are written; paths of the new table start from here"""
    min_seconds: float = 0.0
    """scenes that are shorter get a problem instead of a clip"""
    max_seconds: float | None = None
    """longer scenes are cut off there"""
    fps: float | None = None
    """frames per second of the clips, at most; that of the film if not given"""
    shorter_side: int | None = None
    """of the clips in pixels, at most; that of the film if not given"""
    crf: int = 18
    """quality, from 0 (lossless) to 51"""

    def check(self) -> None:
        super().check()
        require_at_least(self, min_seconds=0, max_seconds=0.01, fps=0.1, shorter_side=16, crf=0)


@dataclass
class ScoresConfig(FilmSettings):
    """Columns that say how sharp, moving, written over and pleasing videos are."""

    scores: list[ScoreName] = field(
        default_factory=lambda: ["blur", "bars", "motion", "flow", "phash", "ocr", "aesthetic", "match"]
    )
    """what is measured; a score whose packages or weights are missing is left out, and it is said what it needs"""
    clip: FilePath | None = None
    """folder of CLIP ViT-L/14 with config.json, weights and tokenizer, for aesthetic, match and likeness"""
    aesthetic_head: FilePath | None = None
    """weights of the improved aesthetic predictor for CLIP ViT-L/14"""


@dataclass
class CameraConfig(FilmSettings):
    """How the camera moves: static, pan, tilt, zoom or mixed, as a column with the words that prompts use."""


@dataclass
class DuplicatesConfig(TableSettings):
    """Names, for each video that looks like an earlier one of the table, that one; needs the score phash.

    With ``similarity`` also one that CLIP takes for alike, if both have the same length and size; needs the score
    likeness. That finds copies with other colours or a logo, and takes views of the same thing for alike.
    """

    distance: int = 18
    """of 192 bits, how many may differ"""
    similarity: float | None = None
    """least cosine of CLIP's vectors, as published 0.98; not looked at if not given"""

    def check(self) -> None:
        super().check()
        require_at_least(self, distance=0, similarity=0)
