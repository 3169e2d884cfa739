"""The list of operators, and the choice between its implementations."""

import inspect

import pytest

from mindone import runtime
from mindone.nn.kernels import OPERATORS, ascend, kernels, plain
from mindone.nn.kernels.library import compiled_library


def implementations():
    found = [ascend]
    if compiled_library() is not None:
        from mindone.nn.kernels import compiled

        found.append(compiled)
    return found


@pytest.mark.parametrize("name", OPERATORS)
def test_every_implementation_has_every_operator_with_the_same_arguments(name):
    wanted = list(inspect.signature(getattr(plain, name)).parameters)
    for implementation in implementations():
        assert list(inspect.signature(getattr(implementation, name)).parameters) == wanted


def test_the_device_chooses_the_implementation():
    assert kernels() is (plain if compiled_library() is None else implementations()[1])
    with runtime.use_kernels("Ascend"):
        assert kernels() is ascend
