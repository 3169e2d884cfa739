"""Learning rates: pure functions of the update's number, on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from mindone.errors import UserError

Schedule = Callable[[int], float]

SchedulerName = Literal[
    "constant",
    "cosine_decay",
    "polynomial_decay",
    "multi_step_decay",
    "cosine_annealing_warm_restarts_lr",
    "linear_warmup",
    "linear_warmup_v1_3",
]
SCHEDULERS: tuple[str, ...] = get_args(SchedulerName)

WITHOUT_DECAY = ("constant", "linear_warmup", "linear_warmup_v1_3")


def make_schedule(
    name: str,
    start_lr: float,
    end_lr: float = 0.0,
    warmup_steps: int = 0,
    decay_steps: int = 0,
    total_steps: int = 0,
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
    power: float = 1.0,
    cycles: int = 4,
    initial_lr: float = 0.0,
) -> Schedule:
    """The learning rate of update ``step`` = 0, 1, ... by a published scheduler's name.

    The rate rises linearly over the first ``warmup_steps`` updates (the first one has ``start_lr / warmup_steps``) and
    is then, with ``x`` the fraction of ``decay_steps`` that has passed (1 from there on):

    - ``constant``: ``start_lr``
    - ``cosine_decay``: ``end_lr + (start_lr - end_lr) * (1 + cos(pi x)) / 2``
    - ``polynomial_decay``: ``end_lr + (start_lr - end_lr) * (1 - x) ^ power``
    - ``multi_step_decay``: ``start_lr * gamma ^ (number of milestones that x has reached)``, at least ``end_lr``
    - ``cosine_annealing_warm_restarts_lr``: as cosine_decay, ``cycles`` times over the decay; ``end_lr`` after it
    - ``linear_warmup``: ``start_lr``, after a warm-up of Open-Sora 1.2 and 2.0 that begins at ``initial_lr`` and has
      ``initial_lr + (start_lr - initial_lr) * (step + 1) / (warmup_steps + 1)``
    - ``linear_warmup_v1_3``: the same without ``- initial_lr`` in the slope, as Open-Sora 1.3 has it: the last updates
      of a long warm-up are above ``start_lr``

    Args:
        decay_steps: updates of decay; 0 takes all of ``total_steps`` that follow the warm-up.
    Raises:
        UserError: an unknown name, or no length to decay over.
    """
    if name not in SCHEDULERS:
        raise UserError(f"scheduler={name} is not known; use one of {', '.join(SCHEDULERS)}")
    decay_steps = decay_steps or total_steps - warmup_steps
    if name not in WITHOUT_DECAY and decay_steps < 1:
        raise UserError(
            f"warmup_steps={warmup_steps} leaves none of the {total_steps} updates for scheduler={name}; "
            "use a shorter warm-up, more train_steps, or scheduler=constant"
        )

    shape = _decays(start_lr, end_lr, milestones, gamma, power, cycles)[name]
    rise = start_lr if name == "linear_warmup_v1_3" else start_lr - initial_lr

    def learning_rate(step: int) -> float:
        if step < warmup_steps:
            if name.startswith("linear_warmup"):
                return initial_lr + rise * (step + 1) / (warmup_steps + 1)
            return start_lr * (step + 1) / warmup_steps
        return shape(min(1.0, (step - warmup_steps) / max(1, decay_steps)))

    return learning_rate


def _decays(
    start_lr: float, end_lr: float, milestones: Sequence[float], gamma: float, power: float, cycles: int
) -> dict[str, Callable[[float], float]]:
    """The rate after the warm-up by the fraction of the decay that has passed, for every scheduler."""

    def cosine(x: float) -> float:
        return end_lr + (start_lr - end_lr) * (1 + math.cos(math.pi * x)) / 2

    return {
        **dict.fromkeys(WITHOUT_DECAY, lambda x: start_lr),
        "cosine_decay": cosine,
        "polynomial_decay": lambda x: end_lr + (start_lr - end_lr) * (1 - x) ** power,
        "multi_step_decay": lambda x: max(end_lr, start_lr * gamma ** sum(x >= milestone for milestone in milestones)),
        "cosine_annealing_warm_restarts_lr": lambda x: cosine(x * cycles % 1) if x < 1 else end_lr,
    }
