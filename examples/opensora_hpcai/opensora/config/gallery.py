"""Settings of the picture that shows what the bundled models make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mindone.config import FilePath, Settings, require, require_at_least
from opensora.config.toy import LOOP_TASK

RECIPES = [f"configs/tiny/opensora_v{version}_sample.yaml" for version in ("1_0", "1_1", "1_2", "2_0")]


@dataclass
class GalleryConfig(Settings):
    """A contact sheet of several models: the same prompts, and tasks side by side with them."""

    recipes: list[FilePath] = field(default_factory=lambda: list(RECIPES))
    """recipes of inference.py, one per model; those whose file or model is missing are left out with a line"""
    captions: list[str] = field(default_factory=lambda: ["a red circle moves left", "a green triangle moves up"])
    """prompts that every model gets"""
    tasks: list[Literal["i2v", "interpolate", "extend", LOOP_TASK]] = field(
        default_factory=lambda: ["i2v", "interpolate", LOOP_TASK]
    )
    """tasks, for the models that know them: a picture, two pictures or half a clip are given, or loop: long videos"""
    output: FilePath = "docs/gallery.png"
    """the picture"""
    output_path: FilePath = "samples/gallery"
    """folder for the videos"""
    columns: int = 6
    """frames of a video that are shown"""
    width: int = 64
    """pixels of a frame; fewer if the file would be larger than max_kilobytes"""
    max_kilobytes: int = 300
    """largest size of the picture"""
    seed: int = 3
    """seed of all videos"""
    device_target: Literal["auto", "CPU", "Ascend"] = "auto"
    """auto takes an Ascend NPU if there is one, else the CPU"""

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        require_at_least(self, columns=1, width=16, max_kilobytes=10, seed=0)
        require(self, "output", str(self.output).endswith(".png"), "a .png file")
        require(self, "recipes", bool(self.recipes), "one recipe or more")
        require(self, "captions", bool(self.captions), "one prompt or more")
