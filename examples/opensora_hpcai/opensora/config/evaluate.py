"""Settings of ``opensora evaluate VERB``: scores of generated videos, and comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mindone.config import FilePath, SettingError, Settings, require_at_least
from opensora.config.data import require_given
from opensora.config.train import TrainConfig


@dataclass
class VideosConfig(Settings):
    """A score for each video of a folder, and their mean."""

    videos: FilePath | None = None
    """folder of generated videos"""
    output: FilePath | None = None
    """file for the scores, .json; they are printed anyway"""

    aliases: ClassVar[dict[str, str]] = {"folder": "videos"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_given(self, videos="a folder of videos as --videos FOLDER")


@dataclass
class ClipScoreConfig(VideosConfig):
    """How well videos match their prompts, by CLIP over some of their frames."""

    prompts: FilePath | None = None
    """table with the columns video and caption; without it a video's prompt is in the .txt file of the same name"""
    clip: FilePath | None = None
    """folder of CLIP with config.json, weights and tokenizer"""
    frames: int = 3
    """frames of each video, evenly spaced"""

    def check(self) -> None:
        super().check()
        require_given(self, clip="a folder of CLIP as --clip FOLDER, such as openai/clip-vit-large-patch14")
        require_at_least(self, frames=1)


@dataclass
class FvdConfig(Settings):
    """The Frechet distance between the features of two sets of videos."""

    real: FilePath | None = None
    """features of real videos, .npy (N, D)"""
    generated: FilePath | None = None
    """features of generated videos by the same network, .npy (M, D)"""

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_given(self, real="features as --real FILE.npy", generated="features as --generated FILE.npy")


@dataclass
class VbenchConfig(Settings):
    """VBench's scores by its published normalisation, from the result file that its program writes; or its layout."""

    results: FilePath | None = None
    """VBench's result file, ..._eval_results.json"""
    prompts: FilePath | None = None
    """one of VBench's prompt lists, a prompt a line: videos are given the names that it expects"""
    videos: FilePath | None = None
    """folder of generated videos, in the order of the prompts, all samples of a prompt together"""
    samples: int = 5
    """videos for each prompt"""
    output: FilePath | None = None
    """folder for the videos under the names that VBench expects"""

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        if self.results is None:
            require_given(
                self,
                prompts="a result file as --results, or a prompt list as --prompts",
                videos="the folder of videos as --videos FOLDER",
                output="the folder to write as --output FOLDER",
            )
        require_at_least(self, samples=1)


@dataclass
class CompareConfig(Settings):
    """The same prompts and seeds by several checkpoints or settings, side by side."""

    folders: list[FilePath] | None = None
    """folders of videos with the same names, the one that the others are compared with first"""
    output: FilePath = "compare.html"
    """the page, which holds the videos itself"""
    seed: int = 0
    """of the intervals' random draws"""

    aliases: ClassVar[dict[str, str]] = {"videos": "folders"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_given(self, folders="folders of videos as --folders A B ...")


@dataclass
class EvaluateLossConfig(TrainConfig):
    """The validation loss of checkpoints: by size, at equidistant timesteps, the same noise for each of them.

    The settings are those of a training, most often its recipe. Without a table of validation videos (val_csv_path) the
    loss is taken on the videos of csv_path.
    """

    checkpoints: list[FilePath] | None = None
    """denoisers of the recipe's kind: model folders or weights, such as RUN/model RUN/ckpt/step-00000500/ema"""
    output: FilePath | None = None
    """file for the losses, .json; they are printed anyway"""

    def check(self) -> None:
        super().check()
        require_given(self, checkpoints="denoisers as --checkpoints A B ...")
        if self.lora.lora_rank:
            raise SettingError(
                "adapters are no denoisers; fold them into one with opensora merge-lora and leave lora_rank out",
                "lora_rank",
            )
