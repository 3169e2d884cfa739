"""One training update: loss, gradients, accumulation, their mean over ranks, clipping, optimizer and EMA, compiled.

A loop runs any `Step`; `TrainStep` is the one of one loss and one optimizer.

A loss cell has ``construct(*inputs) -> loss`` or ``-> (loss, aux)`` where ``loss`` is a scalar that is a mean over the
samples of the batch, and ``aux`` a tuple of scalars to report, likewise means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindone.nn.kernels import kernels
from mindone.parallel.collectives import InBuckets
from mindone.parallel.zero import Slices
from mindone.train.ema import Ema
from mindone.train.optim import AdamW

# As in PyTorch's clip_grad_norm_.
CLIP_EPS = 1e-6

_assign_add, _assign, _mul_no_nan = ops.AssignAdd(), ops.Assign(), ops.MulNoNan()
_square_sum, _accumulate, _reset = (
    ops.MultitypeFuncGraph("square_sum"),
    ops.MultitypeFuncGraph("add"),
    ops.MultitypeFuncGraph("zero"),
)


@_square_sum.register("Tensor")
def _square_sum_one(gradient):
    return kernels().square_sum(gradient)


@_accumulate.register("Tensor", "Tensor")
def _accumulate_one(total, gradient):
    return _assign_add(total, gradient)


@_reset.register("Tensor", "Tensor")
def _reset_one(zero, total):
    # Not zeros like it: those would be constants of the graph, as large as the parameters.
    return _assign(total, _mul_no_nan(total, zero))


@dataclass
class LossScale:
    """What the loss is multiplied by before the backward pass, so that float16 gradients do not vanish.

    A dynamic scale is divided by ``factor`` after an update that was not finite, and multiplied by it after ``window``
    finite ones in a row.
    """

    value: float = 1.0
    dynamic: bool = False
    factor: float = 2.0
    window: int = 2000
    good: int = 0
    """finite updates in a row"""

    def after(self, finite: bool) -> None:
        """Takes note of an update."""
        if not self.dynamic:
            return
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / self.factor)
        elif self.good == self.window:
            self.value, self.good = self.value * self.factor, 0


@dataclass
class SpikeGuard:
    """Tells a loss that is much larger than those before it: such an update is left out.

    The loss is compared with ``factor`` times the mean of the accepted ones, in which each counts ``decay`` times as
    much as the next one, once there are ``warmup`` of them.
    """

    factor: float
    warmup: int = 100
    decay: float = 0.99
    mean: float = 0.0
    seen: int = 0
    """accepted updates"""

    @property
    def limit(self) -> float:
        """The largest loss that is accepted now."""
        return self.factor * self.mean if self.seen >= self.warmup else float("inf")

    def after(self, loss: float, accepted: bool) -> None:
        """Takes note of an update."""
        if not accepted:
            return
        self.seen += 1
        share = max(1 - self.decay, 1 / self.seen)
        self.mean += share * (loss - self.mean)


@dataclass(frozen=True)
class StepResult:
    """What an update gave: float32 scalars as tensors (aux a tuple of them), averaged over micro batches and ranks.

    ``finite`` (bool) is False for an update whose loss or gradients were not; ``accepted`` is False for those that
    changed nothing, because they were not finite or the loss was a spike.
    """

    loss: Tensor
    grad_norm: Tensor
    finite: Tensor
    aux: tuple[Tensor, ...] = ()
    accepted: bool = True


@dataclass(frozen=True)
class StepState:
    """All that a step has to remember: arrays in named groups, and numbers that JSON knows.

    The group `AVERAGES` holds averaged weights by their parameters' names, every other one is the step's own business.
    """

    arrays: Mapping[str, Mapping[str, Parameter | np.ndarray]] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)


AVERAGES = "ema"


class Step(Protocol):
    """What a loop runs and a checkpoint remembers."""

    def __call__(self, micro_batches: Sequence[Sequence[Tensor]], lr: float, update: int = 0) -> StepResult:
        """One update, with the loss cell's inputs once per micro batch."""
        ...

    def state(self) -> StepState:
        """The present state; parameters are handed out as they are, not copied."""
        ...

    def load_state(self, state: StepState) -> None:
        """Goes back to a state, bit by bit.

        ``arrays`` has the groups, names and shapes of `state`, but the averages may be missing: then they begin anew.
        """
        ...


