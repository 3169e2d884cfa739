"""Initial values of parameters, drawn from a numpy generator so that they repeat on every machine.

A parameter that was built under `runtime.lazy_parameters` has no memory and is left alone: a checkpoint will fill it.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter


def is_lazy(parameter: Parameter) -> bool:
    """Whether the parameter has a shape but no values yet."""
    return parameter.has_init


def fill(parameter: Parameter, values: np.ndarray) -> None:
    """Sets the values of a parameter in its own dtype."""
    parameter.set_data(ms.Tensor(np.ascontiguousarray(values, np.float32), parameter.dtype))


def zeros(parameter: Parameter) -> None:
    if not is_lazy(parameter):
        fill(parameter, np.zeros(parameter.shape, np.float32))


def normal(parameter: Parameter, rng: np.random.Generator, std: float) -> None:
    """Normal with mean 0."""
    if not is_lazy(parameter):
        fill(parameter, rng.standard_normal(parameter.shape, np.float32) * np.float32(std))


def xavier_uniform(parameter: Parameter, rng: np.random.Generator) -> None:
    """Uniform in ``±sqrt(6 / (fan_in + fan_out))``; a convolution kernel counts as a matrix (out, in * kernel)."""
    if is_lazy(parameter):
        return
    fan_out, fan_in = parameter.shape[0], math.prod(parameter.shape[1:])
    bound = math.sqrt(6 / (fan_in + fan_out))
    fill(parameter, (rng.random(parameter.shape, np.float32) * 2 - 1) * np.float32(bound))


def uniform(parameter: Parameter, rng: np.random.Generator, bound: float) -> None:
    """Uniform in ``±bound``."""
    if not is_lazy(parameter):
        fill(parameter, (rng.random(parameter.shape, np.float32) * 2 - 1) * np.float32(bound))
