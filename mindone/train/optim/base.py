"""What optimizers have in common: parameters with their shares of weight decay and learning rate, and one update."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

_assign, _where, _mul_no_nan = ops.Assign(), ops.Select(), ops.MulNoNan()


class Optimizer(nn.Cell):
    """An update of parameters from their gradients, for use inside compiled graphs.

    All are made of operators that every device has, and keep their state in float32 parameters.

    Args:
        parameters: what is trained.
        weight_decay: what it means is the optimizer's own.
        decays: tells which parameters have weight decay; all if not given.
        shares: the share of the learning rate that a parameter has; 1 if not given.
    Attributes:
        states: all that has to be saved to continue.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        weight_decay: float = 0.0,
        decays: Callable[[Parameter], bool] | None = None,
        shares: Callable[[Parameter], float] | None = None,
    ):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)
        self.weight_decay = float(weight_decay)
        self.decayed = tuple(bool(decays(parameter)) if decays else True for parameter in parameters)
        self.shares = tuple(float(shares(parameter)) if shares else 1.0 for parameter in parameters)
        self.states: tuple[Parameter, ...] = ()
        self.map_ = ops.HyperMap()

    def state(self) -> dict[str, Parameter]:
        """All that has to be saved to continue, by name."""
        return {parameter.name: parameter for parameter in self.states}

    def construct(self, gradients: tuple[Tensor, ...], lr: Tensor, scale: Tensor, apply: Tensor) -> tuple:
        """One update with ``scale * gradients``; nothing changes where ``apply`` (bool) is False.

        ``lr`` and ``scale`` are float32 scalars, ``gradients`` as many as there are parameters and in their order.
        What is returned has no meaning.
        """
        raise NotImplementedError


def scaled(gradient: Tensor, scale: Tensor) -> Tensor:
    """``scale * gradient``; with ``scale`` 0 a gradient that is not finite counts as zero."""
    return _mul_no_nan(gradient, scale)


def replace(parameter: Parameter, value: Tensor, apply: Tensor) -> Tensor:
    """Gives a parameter a value where ``apply`` is True."""
    return _assign(parameter, _where(apply, value, parameter))


def with_rest(beta: float) -> tuple[float, float]:
    """A decay and ``1 - beta``, for `average`: in a graph's float32 1 - 0.9999 would be off by 1e-4."""
    return float(beta), 1 - float(beta)


def average(past: Tensor, value: Tensor, beta: tuple[float, float]) -> Tensor:
    """``beta * past + (1 - beta) * value``."""
    return beta[0] * past + beta[1] * value
