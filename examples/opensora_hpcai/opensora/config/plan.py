"""Settings of ``plan-data`` and ``plan``: those of a training, so that its recipe says what is planned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mindone.config import FilePath, SettingError, require, require_at_least
from mindone.errors import UserError
from opensora.config.train import TrainConfig


@dataclass
class PlanOutput:
    """What is planned, and where the plan goes."""

    plan_path: FilePath = "plan.csv"
    """file of the plan: a line per batch"""
    plan_ranks: int = 1
    """ranks that share a batch; batch sizes are per rank"""
    plan_epoch: int = 0
    """which pass over the data is planned, from 0"""

    def check(self) -> None:
        require_at_least(self, plan_ranks=1, plan_epoch=0)


@dataclass
class PlanDataConfig(TrainConfig):
    """Which samples of a table train together, and at which size."""

    plan: PlanOutput = field(default_factory=PlanOutput)

    def check(self) -> None:
        if not self.data.csv_path:
            raise UserError("csv_path is not set; give the table of the training videos as --csv_path FILE.csv")
        if self.shape.is_fixed or not self.shape.bucket_config:
            raise SettingError("there are no buckets to plan; give bucket_config, and no fixed size", "bucket_config")


@dataclass
class Cards:
    """What a training would run on."""

    cards: int = 1
    """how many cards there are"""
    memory: float = 64.0
    """memory of a card in GB (10^9 bytes)"""
    card: Literal["ascend", "cpu"] = "ascend"
    """kind of card: an NPU of Atlas 800T A2, or a core of a processor"""

    def check(self) -> None:
        require_at_least(self, cards=1)
        require(self, "memory", self.memory > 0, "more than 0")


@dataclass
class PlanConfig(TrainConfig):
    """What a training needs and takes on so many cards, and which way to spread it fits and is the fastest."""

    on: Cards = field(default_factory=Cards)

    def check(self) -> None:
        if not self.shape.is_fixed and not self.shape.bucket_config:
            raise UserError(
                "the videos have no size; give image_size, or resolution and aspect_ratio, or bucket_config"
            )
