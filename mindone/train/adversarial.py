"""A step of two networks against each other: one that makes data, and one that tells them from real ones.

Every update has three graphs. The probe says how much the judgement weighs in the generator's loss, and what the
generator makes of the batch; then the generator is updated, and then the judge, on what was made before that update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindone.train.ema import Ema
from mindone.train.step import StepResult, StepState, TrainStep, fill, scalar

JUDGE, JUDGE_OPTIMIZER = "judge", "judge_optimizer"
"""Groups of a state: the judge's parameters, and what its optimizer has."""

JUDGE_NUMBERS = "judge_numbers"


class JudgeInputs(Protocol):
    """What the judge's loss takes beside real and made data, and what it remembers of an update."""

    def before(self, update: int, phase: str) -> None:
        """Prepares the judge's random numbers for a phase of an update, ``generator`` or ``judge``."""
        ...

    def extras(self, real: Tensor) -> Sequence[Tensor]:
        """Further inputs of the judge's loss."""
        ...

    def after(self, aux: Sequence[float]) -> None:
        """Takes note of the judge's further values of an update, which are means over micro batches and ranks."""
        ...

    def state(self) -> Mapping[str, Any]:
        """Numbers to remember."""
        ...

    def load_state(self, numbers: Mapping[str, Any]) -> None: ...


class AdversarialStep:
    """A `mindone.train.step.Step` of a generator and a judge.

    Args:
        generator: its loss takes the weight of the judgement, then the inputs of a micro batch.
        judge: its loss takes real data, made ones, and what ``inputs`` adds.
        network: the judge, whose parameters and statistics are remembered.
        probe: ``probe(*inputs) -> (weight, shown, made)``: the weight, the number that stands for it in the log, and
            data like the first input, which is the real one.
        inputs: see `JudgeInputs`.
        judge_lr: the judge's learning rate.
        start: updates before the judge takes part; until then the weight is 0, and nothing of the judge changes.
        judge_aux: how many values the judge's loss returns beside the loss.
    """

    def __init__(
        self,
        generator: TrainStep,
        judge: TrainStep,
        network: nn.Cell,
        probe: nn.Cell,
        inputs: JudgeInputs,
        judge_lr: float,
        start: int = 0,
        judge_aux: int = 0,
    ):
        self.generator, self.judge, self.network, self.probe = generator, judge, network, probe
        self.inputs, self.judge_lr, self.start, self.judge_aux = inputs, judge_lr, start, judge_aux

    @property
    def parameters(self) -> Sequence[Parameter]:
        return self.generator.parameters

    @property
    def ema(self) -> Ema | None:
        return self.generator.ema

    def __call__(self, micro_batches: Sequence[Sequence[Tensor]], lr: float, update: int = 0) -> StepResult:
        """One update of both.

        The result's further values are those of the generator's loss, the weight (as it is shown), the judge's loss,
        and its values.
        """
        if update < self.start:
            result = self.generator([(scalar(0.0), *inputs) for inputs in micro_batches], lr, update)
            none = (scalar(0.0),) * (2 + self.judge_aux)
            return replace(result, aux=(*result.aux, *none))
        weighed, judged, weights = [], [], []
        self.inputs.before(update, "generator")
        for inputs in micro_batches:
            weight, shown, made = self.probe(*inputs)
            weights.append(float(shown.asnumpy()))
            weighed.append((weight, *inputs))
            judged.append((inputs[0], made, *self.inputs.extras(inputs[0])))
        result = self.generator(weighed, lr, update)
        self.inputs.before(update, "judge")
        verdict = self.judge(judged, self.judge_lr, update)
        self.inputs.after([float(value.asnumpy()) for value in verdict.aux])
        return StepResult(
            result.loss,
            result.grad_norm,
            ops.logical_and(result.finite, verdict.finite),
            (*result.aux, scalar(float(np.mean(weights))), verdict.loss, *verdict.aux),
            result.accepted and verdict.accepted,
        )

    def state(self) -> StepState:
        """The generator's, and the judge with what its optimizer has; both count what they skipped."""
        own, judge = self.generator.state(), self.judge.state()
        arrays = {
            **own.arrays,
            JUDGE: dict(self.network.parameters_and_names()),
            JUDGE_OPTIMIZER: judge.arrays["optimizer"],
        }
        return StepState(arrays, {**own.numbers, JUDGE_NUMBERS: {**judge.numbers, **self.inputs.state()}})

    def load_state(self, state: StepState) -> None:
        arrays, numbers = dict(state.arrays), dict(state.numbers)
        fill(dict(self.network.parameters_and_names()), arrays.pop(JUDGE))
        of_judge = numbers.pop(JUDGE_NUMBERS, {})
        self.judge.load_state(StepState({"optimizer": arrays.pop(JUDGE_OPTIMIZER)}, of_judge))
        self.inputs.load_state(of_judge)
        self.generator.load_state(StepState(arrays, numbers))
