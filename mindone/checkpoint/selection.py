"""Which tensors of a checkpoint are the weights: trainers save optimizers, averages and counters beside them.

Trainers nest mappings (``{"state_dict": ..., "optimizer": ...}``) or put everything into one under prefixes
(``moment1.blocks.0.weight``, ``ema.blocks.0.weight``). Both are taken apart here, whatever the format of the file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mindone.checkpoint.naming import without_wrappers
from mindone.checkpoint.tensors import one_line
from mindone.errors import UserError

WEIGHTS = ("model", "ema", "all")
"""What a reader may ask for: trained weights, their average, or every tensor of the file under its full name."""

# Mappings that hold the weights, the preferred first.
TRAINED = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "network",
    "net",
    "student",
    "generator",
    "gen_model",
    "net_g",
    "netG",
    "gen",
    "g",
    "params",
    "weights",
    "shadow",
)
MAX_DEPTH = 16
_AVERAGED = re.compile(r"(^|_)(ema|swa|averaged?|teacher)(_|$)", re.IGNORECASE)
_NOT_WEIGHTS = re.compile(
    r"optim|(^|_)opt(_|$)|scheduler|(^|_)scaler|(^|_)rng(_|$)|random_state|(^|_)sampler|dataloader|^callbacks$|^loops$",
    re.IGNORECASE,
)
# Counters that stand beside weights without a place in the network.
_COUNTERS = frozenset(
    [
        "epoch",
        "epoch_num",
        "step",
        "steps",
        "step_num",
        "cur_step",
        "global_step",
        "iter",
        "iteration",
        "iterations",
        "loss",
        "best_loss",
        "lr",
        "learning_rate",
        "loss_scale",
        "scale_sense",
        "decay",
        "num_updates",
        "n_averaged",
        "initted",
        "beta1_power",
        "beta2_power",
        "current_iterator_step",
        "last_overflow_iterator_step",
    ]
)
_OPTIMIZER_PREFIX = re.compile(r"^(moments?[12]?|adam_[mv]|exp_avg(_sq)?|accum|accumulation|accum_grad|master|stat)\.")
_AVERAGED_PREFIX = re.compile(r"^(ema|model_ema|ema_model|module_ema|ema_weights?|swa|averaged?|averaged_model)\.")
_LISTED = 8


@dataclass
class Selection:
    """What was taken of a checkpoint.

    Attributes:
        leaves: name → tensor, or name → name in the file.
        place: the containers that were followed, joined by dots.
        left: words for the tensors that were not taken.
        is_average: whether averaged weights were taken.
        has_average: whether averaged weights were left.
    """

    leaves: dict[str, Any]
    place: str = ""
    left: list[str] = field(default_factory=list)
    is_average: bool = False
    has_average: bool = False


def check_choice(weights: str) -> None:
    """Raises a `UserError` if ``weights`` is none of `WEIGHTS`."""
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights} is not known; use one of {', '.join(WEIGHTS)}")


def select_nested(content: Any, is_leaf: Callable[[Any], bool], weights: str = "model") -> Selection:
    """Finds the weights in the nested containers of a training's checkpoint.

    Args:
        content: what the file holds: mappings, lists, tensors, plain values.
        is_leaf: whether a value is a tensor.
    Raises:
        UserError: the containers are nested too deep, or the averages asked for have no names.
    """
    if is_leaf(content):
        return Selection({"tensor": content})
    if weights == "all" or not isinstance(content, dict):
        return Selection(_flat(content, is_leaf))
    return _Nested(is_leaf, weights).select(content)


class _Nested:
    def __init__(self, is_leaf: Callable[[Any], bool], weights: str):
        self.is_leaf, self.weights = is_leaf, weights
        self.result = Selection({})
        self.path: list[str] = []

    def select(self, level: dict[Any, Any]) -> Selection:
        entered: set[int] = set()
        while id(level) not in entered:
            entered.add(id(level))
            key = self._inner(level)
            if key is None:
                break
            for other in level:
                if other != key:
                    self._leave(other, level[other])
            self.path.append(key)
            level = level[key]
        for key, value in level.items():
            if self._is_beside(key, value):
                self._leave(key, value)
        kept = {key: value for key, value in level.items() if not self._is_beside(key, value)}
        self.result.leaves = _flat(kept, self.is_leaf)
        if self.result.is_average and all(name.rpartition(".")[2].isdigit() for name in self.result.leaves):
            raise UserError(f"its averaged weights ({'.'.join(self.path)}) have no names; take the trained ones")
        self.result.place = ".".join(self.path)
        return self.result

    def _inner(self, level: dict[Any, Any]) -> str | None:
        """The key to follow; None where the weights themselves lie at this level."""
        if any(isinstance(key, str) and "." in key and self.is_leaf(value) for key, value in level.items()):
            return None
        options = [key for key, value in level.items() if isinstance(value, dict) and self._count(value)]
        options = [key for key in options if isinstance(key, str) and not _is_optimizer(key, level[key])]
        averaged = [key for key in options if _AVERAGED.search(key)]
        trained = [key for key in TRAINED if key in options]
        wants_average = self.weights == "ema" and not self.result.is_average
        own = [key for key, value in level.items() if self.is_leaf(value) and not self._is_beside(key, value)]
        if averaged and (wants_average or (len(averaged) == len(options) and not own)):
            self.result.is_average = True
            return averaged[0]
        return trained[0] if trained else None

    def _is_beside(self, key: Any, value: Any) -> bool:
        name = str(key)
        if self.is_leaf(value):
            return name in _COUNTERS or ("." not in name and bool(_NOT_WEIGHTS.search(name)))
        return _is_optimizer(name, value) or (isinstance(value, dict) and bool(_AVERAGED.search(name)))

    def _count(self, value: Any) -> int:
        count = 0
        with contextlib.suppress(UserError):
            for _ in _leaves(value, self.is_leaf, set()):
                count += 1
        return count

    def _leave(self, key: Any, value: Any) -> None:
        """Notes ``optimizer (246 tensors)``, or nothing if there is no tensor in it."""
        name = ".".join([*self.path, str(key)])
        if self.is_leaf(value):
            self.result.left.append(name)
        elif count := self._count(value):
            self.result.left.append(f"{name} ({count} tensors)")
            self.result.has_average |= bool(_AVERAGED.search(str(key)))


def _is_optimizer(key: str, value: Any) -> bool:
    return bool(_NOT_WEIGHTS.search(key)) or (isinstance(value, dict) and {"state", "param_groups"} <= set(value))


def _flat(value: Any, is_leaf: Callable[[Any], bool]) -> dict[str, Any]:
    return dict(_leaves(value, is_leaf, set()))


def _leaves(
    value: Any, is_leaf: Callable[[Any], bool], seen: set[int], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Any]]:
    # Each container is entered once, so a file cannot make this endless by containers that hold each other.
    if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
        return
    if depth > MAX_DEPTH:
        raise UserError(f"its containers are nested more than {MAX_DEPTH} deep")
    seen.add(id(value))
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if is_leaf(item):
            yield f"{prefix}{key}", item
        else:
            yield from _leaves(item, is_leaf, seen, f"{prefix}{key}.", depth + 1)


def select_flat(sizes: Mapping[str, int], weights: str = "model", counters: bool = True) -> Selection:
    """Takes apart names under one roof: weights, averages of them, an optimizer's tensors, counters.

    A tensor is an average or an optimizer's only if the weight it belongs to is there as well, so a network whose own
    names begin like that is left as it is.

    Args:
        sizes: name → number of values.
        counters: whether known single numbers (``global_step``) are left out, too.
    Returns:
        A selection of names: the name to give a tensor → its name in the file.
    """
    whole = Selection({name: name for name in sizes})
    if weights == "all":
        return whole
    rests = {name: name[match.end() :] for name in sizes if (match := _AVERAGED_PREFIX.match(name))}
    trained = {without_wrappers(name): name for name in sizes if name not in rests}
    undotted = {name.replace(".", ""): full for name, full in trained.items()}
    partners = {name: _partner(rest, trained, undotted) for name, rest in rests.items()}
    averages = {name: partner for name, partner in partners.items() if partner}
    alone = {name for name, rest in rests.items() if rest in _COUNTERS} if averages else set()
    states = {name for name in sizes if (match := _OPTIMIZER_PREFIX.match(name)) and name[match.end() :] in sizes}
    counted = {name for name, size in sizes.items() if counters and size == 1 and name in _COUNTERS}
    others = averages.keys() | alone | states | counted
    taken = {name: name for name in sizes if name not in others}
    if not taken:
        return whole
    is_average = weights == "ema" and bool(averages)
    if is_average:
        taken |= {trained_name: name for name, trained_name in averages.items()}
        first = _counted(set(averages.values()), "as trained")
    else:
        first = _counted(averages, "averaged")
    left = [first, _counted(states, "of an optimizer"), *sorted(counted)]
    left = [text for text in left if text]
    return Selection(taken, left=left, is_average=is_average, has_average=bool(averages) and not is_average)


def _partner(rest: str, trained: Mapping[str, str], undotted: Mapping[str, str]) -> str | None:
    """The weight that an average belongs to; one of the trainers drops the dots from the names of averages."""
    return trained.get(without_wrappers(rest)) or (undotted.get(rest) if "." not in rest else None)


def _counted(names: Collection[str], what: str) -> str:
    return f"{len(names)} tensors {what} (such as {min(names)})" if names else ""


def left_in_words(left: list[str]) -> str:
    """The parts that were left out as one short enumeration."""
    more = f" and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
    return ", ".join(map(one_line, left[:_LISTED])) + more
