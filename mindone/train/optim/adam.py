"""AdamW as Loshchilov & Hutter define it (decoupled weight decay, bias correction), and Adam (weight decay as L2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from mindone.nn.kernels import kernels
from mindone.train.optim.base import Optimizer, scaled

_select = ops.Select()
_update, _penalised = ops.MultitypeFuncGraph("adamw_update"), ops.MultitypeFuncGraph("adam_gradient")


# Nothing more in here: it is compiled once per parameter.
@_update.register(*["Tensor"] * 7, "Bool", "Number", *["Tensor"] * 4)
def _update_one(lr, beta1, beta2, eps, decay, zero, scale, decayed, share, parameter, exp_avg, exp_avg_sq, gradient):
    decay = decay if decayed else zero
    lr = lr if share == 1 else lr * share
    return kernels().adamw(parameter, exp_avg, exp_avg_sq, gradient, lr, beta1, beta2, eps, decay, scale)


@_penalised.register("Tensor", "Number", "Bool", "Tensor", "Tensor")
def _penalised_one(scale, weight_decay, decayed, parameter, gradient):
    gradient = scaled(gradient, scale)
    return gradient + weight_decay * parameter if decayed else gradient


class AdamW(Optimizer):
    """AdamW with PyTorch's numbers.

    With gradient ``g``, ``m = b1 m + (1 - b1) g`` and ``v = b2 v + (1 - b2) g²``, update ``t`` is::

        p = p - lr * (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay * p)

    MindSpore's fused ``AdamWeightDecay``, and on a CPU our own kernel, computes ``p - r * (m / (sqrt(v) + e) + d * p)``
    in one pass. That is the same with ``r = lr * sqrt(1 - b2^t) / (1 - b1^t)``, ``e = eps * sqrt(1 - b2^t)`` and
    ``d = weight_decay * lr / r``, which are scalars computed here.

    Attributes:
        exp_avg, exp_avg_sq: the moments, float32, named ``exp_avg.<parameter>`` and ``exp_avg_sq.<parameter>``.
        step: number of updates so far, without those that were left out.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decays: Callable[[Parameter], bool] | None = None,
        shares: Callable[[Parameter], float] | None = None,
    ):
        super().__init__(parameters, weight_decay, decays, shares)
        self.exp_avg = self.parameters.clone("exp_avg", init="zeros")
        self.exp_avg_sq = self.parameters.clone("exp_avg_sq", init="zeros")
        self.step = Parameter(Tensor(0.0, ms.float32), name="step", requires_grad=False)
        self.states = (*self.exp_avg, *self.exp_avg_sq, self.step)
        self.eps = float(eps)
        # The corrections belong to the betas as the kernel rounds them: 1 - 0.999 in float32 is off by 5e-5.
        self.betas = tuple(Tensor(beta, ms.float32) for beta in betas)
        self.log_betas = tuple(math.log(np.float32(beta)) if beta else -math.inf for beta in betas)

    def construct(self, gradients: tuple[Tensor, ...], lr: Tensor, scale: Tensor, apply: Tensor) -> tuple:
        return self._move(gradients, lr, scale, apply, self.weight_decay)

    def _move(
        self, gradients: tuple[Tensor, ...], lr: Tensor, scale: Tensor, apply: Tensor, weight_decay: float
    ) -> tuple:
        step = ops.assign_add(self.step, apply.astype(ms.float32))
        correction1, correction2 = self._correction(0, step), ops.sqrt(self._correction(1, step))
        keep = ops.ones_like(lr)
        beta1, beta2 = _select(apply, self.betas[0], keep), _select(apply, self.betas[1], keep)
        rate = _select(apply, lr * correction2 / correction1, ops.zeros_like(lr))
        eps = _select(apply, self.eps * correction2, keep)
        decay = weight_decay * correction1 / correction2
        zero = ops.zeros_like(decay)
        update = ops.partial(_update, rate, beta1, beta2, eps, decay, zero, _select(apply, scale, zero))
        return self.map_(update, self.decayed, self.shares, self.parameters, self.exp_avg, self.exp_avg_sq, gradients)

    def _correction(self, index: int, step: Tensor) -> Tensor:
        """``1 - beta^step`` without the loss of digits that small steps would bring; 1 before the first update."""
        correction = -ops.expm1(self.log_betas[index] * step)
        return _select(step > 0, correction, ops.ones_like(correction))


class Adam(AdamW):
    """Adam of https://arxiv.org/abs/1412.6980 with PyTorch's numbers: ``weight_decay * p`` is added to the gradient."""

    def construct(self, gradients: tuple[Tensor, ...], lr: Tensor, scale: Tensor, apply: Tensor) -> tuple:
        penalised = ops.partial(_penalised, scale, self.weight_decay)
        gradients = self.map_(penalised, self.decayed, self.parameters, gradients)
        return self._move(gradients, lr, ops.ones_like(scale), apply, 0.0)
