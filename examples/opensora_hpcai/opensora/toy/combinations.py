"""Which combinations of colour, shape and motion a toy world has, and which of them no training sees."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import NamedTuple

from mindone import runtime
from mindone.errors import UserError
from opensora.config.world import TOY, WorldConfig


class Scene(NamedTuple):
    """What a caption says of a shape: the three labels that are judged."""

    colour: str
    shape: str
    direction: str


def splits(world: WorldConfig = TOY) -> tuple[str, ...]:
    """The parts of a world's data: those of its colours, and one for each new colour."""
    return ("train", "unseen", "all", *world.new_colours)


def scenes(split: str, world: WorldConfig = TOY) -> list[Scene]:
    """The combinations of a split: ``train``, ``unseen``, ``all``, or those of a new colour.

    Raises:
        UserError: unknown split, or one without combinations.
    """
    if split not in splits(world):
        raise UserError(f"split={split} is not known; use one of {', '.join(splits(world))}")
    colours = [split] if split in world.new_colours else world.colours
    every = [Scene(*labels) for labels in itertools.product(colours, world.shapes, world.motions)]
    if split in ("train", "unseen"):
        left_out = held_out(world)
        every = [scene for scene in every if (scene in left_out) == (split == "unseen")]
    if not every:
        raise UserError(f"split={split} is empty: this world holds out nothing; use train or all")
    return every


def held_out(world: WorldConfig = TOY) -> set[Scene]:
    """The combinations that the training part does not have.

    Of a share, each is chosen by chance so that every two of its labels are still together somewhere in training.

    Raises:
        UserError: so large a share cannot be held out like this.
    """
    if isinstance(world.held_out, list):
        return {Scene(*labels) for labels in world.held_out}
    every = [Scene(*labels) for labels in itertools.product(world.colours, world.shapes, world.motions)]
    wanted = round(world.held_out * len(every))
    together = Counter(pair for scene in every for pair in _pairs(scene))
    chosen: set[Scene] = set()
    for index in runtime.stream(world.held_out_seed, "held out").permutation(len(every)) if wanted else ():
        if len(chosen) < wanted and all(together[pair] > 1 for pair in _pairs(every[index])):
            chosen.add(every[index])
            together.subtract(_pairs(every[index]))
    if len(chosen) < wanted:
        raise UserError(
            f"held_out={world.held_out:g} of {len(every)} combinations would leave labels that training never shows "
            f"together; at most {len(chosen)} can be held out"
        )
    return chosen


def _pairs(scene: Scene) -> list[tuple[str, ...]]:
    colour, shape, direction = scene
    return [("cs", colour, shape), ("cd", colour, direction), ("sd", shape, direction)]
