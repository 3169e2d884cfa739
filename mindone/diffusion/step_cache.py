"""Which steps of sampling compute a network anew, and which take results of a step before.

Pyramid attention broadcast (PAB, arXiv:2408.12588) reuses the branches of a block, and TeaCache (arXiv:2411.19108) the
whole network. What is reused may also be forecast from several steps before (TaylorSeer, arXiv:2503.06923). These are
their decisions; networks and samplers do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mindone.errors import UserError

MlpStep = Literal["compute", "store", "reuse"]


@dataclass(frozen=True)
class Broadcast:
    """How often the branches of one kind are computed while the noise is of a middling level.

    Within ``window``, timesteps of 0 to 1000 and neither end of it, every ``every``-th step computes them.
    """

    every: int
    window: tuple[float, float] = (450, 930)

    def __post_init__(self) -> None:
        if self.every < 1 or not self.window[0] < self.window[1]:
            raise UserError(
                f"a branch that is computed every {self.every} steps within {list(self.window)} cannot be; "
                "use a whole number from 1, and a window whose first timestep is the smaller one"
            )

    def reuses(self, timesteps: Sequence[int]) -> list[bool]:
        """For each step whether it takes the branch of the latest step that computed it."""
        return [self.reuses_at(step, t) for step, t in enumerate(timesteps)]

    def reuses_at(self, step: int, timestep: int) -> bool:
        """Whether that step, counted from 0, takes the branch of the latest step that computed it."""
        low, high = self.window
        return step % self.every != 0 and low < timestep < high


@dataclass(frozen=True)
class MlpBroadcast:
    """The MLPs of some blocks are kept at the timesteps ``keys``, and reused in the next ``skip_count`` steps."""

    keys: tuple[int, ...] = (676, 788, 864)
    blocks: tuple[int, ...] = (0, 1, 2, 3, 4)
    skip_count: int = 2

    def steps(self, timesteps: Sequence[int], block: int) -> list[MlpStep]:
        """What each step does with the MLP of a block."""
        found: list[MlpStep] = []
        left = 0
        for t in timesteps:
            if block in self.blocks and t in self.keys:
                found.append("store")
                left = self.skip_count
            else:
                found.append("reuse" if left else "compute")
                left = max(0, left - 1)
        return found


@dataclass(frozen=True)
class TeaCache:
    """Steps are left out as long as the network's input changes little.

    Attributes:
        threshold: how much change may add up before the network runs again; more is faster and less exact.
        coefficients: of a polynomial, the highest power first, that tells the change of the result from that of the
            input; measured once per network. Of one coefficient alone, the inputs are of no account, and all samples
            leave out the same steps.
        order: of the polynomial over time that forecasts the result of a step that is left out, see `Forecast`.
        warmup: steps from the first on that all compute, while the result changes most.
    """

    threshold: float
    coefficients: tuple[float, ...] = (217.546007, -118.329252, 26.8662585, -0.0459364272, 0.048442624)
    """of Open-Sora 1.2"""
    order: int = 0
    warmup: int = 1

    @property
    def compares(self) -> bool:
        """Whether the change of the input counts."""
        return len(self.coefficients) > 1

    def change(self, distance: float) -> float:
        """What a relative distance of two inputs, ``mean|m - m'| / mean|m'|``, is expected to change."""
        return float(np.polyval(self.coefficients, distance))

    def schedule(self, distances: Sequence[float]) -> tuple[list[bool], list[float]]:
        """Whether each step computes, and the change that has added up after it.

        Args:
            distances: of the inputs of each step but the first from the step before.
        """
        computes, added = [True], [0.0]
        for number, distance in enumerate(distances, start=1):
            total = added[-1] + self.change(distance)
            runs = number < self.warmup or number == len(distances) or not total < self.threshold
            computes.append(runs)
            added.append(0.0 if runs else total)
        return computes, added


class TeaCacheRun:
    """`TeaCache` while sampling: decides step by step, for every sample of a batch by itself.

    So a sample is made of the same steps in any batch. The first ``warmup`` steps, one at least, and the last compute.
    """

    def __init__(self, rule: TeaCache, num_steps: int):
        self.rule, self.num_steps = rule, num_steps
        self.step = 0
        self._added: np.ndarray | None = None

    def computes(self, distances: np.ndarray, forced: np.ndarray | None = None) -> np.ndarray:
        """Which samples the network runs for in the next step, (B,) bool.

        Args:
            distances: (B,) of each sample's input from that of the step before; of no account in the first step.
            forced: (B,) bool, samples that compute whatever the distance is.
        """
        if self._added is None:
            self._added = np.zeros(len(distances))
        self._added = self._added + [self.rule.change(float(distance)) for distance in distances]
        runs = ~(self._added < self.rule.threshold)
        if self.step < max(1, self.rule.warmup) or self.step == self.num_steps - 1:
            runs[:] = True
        if forced is not None:
            runs |= forced
        self._added[runs] = 0.0
        self.step += 1
        return runs


class Forecast:
    """What a result is expected to be, from the latest computed ones: the polynomial over time through them.

    TaylorSeer (arXiv:2503.06923) expands features in time with finite differences, which for order 1 is the same. In
    Lagrange's form the polynomial is a weighted sum of the results, for times at any distances. Every sample has times
    of its own. As long as it has fewer results than ``order + 1``, the polynomial is of a lower order.

    Args:
        order: 0 repeats the latest result, 1 is a line through two, 2 a parabola through three.
    """

    def __init__(self, order: int):
        self.order = order
        self._times: np.ndarray | None = None

    def computed(self, times: np.ndarray, runs: np.ndarray) -> None:
        """Notes that the samples which ``runs`` (B,) bool names have a result at ``times`` (B,)."""
        if self._times is None:
            self._times = np.full((self.order + 1, len(times)), np.nan)
        newer = np.concatenate((np.asarray(times, np.float64)[None], self._times[:-1]))
        self._times = np.where(runs, newer, self._times)

    def weights(self, times: np.ndarray) -> np.ndarray:
        """(order + 1, B) float32: of each result, the latest first, in the sum that is expected at ``times`` (B,)."""
        return np.stack([_lagrange(row, t) for row, t in zip(self._times.T, np.asarray(times, np.float64))], 1)


def _lagrange(known: np.ndarray, t: float) -> np.ndarray:
    """(N,) float32 weights at t of values at the times ``known`` (N,); 0 where there is none (NaN), or a time again."""
    used = [i for i, time in enumerate(known) if not np.isnan(time) and time not in known[:i]]
    weights = np.zeros(len(known), np.float32)
    for i in used:
        weights[i] = np.prod([(t - known[j]) / (known[i] - known[j]) for j in used if j != i])
    return weights


def relative_distances(changed: np.ndarray, before: np.ndarray, branches: int) -> np.ndarray:
    """(B,) relative distances of samples from sums over their inputs, the rows of every branch after one another.

    Args:
        changed, before: (branches * B,) sums of ``|m - m'|`` and of ``|m'|``.
    """
    changed, before = (np.asarray(rows, np.float64).reshape(branches, -1).sum(0) for rows in (changed, before))
    return changed / np.maximum(before, np.finfo(np.float64).tiny)
