"""Lengths of time in a training: ``500`` updates, ``2 epochs``, or ``10%`` of the run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mindone.errors import UserError

_FORM = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(%|[a-z]*)\s*")
_UNITS = {
    **dict.fromkeys(("", "step", "steps", "update", "updates"), "update"),
    **dict.fromkeys(("epoch", "epochs"), "epoch"),
    **dict.fromkeys(("%", "percent"), "%"),
}


@dataclass(frozen=True)
class Span:
    """A length of time; ``unit`` is ``update``, ``epoch`` or ``%`` of the run."""

    value: float
    unit: str = "update"

    def updates(self, per_epoch: float, total: int) -> int:
        """The same as a number of updates, rounded down but at least 1; 0 or less stays as it is.

        Args:
            per_epoch: updates of an epoch; batches that are left over count as a part of one.
            total: updates of the run.
        """
        if self.unit == "update" or self.value <= 0:
            return int(self.value)
        # Not the product alone: 0.29 * 100 is 28.999999999999996.
        whole = per_epoch if self.unit == "epoch" else total / 100
        return max(1, int(round(self.value * whole, 6)))


def parse_span(text: int | str, name: str) -> Span:
    """What a setting says: a number of updates (``500``, ``500 steps``), ``2 epochs``, ``0.5 epochs`` or ``10%``.

    Raises:
        UserError: none of these, or a fraction of an update.
    """
    found = _FORM.fullmatch(str(text).lower())
    unit = _UNITS.get(found[2]) if found else None
    if unit is None or (unit == "update" and "." in found[1]):
        raise UserError(f"{name}={text} is no length of time; use updates (500), epochs (2 epochs) or percent (10%)")
    return Span(float(found[1]), unit)


def updates_of(text: int | str, name: str, per_epoch: float, total: int) -> int:
    """The number of updates that a setting says, see `parse_span` and `Span.updates`."""
    return parse_span(text, name).updates(per_epoch, total)
