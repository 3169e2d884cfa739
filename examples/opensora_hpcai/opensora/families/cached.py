"""Sampling that leaves blocks out in some steps: TeaCache, and pyramid attention broadcast (PAB).

The network is compiled in parts, and the host decides before every step which part runs: a step that is skipped runs
a graph in which there are no blocks. Decisions and forecasts are those of `mindone.diffusion.step_cache`.

A network offers ``embed(*inputs) -> (x, state)``, ``run_blocks(x, state) -> x``, ``head(x, state)`` and
``first_input(x, state)``, the modulated input of its first block; for PAB also ``broadcast_blocks``. Its guided
prediction says at which place of its inputs the timesteps (B,) are: ``timestep_place``.

Legend: `B` batch, `R` rows that the network sees (branches of guidance times `B`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone.diffusion.step_cache import Broadcast, Forecast, TeaCache, TeaCacheRun, relative_distances
from mindone.nn import functional as F

if TYPE_CHECKING:
    from opensora.config.generate import Cache as CacheSettings

Prediction = Callable[..., Tensor]
# The version that the published polynomial was fitted on.
FITTED_VERSION = "v1.2"
THE_CHANGE_ITSELF = (1.0, 0.0)
KINDS = ("spatial", "temporal", "cross")
# Place in the inputs of an STDiT's guided prediction.
FRAMES_MASK = 6


class StepCache(Protocol):
    """A way to leave blocks out."""

    spent: Spent

    def start(self, guided: nn.Cell, num_steps: int) -> Prediction:
        """What is called like ``guided`` once for each of the steps of a batch."""
        ...


@dataclass
class Spent:
    """Computed and possible forward passes of all blocks, in steps; a part of the branches counts as such a part."""

    computed: float = 0.0
    steps: int = 0

    @property
    def speed(self) -> float:
        """How many times fewer blocks were computed."""
        return self.steps / self.computed if self.computed else 1.0


def cached(step_cache: StepCache | None, guided: nn.Cell, num_steps: int) -> Prediction:
    """The guided prediction for the steps of one batch, with a step cache or without."""
    return guided if step_cache is None else step_cache.start(guided, num_steps)


def make_step_cache(settings: CacheSettings, model_version: str) -> StepCache | None:
    """What the settings ask for; None: nothing."""
    if settings.step_cache == "teacache":
        return TeaCached(teacache_rule(settings, model_version))
    if settings.step_cache == "pab":
        return Broadcasted(
            Broadcast(settings.spatial_range, tuple(settings.spatial_threshold)),
            Broadcast(settings.temporal_range, tuple(settings.temporal_threshold)),
            Broadcast(settings.cross_range, tuple(settings.cross_threshold)),
        )
    return None


def teacache_rule(settings: CacheSettings, model_version: str) -> TeaCache:
    """TeaCache with the settings' threshold and the coefficients of the version, or those that are given."""
    coefficients = settings.teacache_coefficients
    if not coefficients:
        coefficients = TeaCache.coefficients if model_version == FITTED_VERSION else THE_CHANGE_ITSELF
    return TeaCache(settings.rel_l1_thresh, tuple(coefficients), settings.teacache_order, settings.teacache_warmup)


# --- parts of a network, each a graph of its own ---------------------------------------------------------------------


class _Part(nn.Cell):
    def __init__(self, guided: nn.Cell):
        super().__init__(auto_prefix=False)
        self.guided, self.network = guided, guided.network


class Computing(_Part):
    """A step with its blocks.

    Returns the guided prediction, what the blocks added to their input, (R, ...), and with ``compares`` the modulated
    input of the first block, (R, ...) float32.
    """

    def __init__(self, guided: nn.Cell, compares: bool = True):
        super().__init__(guided)
        self.compares = compares

    def construct(self, *inputs):
        x, state = self.network.embed(*self.guided.arguments(*inputs))
        after = self.network.run_blocks(x, state)
        result = self.guided.guide(self.network.head(after, state), inputs)
        if self.compares:
            return result, after - x, self.network.first_input(x, state)
        return result, after - x


