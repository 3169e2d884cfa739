"""Settings of the tools that look at training runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mindone.config import FilePath, SettingError, Settings, require, require_at_least
from mindone.errors import UserError
from opensora.config.common import Device


@dataclass
class PlotConfig(Settings):
    """Loss, gradient norm, learning rate and time per update of training runs as one picture."""

    runs: list[FilePath] | None = None
    """folders of runs"""
    output: FilePath = "curves.png"
    """the picture"""

    aliases: ClassVar[dict[str, str]] = {"run": "runs", "src": "runs"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        if not self.runs:
            raise SettingError("runs is not set; give the folders of training runs as --runs FOLDER ...", "runs")
        require(self, "output", str(self.output).endswith(".png"), "a .png file")


@dataclass
class ReplayConfig(Settings):
    """One past update of a training run, computed again from the nearest checkpoint before it."""

    run: FilePath | None = None
    """folder of the run"""
    step: int = 0
    """number of the update, as result.log counts them"""
    device: Device = field(default_factory=Device)

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        if not self.run:
            raise UserError("run is not set; give the folder of a training run as --run FOLDER")
        require_at_least(self, step=1)
