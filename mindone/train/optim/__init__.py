"""Optimizers as cells of plain operators, for use inside compiled graphs."""

from mindone.train.optim.adam import Adam, AdamW
from mindone.train.optim.base import Optimizer
from mindone.train.optim.came import CAME
from mindone.train.optim.lion import Lion
from mindone.train.optim.make import GROUP_STRATEGIES, OPTIMIZER_NAMES, make_optimizer
from mindone.train.optim.sgd import SGD

__all__ = [
    "CAME",
    "GROUP_STRATEGIES",
    "OPTIMIZER_NAMES",
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "Optimizer",
    "make_optimizer",
]
