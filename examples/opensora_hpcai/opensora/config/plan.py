"""Settings of ``plan-data``: those of a training, so that its recipe says what is planned."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindone.config import FilePath, SettingError, require_at_least
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