class _ScaledLoss(nn.Cell):
    def __init__(self, loss: nn.Cell):
        super().__init__(auto_prefix=False)
        self.loss = loss

    def construct(self, loss_scale: Tensor, *inputs):
        result = self.loss(*inputs)
        metrics = (result[0], *result[1]) if isinstance(result, tuple) else (result,)
        return metrics[0] * loss_scale, metrics


class _Update(nn.Cell):
    """From gradients to new weights."""

    def __init__(
        self,
        optimizer: AdamW,
        ema: Ema | None,
        max_grad_norm: float | None,
        skip_non_finite: bool,
        mean: nn.Cell | None,
        slices: Slices | None,
    ):
        super().__init__(auto_prefix=False)
        self.optimizer, self.ema, self.slices = optimizer, ema, slices
        self.max_grad_norm, self.skip_non_finite = max_grad_norm, skip_non_finite
        self.in_buckets = InBuckets(mean, optimizer.parameters) if slices is None else None
        self.map_ = ops.HyperMap()

    def mean_over_ranks(self, gradients):
        """What the optimizer takes: the mean over ranks, or this rank's slices of it."""
        return self.in_buckets(gradients) if self.slices is None else self.slices.scatter(gradients)

    def construct(self, gradients, loss: Tensor, lr: Tensor, ema_rate: Tensor, scale: Tensor, limit: Tensor):
        """Updates with ``scale * gradients``, those of all ranks, unless the loss is above a limit.

        Returns the norm of the gradients before clipping, whether all was finite, and whether it updated.
        """
        square = ops.addn(self.map_(_square_sum, gradients))
        # The loss is there before: ranks have to meet in the same order.
        square = square if self.slices is None else self.slices.square_sum(ops.depend(square, loss))
        norm = ops.sqrt(square) * scale
        finite = ops.logical_and(ops.isfinite(norm), ops.isfinite(loss))
        apply = finite if self.skip_non_finite else ops.ones_like(finite)
        apply = ops.logical_and(apply, ops.logical_not(loss > limit))
        if self.max_grad_norm is not None:
            scale = scale * ops.minimum(self.max_grad_norm / (norm + CLIP_EPS), ops.ones_like(norm))
        self.optimizer(gradients, lr, scale, apply)
        if self.ema is not None:
            self.ema(ops.select(apply, ema_rate, ops.zeros_like(ema_rate)))
        if self.slices is not None:
            self.slices.write_back()
        return norm, finite, apply


class _MeanMetrics(nn.Cell):
    """The mean over ranks of a tuple of scalars, in float32.

    Ranks have to meet in one order, or they wait for each other for ever: what the network exchanges in both passes,
    then gradients, then metrics, which are there before them and are held back until ``after`` is.
    """

    def __init__(self, mean: nn.Cell | None):
        super().__init__(auto_prefix=False)
        self.mean = mean

    def construct(self, metrics, after: Tensor):
        stacked = ops.stack([metric.astype(ms.float32) for metric in metrics])
        return stacked if self.mean is None else self.mean(ops.depend(stacked, after))


class _WholeStep(nn.Cell):
    """Everything in one graph."""

    def __init__(self, loss: _ScaledLoss, update: _Update, mean: nn.Cell | None):
        super().__init__(auto_prefix=False)
        self.update = update
        self.mean_metrics = _MeanMetrics(mean)
        weights = update.optimizer.parameters if update.slices is None else update.slices.weights
        self.value_and_grad = ops.value_and_grad(loss, None, weights, has_aux=True)

    def construct(self, lr: Tensor, ema_rate: Tensor, loss_scale: Tensor, limit: Tensor, *inputs):
        (_, metrics), gradients = self.value_and_grad(loss_scale, *inputs)
        gradients = self.update.mean_over_ranks(gradients)
        metrics = self.mean_metrics(metrics, gradients[-1])
        return metrics, *self.update(gradients, metrics[0], lr, ema_rate, 1 / loss_scale, limit)


