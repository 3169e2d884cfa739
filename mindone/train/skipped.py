"""Updates that were left out, not finite or with a spike of the loss: what they saw, and when to give up."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from mindone.data.loader import Batch, name_of
from mindone.errors import UserError
from mindone.train.step import StepResult

logger = logging.getLogger(__name__)

COLUMNS = ("step", "loss", "grad_norm", "seed", "epoch_positions", "samples", "names")


class SkippedUpdates:
    """Takes note of every update; those that were left out get a line in a CSV, with all that repeats them.

    Args:
        path: the file, which appears with the first line.
        seed: of the run, which the random numbers of an update come from.
        most: so many in a row end the run; 0: never.
    Attributes:
        in_a_row: how many the last updates were.
    """

    def __init__(self, path: Path, seed: int, most: int = 0):
        self.path, self.seed, self.most = path, seed, most
        self.in_a_row = 0

    def note(self, step: int, result: StepResult, batches: Sequence[Batch], dataset: object) -> None:
        """Takes note of update number ``step``, from 1, and the batches of this rank.

        Raises:
            UserError: it is one too many.
        """
        is_finite = bool(result.finite.asnumpy())
        if is_finite and result.accepted:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self._write(step, result, batches, dataset)
        if is_finite:
            loss = float(result.loss.asnumpy())
            logger.warning("step %d: loss %.4g is a spike, left out; what it saw is in %s", step, loss, self.path.name)
        else:
            logger.warning("step %d: loss or gradients are not finite; what it saw is in %s", step, self.path.name)
        if self.most and self.in_a_row >= self.most:
            what = "the loss was a spike" if is_finite else "loss or gradients were not finite"
            raise UserError(
                f"{what} in {self.in_a_row} updates in a row, up to step {step}; lower "
                f"start_learning_rate, set clip_grad, use dtype fp32, or look at the samples in {self.path}"
            )

    def check_end(self, step: int) -> None:
        """Raises a `UserError` for a run of ``step`` updates of which at least the second half was not finite."""
        if self.in_a_row and 2 * self.in_a_row >= step:
            raise UserError(
                f"loss or gradients were not finite in the last {self.in_a_row} of {step} updates, "
                f"so there is no result; lower start_learning_rate, set clip_grad, or see the samples in {self.path}"
            )

    def _write(self, step: int, result: StepResult, batches: Sequence[Batch], dataset: object) -> None:
        indices = [index for batch in batches for index in batch.indices]
        positions = [position for batch in batches for position in batch.positions]
        numbers = (step, result.loss.asnumpy()[()], result.grad_norm.asnumpy()[()], self.seed)
        lists = (positions, indices, [name_of(dataset, index) for index in indices])
        new = not self.path.exists()
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([COLUMNS] if new else [])
            writer.writerow([*numbers, *(" ".join(map(str, values)) for values in lists)])
