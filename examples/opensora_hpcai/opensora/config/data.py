"""Settings of ``opensora data``: from raw videos to a training table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mindone.config import FilePath, SettingError, Settings, require, require_at_least


def require_given(group: object, **hints: str) -> None:
    """Raises a `SettingError` for the first of the named settings that is not set; its hint says what to give."""
    for name, hint in hints.items():
        if not getattr(group, name):
            raise SettingError(f"{name} is not set; give {hint}", name)


@dataclass
class DataSettings(Settings):
    """What the verbs have in common."""

    output: FilePath | None = None
    """the table that is written, .csv or .parquet"""

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_given(self, output="the table to write as --output FILE.csv")


@dataclass
class TableSettings(DataSettings):
    """Of verbs that take a table and give one."""

    table: FilePath | None = None
    """the table that is read, .csv or .parquet"""

    aliases: ClassVar[dict[str, str]] = {"csv_path": "table", "input": "table"}

    def check(self) -> None:
        require_given(self, table="the table to read as --table FILE.csv")
        super().check()


@dataclass
class IndexConfig(DataSettings):
    """A table of videos and pictures: what is there, its captions, and its length, size and frame rate."""

    inputs: list[FilePath] | None = None
    """folders of videos and pictures, or lists of them (.json, .jsonl) with captions"""
    video_folder: FilePath | None = None
    """where the paths in the table start from; the folder itself, that of the list, or the one above several"""
    layout: Literal["auto", "folder", "ucf101", "list", "msrvtt"] = "auto"
    """folder: captions from .txt files of the same name; ucf101: from the folder's name, ApplyLipstick is apply
    lipstick; list: objects with a video and its caption or captions; msrvtt: its annotation file; auto looks"""
    captions: Literal["all", "first", "longest"] = "all"
    """of several captions of a video: a row for each, or one row"""
    probe: Literal["header", "frame", "all"] = "header"
    """how much of a file is looked at: its header, its first frame, or all frames, which finds damaged ones"""
    workers: int | None = None
    """processes; that of processors if not given, 0: none but this one"""

    aliases: ClassVar[dict[str, str]] = {"input": "inputs", "folder": "inputs"}

    def check(self) -> None:
        require_given(self, inputs="folders or lists of videos as --inputs FOLDER ...")
        super().check()
        require_at_least(self, workers=0)


@dataclass
class FilterConfig(TableSettings):
    """The rows of a table that meet a condition."""

    where: str | None = None
    """condition on columns, such as: aesthetic > 4.5 and flow > 0.5 and problem is missing"""
    rejected: FilePath | None = None
    """a table for the other rows; if there are none, there is no such file afterwards"""

    aliases: ClassVar[dict[str, str]] = {**TableSettings.aliases, "condition": "where"}

    def check(self) -> None:
        super().check()
        if self.rejected and self.rejected in (self.table, self.output):
            raise SettingError("rejected has to be another file than table and output", "rejected")
        require_given(self, where="a condition as --where 'aesthetic > 4.5 and problem is missing'")


@dataclass
class MergeConfig(DataSettings):
    """Tables as sets: all rows, those in common, those of the first alone, or columns of the others added."""

    tables: list[FilePath] | None = None
    """the tables, the first one first"""
    how: Literal["union", "intersect", "subtract", "join"] = "union"
    """union: the rows of all; intersect: those of the first that all others have; subtract: those that none of them
    has; join: the first with the columns that only the others have"""
    on: list[str] | None = None
    """columns that tell rows apart; video if not given. The first of equal rows is kept"""
    relative: bool = False
    """paths in the column video start from the folder of their table, and in the result from the folder of output"""

    aliases: ClassVar[dict[str, str]] = {"table": "tables"}

    def check(self) -> None:
        require_given(self, tables="tables as --tables A.csv B.csv")
        super().check()


@dataclass
class SampleConfig(TableSettings):
    """Some of a table's rows: the first, a random choice, in another order, or in several files."""

    count: int | None = None
    """how many rows; all if neither count nor fraction is given"""
    fraction: float | None = None
    """which share of the rows"""
    choose: Literal["random", "first"] = "random"
    """by chance, in the table's order; or the first ones (after sorting)"""
    seed: int = 0
    """the same seed chooses the same rows of the same table"""
    sort: str | None = None
    """a column to sort by, as numbers where its cells are; rows without it come last"""
    descending: bool = False
    """sort from the largest down"""
    shuffle: bool = False
    """random order"""
    shards: int = 1
    """so many files of equal length, NAME-00000-of-00004.csv"""

    def check(self) -> None:
        super().check()
        require_at_least(self, count=1, seed=0, shards=1)
        require(self, "fraction", self.fraction is None or 0 < self.fraction <= 1, "more than 0, and 1 at most")
        if self.count is not None and self.fraction is not None:
            raise SettingError("count and fraction exclude each other; give one of them", "fraction")
        if self.shuffle and self.sort:
            raise SettingError("shuffle and sort exclude each other; give one of them", "shuffle")


