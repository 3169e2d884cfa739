"""An exponential moving average of the weights, kept in float32 and updated once per optimizer update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindone.nn.kernels import kernels

_average = ops.MultitypeFuncGraph("ema")


@_average.register("Tensor", "Tensor", "Tensor")
def _average_one(rate, average, parameter):
    return kernels().move_towards(average, parameter, rate)


class Ema(nn.Cell):
    """``average = decay * average + (1 - decay) * weights``, begun at the weights.

    Args:
        parameters: what is averaged.
        decay: as published, constant from the first update on.
        warmup: begin with smaller decays, ``min(decay, (1 + n) / (10 + n))`` at update n, so that a short training
            from random weights does not keep them in its average.
        changed: called when the parameters have got other values, for those who depend on them.
    Attributes:
        averages: named ``ema.<parameter>``.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        decay: float = 0.9999,
        warmup: bool = False,
        changed: Callable[[], object] | None = None,
    ):
        super().__init__(auto_prefix=False)
        self.changed = changed
        self.parameters = ParameterTuple(parameters)
        self.averages = self.parameters.clone("ema", init="zeros")
        # A clone with init="same" draws anew what a checkpoint has filled (`runtime.lazy_parameters`).
        if not any(parameter.has_init for parameter in self.parameters):
            self.restart()
        self.decay, self.warmup = decay, warmup
        self.map_ = ops.HyperMap()

    def rate(self, update: int) -> float:
        """``1 - decay`` at update number 0, 1, ..."""
        return 1 - (min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay)

    def restart(self) -> None:
        """Begins again at the present weights."""
        for average, parameter in zip(self.averages, self.parameters):
            average.set_data(Tensor(parameter.asnumpy(), ms.float32))

    def assign(self) -> None:
        """Gives the network the averages as its weights, for good."""
        for parameter, average in zip(self.parameters, self.averages):
            parameter.set_data(Tensor(average.asnumpy(), parameter.dtype))
        if self.changed:
            self.changed()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the network has the averages as its weights."""
        raw = [parameter.asnumpy().copy() for parameter in self.parameters]
        try:
            self.assign()
            yield
        finally:
            for parameter, values in zip(self.parameters, raw):
                parameter.set_data(Tensor(values))
            if self.changed:
                self.changed()

    def construct(self, rate: Tensor) -> tuple:
        """Moves the averages by ``rate``, a float32 scalar, towards the present weights."""
        return self.map_(ops.partial(_average, rate), self.averages, self.parameters)