class Reusing(_Part):
    """A step without its blocks; ``order`` is that of the forecast of what they would add."""

    def __init__(self, guided: nn.Cell, order: int = 0):
        super().__init__(guided)
        self.count = order + 1

    def construct(self, before, weights, *given):
        """Such a step, whose result may be used or not.

        Args:
            before: (R, ...) input of the first block in the step before; None if inputs are not compared.
            weights: (order + 1, R) float32 of what the blocks added in earlier steps; None with order 0.
            given: order + 1 of these tensors, (R, ...), the latest first, and the inputs of the network.

        Returns:
            the guided prediction; if inputs are compared also the input of the first block, and per row the means of
            its change and of ``before``.
        """
        inputs = given[self.count :]
        x, state = self.network.embed(*self.guided.arguments(*inputs))
        result = self.guided.guide(self.network.head(x + self._forecast(weights, given, x), state), inputs)
        if before is None:
            return (result,)
        now = self.network.first_input(x, state)
        axes = tuple(range(1, now.ndim))
        return result, now, ops.abs(now - before).mean(axes), ops.abs(before).mean(axes)

    def _forecast(self, weights, residuals, x):
        if self.count == 1:
            return F.cast(residuals[0], x.dtype)
        total = 0.0
        for i in range(self.count):
            weight = weights[i].reshape((-1,) + (1,) * (x.ndim - 1))
            total = total + weight * F.cast(residuals[i], ms.float32)
        return F.cast(total, x.dtype)