@dataclass
class InfoConfig(Settings):
    """What is in a table: rows, columns, their values, and problems by kind."""

    table: FilePath | None = None
    """the table that is read, .csv or .parquet"""

    aliases: ClassVar[dict[str, str]] = {"csv_path": "table", "input": "table"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_given(self, table="the table to read as --table FILE.csv")


@dataclass
class ReportConfig(InfoConfig):
    """A page on a table: how its numbers are spread, clips kept and rejected, and what a recipe takes of it."""

    rejected: list[FilePath] | None = None
    """tables of what was left out, such as opensora data filter and run write them"""
    video_folder: FilePath = "."
    """where the paths in the tables start from"""
    output: FilePath = "report.html"
    """the page, which holds its pictures itself"""
    recipe: FilePath | None = None
    """a training recipe with bucket_config: which of the clips it takes, and in which buckets"""
    clips: int = 24
    """clips that are shown of each kind, at most"""
    seed: int = 0
    """which clips"""

    def check(self) -> None:
        super().check()
        require_at_least(self, clips=0)


@dataclass
class CaptionConfig(TableSettings):
    """Captions of videos by a model that sees, behind an OpenAI-compatible endpoint; the key is OPENAI_API_KEY."""

    endpoint: str | None = None
    """base address, such as http://127.0.0.1:8000/v1"""
    model: str | None = None
    """the model's name there"""
    video_folder: FilePath | None = None
    """where the paths in the table start from; the table's own folder if not given"""
    template: Literal["short", "long", "structured"] = "long"
    """short: a sentence; long: a paragraph; structured: a paragraph, and columns caption_subject, caption_action,
    caption_setting, caption_camera and caption_style"""
    instructions: FilePath | None = None
    """a text file that says what is wanted, in place of the template's own words"""
    frames: int = 3
    """pictures of a video that the model sees, evenly spaced"""
    max_side: int = 512
    """longest side of these pictures in pixels"""
    workers: int = 8
    """questions under way at once"""
    retries: int = 4
    """how often a question is repeated that was not answered, with longer and longer waits"""
    timeout: float = 60.0
    """seconds to wait for an answer"""
    temperature: float = 0.0
    """0: the model's likeliest words"""
    max_tokens: int = 400
    """longest answer; one that is cut off ends with its last whole sentence"""
    overwrite: bool = False
    """also rows that have a caption already"""
    retry: bool = False
    """also rows that got no caption before"""
    price_in: float = 0.0
    """price of a million tokens that the model reads, to print what it has cost"""
    price_out: float = 0.0
    """price of a million tokens that it writes"""

    def check(self) -> None:
        super().check()
        require_given(self, endpoint="an address as --endpoint http://127.0.0.1:8000/v1", model="--model NAME")
        require_at_least(self, frames=1, max_side=32, workers=1, retries=0, max_tokens=1, temperature=0)
        require_at_least(self, price_in=0, price_out=0)
        require(self, "timeout", self.timeout > 0, "more than 0")


@dataclass
class RunDataConfig(Settings):
    """Verbs one after the other, each on the table of the one before; what is done already is not done again."""

    pipeline: FilePath | None = None
    """the verbs and their settings, a .yaml file"""
    video_folder: FilePath | None = None
    """the folder of films"""
    folder: FilePath | None = None
    """where the tables and clips are written; table.csv is the last one"""
    set: list[str] | None = None
    """settings in place of the file's, such as caption.model=NAME"""

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_given(
            self,
            pipeline="the verbs as --pipeline FILE.yaml",
            video_folder="the films as --video_folder FOLDER",
            folder="where to write as --folder FOLDER",
        )
