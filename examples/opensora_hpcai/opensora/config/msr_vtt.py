"""Settings of the steps that make a data set of MSR-VTT, or of any list of captions, as the first release had them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mindone.config import FilePath, SettingError, Settings, require_at_least
from opensora.config.common import Device, Dtype
from opensora.config.data import require_given
from opensora.config.v2 import CLIP_TOKENS


@dataclass
class CollateConfig(Settings):
    """MSR-VTT as it is published, in one folder for each of its splits: videos, and a list of their captions."""

    data_dir: FilePath | None = None
    """folder of the unpacked data set; videos and annotations may be anywhere below it"""
    output_dir: FilePath | None = None
    """folder for the splits: train, val and test, each with videos and annotations.json"""

    aliases: ClassVar[dict[str, str]] = {"output": "output_dir"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_given(
            self,
            data_dir="the folder of the unpacked data set as --data_dir FOLDER",
            output_dir="a folder for the splits as --output_dir FOLDER",
        )


@dataclass
class Sources:
    """What is read and written."""

    captions: FilePath | None = None
    """list of videos and their captions, .json or .jsonl, such as an annotations.json that collate wrote"""
    video_dir: FilePath | None = None
    """folder that the paths of the list start from"""
    output_dir: FilePath | None = None
    """folder for the parts, part-00000 and so on, and videos.csv, which tells what each video is"""
    num_bins: int = 10
    """how many parts"""
    max_frames: int = 600
    """longer videos are left out"""
    workers: int | None = None
    """processes that look at the videos; that of processors if not given, 0: none but this one"""

    def check(self) -> None:
        require_given(
            self,
            captions="a list of videos with captions as --captions FILE.json",
            video_dir="the folder of the videos as --video_dir FOLDER",
            output_dir="a folder for the parts as --output_dir FOLDER",
        )
        require_at_least(self, num_bins=1, max_frames=1, workers=0)


@dataclass
class States:
    """The text encoder and what is kept of its output."""

    text_model: FilePath | None = None
    """folder of a CLIP text encoder (or of T5): config.json, weights and tokenizer"""
    use_pooled_text: bool = False
    """one vector of CLIP for the whole text, instead of one for each of its tokens"""
    max_length: int = CLIP_TOKENS
    """tokens of a text; what is longer is cut"""
    dtype: Dtype = "fp32"
    """precision of the text encoder"""
    batch_size: int = 64
    """texts that are encoded at once"""

    def check(self) -> None:
        require_given(self, text_model="a folder as --text_model FOLDER, such as openai/clip-vit-base-patch32")
        require_at_least(self, max_length=1, batch_size=1)


@dataclass
class PreprocessConfig(Settings):
    """Captions to an arrow data set: a row with the video and the states of the text for every caption."""

    data: Sources = field(default_factory=Sources)
    text: States = field(default_factory=States)
    runtime: Device = field(default_factory=Device)

    aliases: ClassVar[dict[str, str]] = {"output": "output_dir", "bins": "num_bins"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        if self.runtime.use_parallel:
            raise SettingError("use_parallel: the data set is made by one process; leave it out", "use_parallel")
