"""A warning when a loss is not where it has to be: most trainings that go wrong could be seen in their first lines."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mindone.train.tracker import Record

logger = logging.getLogger(__name__)

FIRST, WINDOW = 20, 100
"""Updates at the beginning of a run, and at any time, over which the loss is averaged."""
LIKE_UNTRAINED, WORSE = 0.75, 1.5
"""Shares of the untrained loss: above the first one weights that were loaded look as if they had not been; above the
second one a network is worse than none."""


@dataclass(frozen=True)
class LossBand:
    """What a loss is for a network that gives zeros."""

    untrained: float
    part: str = ""
    """the part of the loss that it is said of; empty: the loss itself"""

    def of(self, record: Record) -> float:
        """The value that is compared."""
        return float(record.parts[self.part] if self.part else record.loss)


class BandWatch:
    """A `mindone.train.tracker.Tracker` that warns, once for each reason.

    Args:
        band: of the loss.
        trained: whether the run begins with weights that were trained before.
    """

    def __init__(self, band: LossBand, trained: bool):
        self.band, self.trained = band, trained
        self.has_warned = False
        self.seen = 0
        self.recent: deque[float] = deque(maxlen=WINDOW)

    def log(self, record: Record) -> None:
        self.seen += 1
        self.recent.append(self.band.of(record))
        mean, untrained = sum(self.recent) / len(self.recent), self.band.untrained
        if self.trained and self.seen == FIRST and mean > LIKE_UNTRAINED * untrained:
            logger.warning(
                "%s of the first %d updates is %.3g, about what a network without training has (%.3g): were the "
                "weights loaded, and do they belong to this version and autoencoder?",
                self.name,
                FIRST,
                mean,
                untrained,
            )
        if not self.has_warned and len(self.recent) == WINDOW and mean > WORSE * untrained:
            self.has_warned = True
            logger.warning(
                "%s of the last %d updates is %.3g, more than a network without training has (%.3g): the latents are "
                "not those that it expects, or the training diverges",
                self.name,
                WINDOW,
                mean,
                untrained,
            )

    @property
    def name(self) -> str:
        return f"the {self.band.part} of the loss" if self.band.part else "the loss"

    def picture(self, step: int, name: str, png: Path) -> None: ...

    def values(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...
