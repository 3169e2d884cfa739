"""Lion, https://arxiv.org/abs/2302.06675: the sign of a momentum, and half of Adam's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mindspore import Parameter, Tensor, ops

from mindone.train.optim.base import Optimizer, average, replace, scaled, with_rest

_update = ops.MultitypeFuncGraph("lion_update")


@_update.register(*["Tensor"] * 3, "Tuple", "Tuple", "Number", "Bool", "Number", *["Tensor"] * 3)
def _update_one(lr, scale, apply, beta1, beta2, weight_decay, decayed, share, parameter, exp_avg, gradient):
    gradient, lr = scaled(gradient, scale), lr * share
    kept = parameter * (1 - lr * weight_decay) if decayed else parameter
    moved = kept - lr * ops.sign(average(exp_avg, gradient, beta1))
    return replace(parameter, moved, apply), replace(exp_avg, average(exp_avg, gradient, beta2), apply)


class Lion(Optimizer):
    """``p = (1 - lr * weight_decay) p - lr * sign(b1 m + (1 - b1) g)``, then ``m = b2 m + (1 - b2) g``.

    Steps are as long as the learning rate, so it is 3 to 10 times smaller than AdamW's, and the weight decay larger.

    Attributes:
        exp_avg: ``m``, named ``exp_avg.<parameter>``.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        decays: Callable[[Parameter], bool] | None = None,
        shares: Callable[[Parameter], float] | None = None,
    ):
        super().__init__(parameters, weight_decay, decays, shares)
        self.betas = tuple(map(with_rest, betas))
        self.exp_avg = self.parameters.clone("exp_avg", init="zeros")
        self.states = tuple(self.exp_avg)

    def construct(self, gradients: tuple[Tensor, ...], lr: Tensor, scale: Tensor, apply: Tensor) -> tuple:
        update = ops.partial(_update, lr, scale, apply, self.betas[0], self.betas[1], self.weight_decay)
        return self.map_(update, self.decayed, self.shares, self.parameters, self.exp_avg, gradients)
