"""Reference runs of the original networks: a pair ``stem.safetensors`` + ``stem.json``, and comparisons with it.

Tensor names carry a prefix: ``weights/``, ``inputs/``, ``outputs/``, ``intermediate/``, ``grads/``. The sidecar holds
the constructor arguments, the scalar loss that the gradients belong to, and the tolerances.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mindone import runtime
from mindone.errors import UserError

FOLDERS = ("weights", "inputs", "outputs", "intermediate", "grads")
DEFAULT_TOLERANCE = {"outputs_atol": 2e-5, "outputs_rtol": 1e-5, "grads_atol_over_max": 1e-4}


class GoldenCase:
    """One reference run.

    Attributes:
        stem: file name without suffix.
        sidecar: the JSON beside the tensors.
        args: constructor arguments of the network.
        tolerance: ``outputs_atol``, ``outputs_rtol``, ``grads_atol_over_max``.
    """

    def __init__(self, path: str | Path):
        """Opens the case whose sidecar or tensor file is ``path``."""
        self.path = Path(path).with_suffix(".json")
        self.stem = self.path.stem
        if not self.path.is_file():
            raise UserError(f"{self.path} does not exist; a reference run is a pair STEM.json + STEM.safetensors")
        self.sidecar: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        self.args: dict[str, Any] = self.sidecar.get("constructor_args") or {}
        self.tolerance: dict[str, Any] = {**DEFAULT_TOLERANCE, **(self.sidecar.get("tolerance") or {})}

    def __repr__(self) -> str:
        return f"GoldenCase({self.stem})"

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """Everything in the tensor file, by full name; empty for a case that is JSON only."""
        from safetensors.numpy import load_file

        file = self.path.with_suffix(".safetensors")
        return load_file(file) if file.is_file() else {}

    def folder(self, name: str) -> dict[str, np.ndarray]:
        """The tensors under one prefix, without it."""
        return {key[len(name) + 1 :]: value for key, value in self.tensors.items() if key.startswith(name + "/")}

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        return self.folder("weights")

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return self.folder("inputs")

    @cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        return self.folder("outputs")

    @cached_property
    def intermediates(self) -> dict[str, np.ndarray]:
        return self.folder("intermediate")

    @cached_property
    def grads(self) -> dict[str, np.ndarray]:
        return self.folder("grads")

    # --- feeding a network -------------------------------------------------------------------------------------------

    def load_into(self, network):
        """Loads the weights strictly, through the checkpoint loader, and switches to evaluation mode."""
        from mindone.checkpoint import load_into, read_tensors

        load_into(network, read_tensors(self.path.with_suffix(".safetensors")).under("weights/"))
        return network.set_train(False)

    def input_tensors(self, names: Sequence[str] | None = None) -> list:
        """Inputs as MindSpore tensors, None where the case has no such input; integers become int32."""
        return [as_tensor(self.inputs.get(name)) for name in (names or list(self.inputs))]

    # --- comparing ---------------------------------------------------------------------------------------------------

    def check_outputs(self, name: str, value) -> None:
        """Compares with ``outputs/name``: ``|a - b| <= outputs_atol + outputs_rtol * |b|``."""
        self._check(value, self.outputs[name], f"outputs/{name}")

    def check_intermediate(self, name: str, value) -> None:
        """Compares with ``intermediate/name`` within the outputs' tolerance, if the case has it."""
        if name in self.intermediates:
            self._check(value, self.intermediates[name], f"intermediate/{name}")

    def check_gradients(self, gradients: Mapping[str, Any], under: str = "") -> None:
        """Compares gradients by parameter name: ``max|a - b| <= grads_atol_over_max * max|b|`` per tensor.

        Args:
            gradients: all that the case has, or all of those whose names begin with ``under``.
        """
        limit = self.tolerance["grads_atol_over_max"]
        for name, expected in self.grads.items():
            if not name.startswith(under):
                continue
            actual = as_numpy(gradients[name])
            if actual.shape != expected.shape:
                raise AssertionError(f"{self.stem} grads/{name}: shape {actual.shape}, expected {expected.shape}")
            worst, largest = np.abs(actual - expected).max(), np.abs(expected).max()
            if not worst <= limit * largest:
                raise AssertionError(f"{self.stem} grads/{name}: off by {worst / largest:.2e} of the largest, {limit=}")

    def check_network(self, network, inputs: Sequence) -> None:
        """Compares output and gradients of a network ``(*inputs) -> out`` whose loss is ``mean(out^2)``.

        In PyNative, values inside the network as well: graph mode does not show them.
        """
        watched = {} if runtime.current().graph else self.intermediates
        seen = self.watch(network, watched)
        (out,) = self.check_loss_and_gradients(network, mean_square(network), inputs)
        for name, expected in watched.items():
            value = as_numpy(seen[name])
            # The originals repeat conditions for the rows of guidance before embedding them, our networks after it.
            rows = np.concatenate([value] * max(1, expected.size // value.size))
            self.check_intermediate(name, rows.reshape(expected.shape))
        self.check_outputs("out", out)

    @staticmethod
    def watch(network, names: Iterable[str]) -> dict[str, Any]:
        """A dictionary that gets the last result of each named cell as the network runs in PyNative.

        Names are those of ``intermediate/``, where ``block_0`` is the cell ``blocks.0``.
        """
        seen: dict[str, Any] = {}

        def keep(name: str):
            return lambda cell, inputs, output: seen.__setitem__(name, output)

        cells = dict(network.cells_and_names())
        for name in names:
            cells[re.sub(r"block_(\d+)$", r"blocks.\1", name)].register_forward_hook(keep(name))
        return seen

    def _check(self, value, expected: np.ndarray, what: str) -> None:
        share = self.tolerance.get("outputs_atol_over_max")
        if share is not None:
            worst, largest = np.abs(as_numpy(value) - expected).max(), np.abs(expected).max()
            assert worst <= share * largest + self.tolerance.get("absolute", 0), f"{self.stem} {what}: off by {worst}"
            return
        np.testing.assert_allclose(
            as_numpy(value),
            expected,
            rtol=self.tolerance["outputs_rtol"],
            atol=self.tolerance["outputs_atol"],
            err_msg=f"{self.stem} {what}",
        )

    def check_loss_and_gradients(self, network, loss_cell, inputs: Sequence) -> list:
        """Runs loss, further results and gradients in one compiled call; compares loss and gradients.

        Args:
            network: the network that holds the parameters named in ``grads/``.
            loss_cell: a cell ``(*inputs) -> (loss, result, ...)`` around the network.
            inputs: what the cell is called with: if the case has gradients of inputs, all of its inputs in their order.
        Returns:
            The further results, to be compared by the caller.
        """
        named = dict(network.parameters_and_names())
        places = [f"inputs/{name}" for name in self.inputs]
        of_inputs = tuple(place for place, name in enumerate(places) if name in self.grads)
        names = [name for name in self.grads if name not in places]
        missing = sorted(set(names) - set(named))
        if missing:
            raise AssertionError(f"{self.stem}: the network has no parameters {missing}")
        parameters = [named[name] for name in names]
        (loss, *results), gradients, slopes = loss_and_gradients(loss_cell, parameters, inputs, of_inputs)
        self.check_outputs("loss", loss)
        self.check_gradients({**dict(zip(names, gradients)), **{places[i]: each for i, each in zip(of_inputs, slopes)}})
        return results


def mean_square(network):
    """A cell ``(*inputs) -> (mean(out^2), out, ...)`` around a network; of several results ``out`` is the first."""
    from mindspore import nn, ops

    class MeanSquare(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.network = network

        def construct(self, *inputs):
            results = self.network(*inputs)
            results = results if isinstance(results, tuple) else (results,)
            return ops.square(results[0]).mean(), *results

    return MeanSquare()


def loss_and_gradients(loss_cell, parameters: Sequence, inputs: Sequence, of_inputs: tuple[int, ...] = ()) -> tuple:
    """``((loss, results...), gradients, gradients of inputs)`` of a cell, in one compiled call.

    Args:
        loss_cell: ``(*inputs) -> (loss, results...)``.
        of_inputs: numbers of the inputs whose gradients are wanted, too.
    """
    import mindspore as ms
    from mindspore import ParameterTuple, nn

    class LossAndGradients(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            weights = ParameterTuple(parameters)
            self.run = ms.value_and_grad(loss_cell, of_inputs or None, weights=weights, has_aux=True)

        def construct(self, *args):
            return self.run(*args)

    values, gradients = LossAndGradients()(*inputs)
    if not of_inputs:
        return values, gradients, ()
    slopes = gradients[0] if isinstance(gradients[0], tuple) else (gradients[0],)
    return values, gradients[1], slopes


def use_mode(mode: str) -> None:
    """Switches this process to ``graph`` or ``pynative`` mode on a CPU."""
    runtime.setup(device_target="CPU", graph=mode == "graph")


def stems(folder: str | Path) -> list[str]:
    """The stems of all reference runs in a folder.

    Raises:
        UserError: there are none.
    """
    found = sorted(file.stem for file in Path(folder).glob("*.json"))
    if not found:
        raise UserError(f"{folder} holds no reference runs (STEM.json + STEM.safetensors)")
    return found


def matching(stem: str, prefixes: Iterable[str]) -> bool:
    """Whether a stem belongs to one of the prefixes; one that ends in a dot is the whole stem."""
    return any(f"{stem}.".startswith(prefix) for prefix in prefixes)


def as_tensor(value: np.ndarray | None):
    """A MindSpore tensor, int64 as int32; None stays None."""
    import mindspore as ms

    if value is None:
        return None
    return ms.Tensor(value.astype(np.int32) if value.dtype == np.int64 else value)


def as_numpy(value) -> np.ndarray:
    return value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)
