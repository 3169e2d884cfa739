"""Settings of ``search``: those of sampling, how many candidates there are, and who judges them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mindone.config import FilePath, SettingError, require, require_at_least
from opensora.config.generate import GenerateConfig


@dataclass
class Search:
    """Candidates and their judge."""

    candidates: int = 4
    """videos of every prompt that are made and judged, by either method"""
    search_method: Literal["best_of_n", "zero_order"] = "best_of_n"
    """best_of_n: each candidate from noise of its own; zero_order: round after round from noise near to that of the
    best one so far"""
    neighbours: int = 4
    """zero_order: candidates in a round; there are as many rounds as candidates, without the first one, allow"""
    noise_radius: float = 0.5
    """zero_order: share of fresh noise in a neighbour's, above 0 up to 1: small stays near, 1 is independent"""
    judge: Literal["clip", "toy"] = "clip"
    """who chooses: CLIP (how well some frames match the prompt), or the judge of the toy world (how many of colour,
    shape and direction are right)"""
    clip: FilePath | None = None
    """folder of CLIP with both towers, such as openai/clip-vit-large-patch14"""
    judge_frames: int = 3
    """frames that CLIP looks at, evenly spaced"""

    def check(self) -> None:
        require_at_least(self, candidates=2, neighbours=1, judge_frames=1)
        require(self, "noise_radius", 0 < self.noise_radius <= 1, "above 0 up to 1")
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
        if self.sampler.initial_noise:
            raise SettingError("initial_noise is what a search looks for; leave it out", "initial_noise")
        if self.prompts.extend_prompts and self.search.search_method == "zero_order":
            raise SettingError(
                "extend_prompts writes another prompt in each round; extend the prompts first", "extend_prompts"
            )
        if self.output.overwrite and self.search.search_method == "zero_order":
            raise SettingError(
                "overwrite lets a round of zero_order replace the one before; give another output_path",
                "overwrite",
            )
        if not self.output.use_vae_decode:
            raise SettingError("a judge looks at videos; leave out use_vae_decode", "use_vae_decode")
