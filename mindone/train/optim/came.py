"""CAME, https://arxiv.org/abs/2307.02047: Adafactor's factored second moment, and trust in steady updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops

from mindone.train.optim.base import Optimizer, average, replace, scaled, with_rest

_update = ops.MultitypeFuncGraph("came_update")


def _averaged(x: Tensor, row: Tensor, column: Tensor, beta: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Averages over time of the means of ``x`` over its last axis, and over the one before."""
    return average(row, x.mean(-1), beta), average(column, x.mean(-2), beta)


def _inverse_root(row: Tensor, column: Tensor) -> Tensor:
    """``1 / sqrt`` of the matrix whose means over rows and columns these are, if it is of rank one."""
    return ops.rsqrt(row / row.mean(-1, True)).expand_dims(-1) * ops.rsqrt(column).expand_dims(-2)


def _replace_pair(row: Tensor, column: Tensor, values: tuple[Tensor, Tensor], apply: Tensor) -> tuple:
    return replace(row, values[0], apply), replace(column, values[1], apply)


@_update.register(*["Tensor"] * 3, "Tuple", "Tuple", *["Number"] * 2, "Bool", "Number", *["Tensor"] * 7)
def _update_one(
    lr, scale, apply, betas, eps, threshold, decay, decayed, share, parameter, exp_avg, row, column, res_row, res_col, g
):
    g, lr = scaled(g, scale), lr * share
    square = ops.square(g) + eps[0]
    factored = parameter.ndim >= 2
    if factored:
        means = _averaged(square, row, column, betas[1])
        update = g * _inverse_root(*means)
    else:
        means = (average(row, square, betas[1]), column)
        update = g * ops.rsqrt(means[0])
    size = ops.sqrt(ops.square(update).mean()) / threshold
    update = update / ops.maximum(size, ops.ones_like(size))
    moved = average(exp_avg, update, betas[0])
    step, residuals = moved, (res_row, res_col)
    if factored:
        residuals = _averaged(ops.square(update - moved) + eps[1], res_row, res_col, betas[2])
        step = moved * _inverse_root(*residuals)
    kept = parameter * (1 - lr * decay) if decayed else parameter
    changed = replace(parameter, kept - lr * step, apply), replace(exp_avg, moved, apply)
    return changed, _replace_pair(row, column, means, apply), _replace_pair(res_row, res_col, residuals, apply)


class CAME(Optimizer):
    """Adam's memory for the first moment alone: second moments are kept as means over rows and over columns.

    With ``r``, ``c`` the averages (``b2``) of the means of ``g² + eps1`` over the last axis and the one before, the
    update ``u = g / sqrt(r c / mean(r))`` is divided by ``max(1, rms(u) / clip_threshold)`` and averaged to ``m``
    (``b1``). The step is ``m`` divided by the root of ``(u - m)² + eps2``, factored and averaged (``b3``) likewise.
    Vectors have a whole second moment, and ``m`` is their step. There is no bias correction; ``weight_decay`` is
    decoupled.

    Attributes:
        exp_avg: ``m``.
        exp_avg_sq_row, exp_avg_sq_col: ``r``, of vectors the second moment, and ``c``.
        exp_avg_res_row, exp_avg_res_col: the same of the instability.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
        decays: Callable[[Parameter], bool] | None = None,
        shares: Callable[[Parameter], float] | None = None,
    ):
        super().__init__(parameters, weight_decay, decays, shares)
        self.betas, self.eps = tuple(map(with_rest, betas)), tuple(map(float, eps))
        self.clip_threshold = float(clip_threshold)
        self.exp_avg = self.parameters.clone("exp_avg", init="zeros")
        self.exp_avg_sq_row = _means("exp_avg_sq_row", parameters, lambda shape: shape[:-1], lambda shape: shape)
        self.exp_avg_sq_col = _means("exp_avg_sq_col", parameters, _without_rows, _nothing)
        self.exp_avg_res_row = _means("exp_avg_res_row", parameters, lambda shape: shape[:-1], _nothing)
        self.exp_avg_res_col = _means("exp_avg_res_col", parameters, _without_rows, _nothing)
        factored = [place for place, parameter in enumerate(parameters) if parameter.ndim >= 2]
        of_matrices = (self.exp_avg_sq_col, self.exp_avg_res_row, self.exp_avg_res_col)
        matrices = (group[place] for group in of_matrices for place in factored)
        self.states = (*self.exp_avg, *self.exp_avg_sq_row, *matrices)

    def construct(self, gradients: tuple[Tensor, ...], lr: Tensor, scale: Tensor, apply: Tensor) -> tuple:
        update = ops.partial(_update, lr, scale, apply, self.betas, self.eps, self.clip_threshold, self.weight_decay)
        return self.map_(
            update,
            self.decayed,
            self.shares,
            self.parameters,
            self.exp_avg,
            self.exp_avg_sq_row,
            self.exp_avg_sq_col,
            self.exp_avg_res_row,
            self.exp_avg_res_col,
            gradients,
        )


Shape = tuple[int, ...]


def _without_rows(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1])


def _nothing(shape: Shape) -> Shape:
    """The shape of what a vector does not have."""
    return (1,)


def _means(
    name: str,
    parameters: Sequence[Parameter],
    of_matrix: Callable[[Shape], Shape],
    of_vector: Callable[[Shape], Shape],
) -> ParameterTuple:
    """Zeros of a shape that depends on the parameter's, named ``<name>.<parameter>``."""

    def zeros(parameter: Parameter) -> Parameter:
        shape = (of_matrix if parameter.ndim >= 2 else of_vector)(tuple(parameter.shape))
        return Parameter(Tensor(np.zeros(shape, np.float32), ms.float32), f"{name}.{parameter.name}", False)

    return ParameterTuple([zeros(parameter) for parameter in parameters])
