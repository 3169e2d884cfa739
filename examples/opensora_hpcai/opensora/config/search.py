"""Settings of ``search``: those of sampling, how many candidates there are, and who judges them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mindone.config import FilePath, SettingError, require_at_least
from opensora.config.generate import GenerateConfig


@dataclass
class Search:
    """Candidates and their judge."""

    candidates: int = 4
    """videos that are made of every prompt, each with its own seed"""
    judge: Literal["clip", "toy"] = "clip"
    """who chooses: CLIP (how well some frames match the prompt), or the judge of the toy world (how many of colour,
    shape and direction are right)"""
    clip: FilePath | None = None
    """folder of CLIP with both towers, such as openai/clip-vit-large-patch14"""
    judge_frames: int = 3
    """frames that CLIP looks at, evenly spaced"""

    def check(self) -> None:
        require_at_least(self, candidates=2, judge_frames=1)
        if self.judge == "clip" and not self.clip:
            raise SettingError("judge=clip needs its weights; give a folder of CLIP as --clip FOLDER", "judge")


@dataclass
class SearchConfig(GenerateConfig):
    """The best of several videos of every prompt, by a judge."""

    search: Search = field(default_factory=Search)

    def check(self) -> None:
        super().check()
        if self.sampler.num_samples != 1:
            raise SettingError("num_samples is what candidates says; leave it out", "num_samples")
        if not self.output.use_vae_decode:
            raise SettingError("a judge looks at videos; leave out use_vae_decode", "use_vae_decode")