class Chosen(nn.Cell):
    """Rows (R, ...) of ``new`` where ``rows`` (R,) bool says so, and of ``old`` elsewhere."""

    def construct(self, rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
        return ops.where(rows.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)


class Broadcasting(_Part):
    """The guided prediction with some kinds of branches of an earlier step; those of the others are returned.

    ``broadcast_blocks(x, state, branches)`` takes a tuple per kind, of the branches of all blocks, or an empty one, and
    returns x and all branches.

    Args:
        reused: for each of `KINDS` whether its branches are given: the first inputs, one kind after the other.
        counts: branches of each kind.
    """

    def __init__(self, guided: nn.Cell, reused: tuple[bool, ...], counts: tuple[int, ...]):
        super().__init__(guided)
        self.reused = reused
        self.ends, end = [0], 0
        for count, given in zip(counts, reused):
            end += count if given else 0
            self.ends.append(end)
        self.ends = tuple(self.ends)

    def construct(self, *given):
        branches = ()
        for i in range(3):
            branches += (given[self.ends[i] : self.ends[i + 1]],)
        inputs = given[self.ends[3] :]
        x, state = self.network.embed(*self.guided.arguments(*inputs))
        x, kept = self.network.broadcast_blocks(x, state, branches)
        result = self.guided.guide(self.network.head(x, state), inputs)
        fresh = ()
        for i in range(3):
            if not self.reused[i]:
                fresh += kept[i]
        return (result, *fresh)


# --- the two caches --------------------------------------------------------------------------------------------------


class TeaCached:
    """Leaves all blocks out as long as their input changes little, for each sample by itself.

    What they would have added is forecast from what they added before. Where the samples of a batch disagree the blocks
    run for all of them, and only those use the result that would do so in a batch of their own.
    """

    def __init__(self, rule: TeaCache):
        self.rule, self.spent = rule, Spent()
        self.distances: list[np.ndarray] = []
        """of the latest batch: (B,) per step after the first"""
        self._parts: dict[tuple, tuple[nn.Cell, nn.Cell]] = {}
        self._chosen = Chosen()

    def start(self, guided: nn.Cell, num_steps: int) -> Prediction:
        key = (id(guided), self.rule.order, self.rule.compares)
        if key not in self._parts:
            self._parts[key] = (Computing(guided, self.rule.compares), Reusing(guided, self.rule.order))
        run, self.distances = TeaCacheRun(self.rule, num_steps), []
        return _TeaCachedBatch(self, run, guided.timestep_place, *self._parts[key])

    def mixed(self, runs: np.ndarray, new: Tensor, old: Tensor) -> Tensor:
        """Of the samples that ``runs`` (B,) names the new rows, of the others the old ones."""
        if runs.all():
            return new
        return self._chosen(Tensor(np.tile(runs, new.shape[0] // len(runs))), new, old)


class _TeaCachedBatch:
    """The steps of one batch.

    Where inputs are compared, the part without blocks runs first in every step but the first one: it is cheap, and has
    the result for those samples that reuse. Otherwise one part runs, or both where samples disagree.
    """

    def __init__(self, cache: TeaCached, run: TeaCacheRun, timestep_place: int, compute: nn.Cell, reuse: nn.Cell):
        self.cache, self.run, self.timestep_place = cache, run, timestep_place
        self.compute, self.reuse = compute, reuse
        self.forecast = Forecast(run.rule.order)
        self._seen: Tensor | None = None
        self._residuals: list[Tensor] = []
        self._mask: np.ndarray | None = None

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        times, reused = inputs[self.timestep_place].asnumpy(), None
        distances = np.zeros(len(times))
        if self._seen is not None:
            reused, distances = self._compared(times, inputs)
        if self._residuals:
            self.cache.distances.append(distances)
        runs = self.run.computes(distances, self._joined(inputs))
        self.cache.spent.steps += 1
        if reused is None and not runs.all():
            (reused,) = self._reused(times, inputs)
        if not runs.any():
            return reused
        return self._computed(times, inputs, runs, reused)

    def _computed(self, times: np.ndarray, inputs: tuple, runs: np.ndarray, reused: Tensor | None) -> Tensor:
        """The prediction with blocks for the samples that ``runs`` (B,) names, which are kept for later steps."""
        self.cache.spent.computed += 1
        result, residual, *seen = self.compute(*inputs)
        self._seen = seen[0] if seen else None
        self.forecast.computed(times, runs)
        known = self._residuals or [residual] * (self.run.rule.order + 1)
        self._residuals = [self.cache.mixed(runs, new, old) for new, old in zip([residual, *known], known)]
        return self.cache.mixed(runs, result, reused)

    def _compared(self, times: np.ndarray, inputs: tuple) -> tuple[Tensor, np.ndarray]:
        """The prediction without blocks, and the (B,) relative distances of the inputs from those a step before."""
        result, self._seen, *sums = self._reused(times, inputs)
        rows = self._seen.shape[0]
        return result, relative_distances(*[each.asnumpy() for each in sums], rows // len(times))

    def _reused(self, times: np.ndarray, inputs: tuple) -> tuple[Tensor, ...]:
        weights = None
        if self.run.rule.order:
            branches = self._residuals[0].shape[0] // len(times)
            weights = Tensor(np.tile(self.forecast.weights(times), branches))
        return self.reuse(self._seen, weights, *self._residuals, *inputs)

    def _joined(self, inputs: tuple[Tensor | None, ...]) -> np.ndarray | None:
        """(B,) bool: samples of which another set of frames is generated than in the step before."""
        mask = inputs[FRAMES_MASK] if len(inputs) > FRAMES_MASK else None
        if mask is None or mask.dtype != ms.bool_:
            return None
        before, self._mask = self._mask, mask.asnumpy()
        return None if before is None else (before != self._mask).any(1)


@dataclass
class Broadcasted:
    """PAB: branches of attention are computed in some steps only, those of MLPs in all.

    The published reuse of five blocks' MLPs is left out: it is bound to timesteps of one size and length.
    """

    spatial: Broadcast
    temporal: Broadcast
    cross: Broadcast
    spent: Spent = field(default_factory=Spent)
    _parts: dict[tuple, nn.Cell] = field(default_factory=dict)

    def start(self, guided: nn.Cell, num_steps: int) -> Prediction:
        counts = guided.network.branch_counts
        kept: list[tuple[Tensor, ...]] = [(), (), ()]
        step = 0

        def predict(*inputs: Tensor | None) -> Tensor:
            nonlocal step
            timestep = int(inputs[guided.timestep_place].asnumpy()[0])
            reused = tuple(rule.reuses_at(step, timestep) for rule in (self.spatial, self.temporal, self.cross))
            key = (id(guided), reused)
            if key not in self._parts:
                self._parts[key] = Broadcasting(guided, reused, counts)
            given = [tensor for tensors, again in zip(kept, reused) if again for tensor in tensors]
            result, *fresh = self._parts[key](*given, *inputs)
            for place, (count, again) in enumerate(zip(counts, reused)):
                if not again:
                    kept[place], fresh = tuple(fresh[:count]), fresh[count:]
            self.spent.steps += 1
            self.spent.computed += 1 - sum(reused) / (len(KINDS) + 1)
            step += 1
            return result

        return predict
