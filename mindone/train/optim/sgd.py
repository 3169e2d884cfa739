"""Gradient descent with PyTorch's numbers, with and without momentum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mindspore import Parameter, Tensor, ops

from mindone.train.optim.base import Optimizer, replace, scaled

_plain, _update = ops.MultitypeFuncGraph("sgd_update"), ops.MultitypeFuncGraph("momentum_update")


@_plain.register(*["Tensor"] * 3, "Number", "Bool", "Number", *["Tensor"] * 2)
def _plain_one(lr, scale, apply, weight_decay, decayed, share, parameter, gradient):
    gradient = scaled(gradient, scale)
    gradient = gradient + weight_decay * parameter if decayed else gradient
    return replace(parameter, parameter - lr * share * gradient, apply)


@_update.register(*["Tensor"] * 3, *["Number"] * 2, "Bool", "Bool", "Number", *["Tensor"] * 3)
def _update_one(lr, scale, apply, momentum, weight_decay, nesterov, decayed, share, parameter, buffer, gradient):
    gradient = scaled(gradient, scale)
    gradient = gradient + weight_decay * parameter if decayed else gradient
    moved = momentum * buffer + gradient
    step = gradient + momentum * moved if nesterov else moved
    return replace(parameter, parameter - lr * share * step, apply), replace(buffer, moved, apply)


class SGD(Optimizer):
    """``b = momentum * b + g`` and ``p = p - lr * b``, with ``g`` the gradient plus ``weight_decay * p``.

    With ``nesterov`` the step goes along ``g + momentum * b``. Without momentum there is no state.

    Attributes:
        momentum_buffer: ``b``, named ``momentum_buffer.<parameter>``.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decays: Callable[[Parameter], bool] | None = None,
        shares: Callable[[Parameter], float] | None = None,
    ):
        super().__init__(parameters, weight_decay, decays, shares)
        self.momentum, self.nesterov = float(momentum), bool(nesterov)
        if momentum:
            self.momentum_buffer = self.parameters.clone("momentum_buffer", init="zeros")
            self.states = tuple(self.momentum_buffer)

    def construct(self, gradients: tuple[Tensor, ...], lr: Tensor, scale: Tensor, apply: Tensor) -> tuple:
        if self.momentum == 0:
            update = ops.partial(_plain, lr, scale, apply, self.weight_decay)
            return self.map_(update, self.decayed, self.shares, self.parameters, gradients)
        update = ops.partial(_update, lr, scale, apply, self.momentum, self.weight_decay, self.nesterov)
        return self.map_(update, self.decayed, self.shares, self.parameters, self.momentum_buffer, gradients)