class _Accumulate(nn.Cell):
    """Adds the gradients of one micro batch to ``totals``, or with ``slices`` this rank's slices of their mean."""

    def __init__(
        self,
        loss: _ScaledLoss,
        totals: ParameterTuple,
        weights: ParameterTuple,
        mean: nn.Cell | None,
        slices: Slices | None,
    ):
        super().__init__(auto_prefix=False)
        self.totals, self.slices = totals, slices
        self.mean_metrics = _MeanMetrics(mean)
        self.value_and_grad = ops.value_and_grad(loss, None, weights, has_aux=True)
        self.map_ = ops.HyperMap()

    def construct(self, loss_scale: Tensor, *inputs):
        # Nothing is unpacked that is not used: beside the assignments, the compiler warns that it drops it.
        found = self.value_and_grad(loss_scale, *inputs)
        if self.slices is not None:
            own = self.slices.scatter(found[1])
            self.map_(_accumulate, self.totals, own)
            return self.mean_metrics(found[0][1], own[-1])
        self.map_(_accumulate, self.totals, found[1])
        # The gradient of the first parameter is the last one.
        return self.mean_metrics(found[0][1], found[1][0])


class _Apply(nn.Cell):
    """Updates with what was accumulated, and begins anew; ``is_mean`` if that is the mean over ranks already."""

    def __init__(self, totals: ParameterTuple, update: _Update, is_mean: bool):
        super().__init__(auto_prefix=False)
        self.totals, self.update, self.is_mean = totals, update, is_mean
        self.zero = Tensor(0.0, ms.float32)
        self.map_ = ops.HyperMap()

    def construct(self, loss: Tensor, lr: Tensor, ema_rate: Tensor, scale: Tensor, limit: Tensor):
        gradients = self.totals if self.is_mean else self.update.mean_over_ranks(self.totals)
        norm, finite, applied = self.update(gradients, loss, lr, ema_rate, scale, limit)
        self.map_(ops.partial(_reset, self.zero), self.totals)
        return norm, finite, applied


