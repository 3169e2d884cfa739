"""Settings of the toy world's tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mindone.config import FilePath, SettingError, Settings, require, require_at_least
from mindone.errors import UserError
from opensora.conditions.strategies import TASKS
from opensora.conditions.visual import KINDS
from opensora.config.generate import Conditions, GenerateConfig

LOOP_TASK = "loop"


def _require_output(output: str) -> None:
    if not output:
        raise UserError("no folder to write into; give one with --output DIR")


@dataclass
class ToyDataConfig(Settings):
    """Clips of the toy world as mp4 files with a ``video_caption.csv``."""

    output: FilePath = ""
    """folder to write into"""
    world: FilePath | None = None
    """description of the world, such as configs/tiny/world_two.yaml; the built-in one if not given"""
    num_clips: int = 3000
    """how many clips"""
    split: str = "train"
    """which combinations: train, unseen (those that only a test may show), all, or a new colour of the world (azure)"""
    seed: int = 0
    """the same seed gives the same clips"""
    num_frames: int | None = None
    """frames of a clip; the world's (17) if not given. 1 makes pictures, with captions that say nothing of a motion"""
    image_size: int | None = None
    """height and width in pixels; the world's (64) if not given"""
    fps: float | None = None
    """frames per second written into the files; the world's (8) if not given"""
    overwrite: bool = False
    """write into a folder that has files already"""

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_at_least(self, num_clips=1, num_frames=1, image_size=32)
        _require_output(self.output)


@dataclass
class ToyFilmConfig(Settings):
    """A folder of films to try ``opensora data`` with: twelve toy scenes in one film, a broken file, and the truth."""

    output: FilePath = ""
    """folder of the film, the broken file and truth.csv"""
    prepared: FilePath | None = None
    """hold the folder that configs/data/films_to_table.yaml has made of the film against truth.csv; writes nothing"""
    seconds: float = 60.0
    """length of the film"""
    fps: float = 8
    """frames per second"""
    image_size: int = 128
    """height and width in pixels"""

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        # a scene has room for the fades and dissolves at its ends
        require(self, "seconds", self.fps > 0 and self.seconds * self.fps >= 180, "180 frames or more, at fps")
        require_at_least(self, image_size=128)
        _require_output(self.output)


@dataclass
class ToyCaptionsConfig(Settings):
    """An OpenAI-style endpoint on this machine that captions clips of the toy world by looking at them."""

    port: int = 8000
    """port on the loopback; 0: a free one, which it prints"""

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require(self, "port", 0 <= self.port < 65536, "a port, 0 to 65535")


@dataclass
class TinyTextEncoderConfig(Settings):
    """A text encoder of the toy world: random weights, config and tokenizer in the hub's layout."""

    output: FilePath = ""
    """folder to write into"""
    seed: int = 0
    """the same seed gives the same bytes"""

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        _require_output(self.output)


@dataclass
class TinyT5Config(TinyTextEncoderConfig):
    """The tiny T5 encoder of the toy world."""


@dataclass
class TinyClipConfig(TinyTextEncoderConfig):
    """The tiny CLIP text encoder of the toy world."""


@dataclass
class Scoring:
    """What is judged."""

    videos: FilePath | None = None
    """judge existing clips: the folder that the paths of csv start from; nothing is generated then"""
    csv: FilePath | None = None
    """their table, with the columns video and caption; video_caption.csv in the folder if not given"""
    world: FilePath | None = None
    """description of the world that prompts are of and clips are judged by; the built-in one if not given"""
    shuffle_captions: bool = False
    """give every clip the caption of another one: a judge that still finds them right is none"""
    num_seen: int = 100
    """generated prompts of combinations that the training set has"""
    num_unseen: int = 24
    """generated prompts of combinations that it does not have"""
    num_cases: int = 40
    """cases of a task"""
    task_frames: int | None = None
    """frames of a task's videos, clips of loop included; num_frames if not given, or two chunks of the autoencoder
    where one leaves no room for the task (1.2: 34)"""
    needed: float = 0.85
    """share of a task's cases that a criterion needs to be met"""
    num_new: int = 0
    """generated prompts of every new colour of the world (azure), which an adapter has learnt"""
    json: FilePath | None = None
    """file for the scores and all verdicts"""

    def check(self) -> None:
        require_at_least(self, num_seen=0, num_unseen=0, num_new=0, num_cases=1, task_frames=2)
        require(self, "needed", 0 <= self.needed <= 1, "between 0 and 1")
        if (self.csv or self.shuffle_captions) and not self.videos:
            raise UserError("csv and shuffle_captions belong to existing clips; give their folder as --videos DIR")


@dataclass
class ScoredConditions(Conditions):
    """The task that is scored. Its cases bring their own pictures and clips."""

    task: Literal[(*TASKS, *KINDS, LOOP_TASK)] | None = None
    """score conditioned videos, which are given frames of a real clip (i2v, interpolate, extend...; a version does not
    know all, and names those it knows), or long ones (loop: three clips, or as many as loop says)"""

    def check(self) -> None:
        super().check()
        if self.task and (self.reference_path or self.mask_strategy):
            raise SettingError("the cases of a task bring their own references; leave yours out", "reference_path")


@dataclass
class ScoreConfig(GenerateConfig):
    """Scores clips of the toy world: existing ones, or what a model makes of seen and unseen prompts, or of a task.

    All settings of inference.py apply to generated ones.
    """

    conditions: ScoredConditions = field(default_factory=ScoredConditions)
    score: Scoring = field(default_factory=Scoring)

    aliases: ClassVar[dict[str, str]] = {**GenerateConfig.aliases, "output": "output_path"}

    def check(self) -> None:
        if self.score.videos:
            if self.conditions.task:
                raise SettingError("existing clips have no task; give videos or task", "task")
            return
        prompts = self.prompts
        if self.conditions.task and (prompts.captions or prompts.prompt_path or prompts.text_embed_folder):
            raise SettingError("the cases of a task bring their own prompts; leave yours out", "task")
        output = self.output
        if self.runtime.use_parallel or not output.use_vae_decode or output.save_format != "mp4":
            raise UserError(
                "scoring needs mp4 videos of one process; use_parallel, use_vae_decode and save_format stay"
            )
        super().check()


@dataclass
class MeasuredTextConfig(Settings):
    """The score ocr on text of many fonts, sizes and colours over moving backgrounds, and on these alone."""

    rounds: int = 1
    """how often every font is drawn in every size"""
    seed: int = 0
    """which texts and backgrounds"""
    json: FilePath | None = None
    """file for what was found in every clip"""

    aliases: ClassVar[dict[str, str]] = {"output": "json"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_at_least(self, rounds=1, seed=0)


@dataclass
class MeasuredConfig(Settings):
    """The measures of videos against the exact score of the toy world, on clips that are damaged by known degrees."""

    clips: int = 45
    """clips that are damaged; 90 are all combinations once"""
    degrees: int = 5
    """degrees of every damage, from none to the full one"""
    num_frames: int = 17
    """frames of a clip"""
    image_size: int = 64
    """height and width"""
    seed: int = 0
    """which clips, and the chance in their damages"""
    json: FilePath | None = None
    """file for all numbers"""

    aliases: ClassVar[dict[str, str]] = {"output": "json"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_at_least(self, clips=2, degrees=2, num_frames=2, image_size=32, seed=0)
