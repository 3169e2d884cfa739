"""Which candidates a search makes: independent ones, or step by step nearer to what the judge likes.

Both get the same number of videos of every prompt, and so the same evaluations of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindone import runtime
from opensora.config.search import Search
from opensora.noise import InitialNoise


class Candidate(NamedTuple):
    """A video of a prompt, the noise that it began from, and what its judge says; higher is better."""

    prompt: str
    noise: InitialNoise
    video: Path
    score: float


# Makes and judges videos that begin from given noise, [prompt][video]. A whole number in place of the noise is how many
# videos of every prompt shall begin from that of seeds of their own.
Make = Callable[[Sequence[Sequence[InitialNoise]] | int], list[list[Candidate]]]


def best_of_n(make: Make, settings: Search) -> list[list[Candidate]]:
    """All candidates of every prompt, each from independent noise."""
    return make(settings.candidates)


def zero_order(make: Make, settings: Search) -> list[list[Candidate]]:
    """All candidates of every prompt in their order: a pivot, then round after round neighbours of the best so far.

    Zero-order search of "Inference-time scaling for diffusion models beyond denoising steps" (Ma et al. 2025): the
    noise of a neighbour is ``sqrt(1 - r^2) z + r e`` with the pivot's ``z``, fresh ``e`` and r = ``noise_radius``, and
    the best neighbour is the next pivot. Here the pivot stays where all of its neighbours are worse, so that no round
    leads away from what was found; one that is as good is moved to. Each neighbour depends on the pivot and its place
    in the search alone, not on other prompts.
    """
    found = make(1)
    pivots = [candidates[0] for candidates in found]
    for number, count in enumerate(rounds(settings)):
        wanted = [neighbours(pivot.noise, number, count, settings.noise_radius) for pivot in pivots]
        for row, candidates in enumerate(make(wanted)):
            found[row] = [*found[row], *candidates]
            pivots[row] = max([*candidates, pivots[row]], key=lambda each: each.score)
    return found


METHODS: dict[str, Callable[[Make, Search], list[list[Candidate]]]] = {"best_of_n": best_of_n, "zero_order": zero_order}


def rounds(settings: Search) -> list[int]:
    """Neighbours in each round of `zero_order`; the last may have fewer, so that with the pivot all are candidates."""
    left = range(settings.candidates - 1, 0, -settings.neighbours)
    return [min(settings.neighbours, count) for count in left]


def neighbours(noise: InitialNoise, number: int, count: int, radius: float) -> list[InitialNoise]:
    """Noise near to a pivot's, in the round ``number``."""
    seeds = runtime.stream(noise.seed, "neighbours", number).integers(2**31, size=count)
    return [noise.near(int(seed), radius) for seed in seeds]


def best_after(scores: Sequence[Sequence[float]], settings: Search) -> dict[int, float]:
    """The mean over prompts of the best score after the pivot and after each round, by the number of candidates."""
    best = np.maximum.accumulate(np.asarray(scores, np.float64), axis=1).mean(0)
    ends = np.cumsum([1, *rounds(settings)])
    return {int(end): float(best[end - 1]) for end in ends}