class TrainStep:
    """Compiled training updates.

    Without accumulation an update is one graph; with it, one graph per micro batch and one that applies the sum. The
    learning rate, the EMA and the optimizer's count move once per update either way.

    Args:
        loss: see the top of this file; set to training mode here.
        optimizer: holds the parameters that are trained.
        max_grad_norm: clips the global norm of the gradients (of all ranks' mean); None does not.
        accumulation_steps: micro batches per update, whose gradients are averaged.
        loss_scale: for float16; 1 if not given.
        skip_non_finite: leave out an update whose loss or gradients are not finite.
        mean: averages a tensor over the ranks that share an update, see `mindone.parallel.collectives.Mean`; None with
            one rank.
        spikes: leaves out updates whose loss is much larger than those before; None leaves out none.
        slices: what each rank moves of the parameters (``optimizer`` and ``ema`` are of its slices); None moves all.
        slice_gradients: with accumulation, keep slices of the sum instead of the whole.
    Attributes:
        skipped: updates that were left out.
        graph: without accumulation, the cell of a whole update: learning rate, EMA rate, loss scale, largest loss that
            is accepted, loss inputs.
    """

    def __init__(
        self,
        loss: nn.Cell,
        optimizer: AdamW,
        ema: Ema | None = None,
        max_grad_norm: float | None = None,
        accumulation_steps: int = 1,
        loss_scale: LossScale | None = None,
        skip_non_finite: bool = True,
        mean: nn.Cell | None = None,
        spikes: SpikeGuard | None = None,
        slices: Slices | None = None,
        slice_gradients: bool = True,
    ):
        self.loss, self.optimizer, self.ema, self.slices = loss, optimizer, ema, slices
        self.spikes = spikes
        self.accumulation_steps, self.loss_scale = accumulation_steps, loss_scale or LossScale()
        self.skipped = 0
        loss.set_train(True)
        scaled = _ScaledLoss(loss)
        update = _Update(optimizer, ema, max_grad_norm, skip_non_finite, mean, slices)
        if accumulation_steps == 1:
            self.graph = _WholeStep(scaled, update, mean)
        else:
            weights = optimizer.parameters if slices is None else slices.weights
            early = slices is not None and slice_gradients
            totals = (optimizer.parameters if early else weights).clone("gradient", init="zeros")
            self._accumulate = _Accumulate(scaled, totals, weights, mean, slices if early else None)
            self._apply = _Apply(totals, update, early)

    @property
    def parameters(self) -> Sequence[Parameter]:
        """What is trained; of weights that are spread over ranks this rank's slices."""
        return self.optimizer.parameters if self.slices is None else self.slices.weights

    def state(self) -> StepState:
        """Moments of the optimizer (group ``optimizer``), the averages if there are any, and the loss scale.

        Parameters of slices say so, see `mindone.checkpoint.slices.cut_of`.
        """
        named = _by_name if self.slices is None else self.slices.named
        arrays: dict[str, Mapping[str, Parameter]] = {"optimizer": named(self.optimizer.states)}
        if self.ema:
            averages = named(self.ema.averages)
            arrays[AVERAGES] = {name.partition(".")[2]: average for name, average in averages.items()}
        scale = {"loss_scale": self.loss_scale.value, "finite_in_a_row": self.loss_scale.good}
        usual = {"usual_loss": self.spikes.mean, "usual_seen": self.spikes.seen} if self.spikes else {}
        return StepState(arrays, {"skipped": self.skipped, **scale, **usual})

    def load_state(self, state: StepState) -> None:
        own = self.state().arrays
        for group, arrays in state.arrays.items():
            fill(own[group], arrays)
        if self.slices is not None:
            self.slices.read()
        if self.ema and AVERAGES not in state.arrays:
            self.ema.restart()
        self.skipped = state.numbers.get("skipped", 0)
        if self.spikes:
            self.spikes.mean = state.numbers.get("usual_loss", 0.0)
            self.spikes.seen = state.numbers.get("usual_seen", 0)
        if self.loss_scale.dynamic and "loss_scale" in state.numbers:
            self.loss_scale.value, self.loss_scale.good = (
                state.numbers["loss_scale"],
                state.numbers["finite_in_a_row"],
            )

    def __call__(self, micro_batches: Sequence[Sequence[Tensor]], lr: float, update: int = 0) -> StepResult:
        """One update.

        Args:
            micro_batches: the loss cell's inputs, ``accumulation_steps`` times.
            update: its number, for the EMA's warm-up.
        """
        if len(micro_batches) != self.accumulation_steps:
            raise ValueError(f"{len(micro_batches)} micro batches for accumulation_steps={self.accumulation_steps}")
        rates = (scalar(lr), scalar(self.ema.rate(update) if self.ema else 0.0))
        run = self._run_whole if self.accumulation_steps == 1 else self._run_accumulated
        limit = self.spikes.limit if self.spikes else float("inf")
        metrics, norm, finite, applied = run(micro_batches, rates, scalar(limit))
        is_finite, accepted = bool(finite.asnumpy()), bool(applied.asnumpy())
        self.skipped += not accepted
        self.loss_scale.after(is_finite)
        if self.spikes:
            self.spikes.after(float(metrics[0].asnumpy()), accepted and is_finite)
        return StepResult(metrics[0], norm, finite, tuple(metrics[1:]), accepted)

    def _run_whole(self, micro_batches: Sequence[Sequence[Tensor]], rates: tuple[Tensor, Tensor], limit: Tensor):
        return self.graph(*rates, scalar(self.loss_scale.value), limit, *micro_batches[0])

    def _run_accumulated(self, micro_batches: Sequence[Sequence[Tensor]], rates: tuple[Tensor, Tensor], limit: Tensor):
        loss_scale = scalar(self.loss_scale.value)
        metrics = [self._accumulate(loss_scale, *inputs).asnumpy() for inputs in micro_batches]
        mean = np.mean(metrics, axis=0, dtype=np.float32)
        scale = scalar(1 / (self.loss_scale.value * self.accumulation_steps))
        return Tensor(mean), *self._apply(scalar(mean[0]), *rates, scale, limit)


def _by_name(parameters: Sequence[Parameter]) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in parameters}


def scalar(value: float) -> Tensor:
    """A number as a graph takes it, () float32."""
    return Tensor(value, ms.float32)


def fill(parameters: Mapping[str, Parameter], arrays: Mapping[str, Parameter | np.ndarray]) -> None:
    """Sets parameters by name, each in its own dtype."""
    for name, array in arrays.items():
        parameters[name].set_data(Tensor(np.array(array), parameters[name].dtype))
