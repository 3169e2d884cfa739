"""Optimizers by their published names, and which parameters have weight decay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mindspore import Parameter

from mindone.checkpoint.slices import whole_shape
from mindone.errors import UserError
from mindone.train.optim.adam import Adam, AdamW
from mindone.train.optim.base import Optimizer
from mindone.train.optim.came import CAME
from mindone.train.optim.lion import Lion
from mindone.train.optim.sgd import SGD

ADAMW_NAMES = ("adamw", "adamw_re", "adamw_exp", "adamw_bf16", "adamw_mint")
"""Names of one AdamW: the published ones chose between implementations."""
OPTIMIZER_NAMES = (*ADAMW_NAMES, "adam", "sgd", "momentum", "came", "lion")
GROUP_STRATEGIES = ("norm_and_bias", "unclip", "not_grouping")


def make_optimizer(
    name: str,
    parameters: Sequence[Parameter],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    group_strategy: str | None = None,
    nesterov: bool = False,
    instability_beta: float = 0.9999,
    clip_threshold: float = 1.0,
    owners: Sequence[Parameter] | None = None,
) -> Optimizer:
    """The optimizer of a published name.

    Args:
        name: one of `OPTIMIZER_NAMES`; ``sgd`` has no momentum, that of ``momentum`` is the first of ``betas``.
        eps: of Adam and AdamW.
        group_strategy: which parameters have weight decay, see `spares`.
        nesterov: of ``momentum``.
        instability_beta, clip_threshold: of CAME, its third beta and the largest root mean square of an update.
        owners: where ``parameters`` are slices, the parameters that they belong to.
    Raises:
        UserError: an unknown name, or an optimizer that needs whole matrices for slices of them.
    """
    of_slice = {own.name: owner for own, owner in zip(parameters, owners or parameters)}
    groups = {
        "weight_decay": weight_decay,
        "decays": lambda parameter: not spares(group_strategy, of_slice[parameter.name]),
    }
    if owners and name == "came":
        raise UserError("optim=came keeps means of the rows and columns of matrices; use zero_stage 0, or adamw")
    if name in ADAMW_NAMES:
        return AdamW(parameters, betas, eps, **groups)
    makers: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: Adam(parameters, betas, eps, **groups),
        "sgd": lambda: SGD(parameters, **groups),
        "momentum": lambda: SGD(parameters, betas[0], nesterov, **groups),
        "came": lambda: CAME(parameters, (*betas, instability_beta), clip_threshold=clip_threshold, **groups),
        "lion": lambda: Lion(parameters, betas, **groups),
    }
    if name not in makers:
        raise UserError(f"optim={name} is not known; use one of {', '.join(OPTIMIZER_NAMES)}")
    return makers[name]()


def spares(strategy: str | None, parameter: Parameter) -> bool:
    """Whether a parameter has no weight decay.

    - ``norm_and_bias``: biases, and all of a norm;
    - ``unclip``: whatever has fewer than two axes, which are these and other vectors;
    - ``not_grouping`` or None: none.

    Raises:
        UserError: an unknown strategy.
    """
    if strategy in (None, "not_grouping"):
        return False
    if strategy == "unclip":
        return len(whole_shape(parameter)) < 2
    if strategy == "norm_and_bias":
        *cells, last = parameter.name.split(".")
        return last == "bias" or "norm" in ".".join(cells)
    raise UserError(f"group_strategy={strategy} is not known; use one of {', '.join(GROUP_STRATEGIES)}")
