"""Searches on a sampler and a judge of which the best noise is known."""

from pathlib import Path

import numpy as np
import pytest

from opensora.config.search import Search
from opensora.evaluation.noise_search import METHODS, Candidate, best_after, neighbours, rounds, zero_order
from opensora.noise import InitialNoise, noise_of

PROMPTS, SIZE = 20, (2, 2, 4, 4)


class StandIn:
    """A sampler whose videos are their noise, and a judge that wants it to point in a prompt's direction.

    A score is the part of the noise in that direction: 0 with standard deviation 1 for independent noise, the best one
    of noise of this size about 8.
    """

    def __init__(self, prompts=range(PROMPTS)):
        self.prompts, self.calls = list(prompts), []
        wanted = noise_of([InitialNoise(10_000 + prompt) for prompt in self.prompts], SIZE)
        self.wanted = [each / np.linalg.norm(each) for each in wanted]

    def __call__(self, wanted):
        self.calls.append(wanted if isinstance(wanted, int) else len(wanted[0]))
        if isinstance(wanted, int):
            wanted = [[InitialNoise(100 * prompt + number) for number in range(wanted)] for prompt in self.prompts]
        made = []
        for row, noises in enumerate(wanted):
            scores = [float((noise * self.wanted[row]).sum()) for noise in noise_of(noises, SIZE)]
            made.append([Candidate(f"{row}", *each) for each in zip(noises, [Path()] * len(noises), scores)])
        return made


def scores_of(found):
    return np.array([[each.score for each in candidates] for candidates in found])


def searched(method, stand_in=None, **settings):
    settings = {"candidates": 33, "neighbours": 4, "noise_radius": 0.5, **settings}
    return METHODS[method](stand_in or StandIn(), Search(judge="toy", search_method=method, **settings))


def test_with_the_same_number_of_videos_rounds_find_better_noise_than_independent_candidates():
    climbed, drawn = scores_of(searched("zero_order")), scores_of(searched("best_of_n"))
    assert climbed.shape == drawn.shape == (PROMPTS, 33)
    assert climbed.max(1).mean() > drawn.max(1).mean() + 0.5
    assert (climbed.max(1) > drawn.max(1)).mean() > 0.7


def test_no_round_loses_what_was_found_and_more_rounds_find_more():
    scores = scores_of(searched("zero_order", candidates=65))
    best = list(best_after(scores.tolist(), Search(candidates=65, judge="toy")).values())
    assert best == sorted(best) and best[0] == pytest.approx(scores[:, 0].mean())
    assert best[-1] == pytest.approx(scores.max(1).mean()) and best[8] > best[4] + 0.3


def test_a_pivot_moves_to_its_best_neighbour_and_stays_where_all_are_worse():
    found = searched("zero_order", StandIn(range(5)))
    for candidates in found:
        pivot = candidates[0]
        for first in range(1, 33, 4):
            group = candidates[first : first + 4]
            assert all(each.noise.mixed[:-1] == pivot.noise.mixed for each in group)
            assert all(each.noise.mixed[-1][1] == 0.5 for each in group)
            pivot = max(pivot, *group, key=lambda each: each.score)


def test_where_all_are_equal_the_pivot_moves_on():
    def make(wanted):
        wanted = [[InitialNoise(1)]] if isinstance(wanted, int) else wanted
        return [[Candidate("", noise, Path(), 0.5) for noise in wanted[0]]]

    (candidates,) = zero_order(make, Search(candidates=7, neighbours=2, judge="toy"))
    assert [len(each.noise.mixed) for each in candidates] == [0, 1, 1, 2, 2, 3, 3]


def test_a_search_is_the_same_again_and_does_not_depend_on_other_prompts():
    first, again, alone = (searched("zero_order", StandIn(rows)) for rows in (range(4), range(4), [2]))
    assert first == again
    assert [each.noise for each in alone[0]] == [each.noise for each in first[2]]


@pytest.mark.parametrize(("candidates", "calls"), [(2, [1, 1]), (9, [1, 4, 4]), (8, [1, 4, 3])])
def test_pivot_and_rounds_make_as_many_videos_as_there_are_candidates(candidates, calls):
    stand_in = StandIn(range(2))
    searched("zero_order", stand_in, candidates=candidates)
    assert stand_in.calls == calls
    assert [1, *rounds(Search(candidates=candidates, neighbours=4, judge="toy"))] == calls


def test_neighbours_differ_from_each_other_and_from_round_to_round():
    pivot = InitialNoise(7)
    near = [*neighbours(pivot, 0, 4, 0.5), *neighbours(pivot, 1, 4, 0.5)]
    assert len(set(near)) == 8
    assert near[:2] == neighbours(pivot, 0, 2, 0.5)
