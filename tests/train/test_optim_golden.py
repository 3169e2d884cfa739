"""Optimizers and averages against the numbers of PyTorch and of their authors."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindone.testing.golden import GoldenCase
from mindone.train.ema import Ema
from mindone.train.optim import CAME, SGD, Adam, AdamW, Lion
from mindone.train.step import TrainStep

NAMES = ("w", "conv", "b", "scale")
OPTIMIZERS = {"AdamW": AdamW, "Adam": Adam, "SGD": SGD, "CAME": CAME, "Lion": Lion}
ARGUMENTS = ("betas", "eps", "momentum", "nesterov", "clip_threshold", "weight_decay")


class GivenGradients(nn.Cell):
    """A loss whose gradients are its inputs."""

    def __init__(self, parameters):
        super().__init__(auto_prefix=False)
        self.parameters_ = ms.ParameterTuple(parameters)

    def construct(self, *gradients):
        loss = 0.0
        for i in range(len(gradients)):
            loss = loss + (self.parameters_[i] * gradients[i]).sum()
        return loss


def make_optimizer(variant: str, settings: dict, parameters: list[Parameter]):
    given = {name: settings[name] for name in ARGUMENTS if name in settings}
    if variant.endswith("_groups"):
        given["decays"] = lambda parameter: parameter.name in ("w", "conv")
        given["shares"] = lambda parameter: 1.0 if parameter.name in ("w", "conv") else 0.5
    return OPTIMIZERS[settings["optimiser"]](parameters, **given)


@pytest.mark.golden("optim_steps")
def test_updates_are_those_of_the_originals(golden_case: GoldenCase, mode):
    names = [name.removeprefix("param/") for name in golden_case.inputs if name.startswith("param/")]
    assert sorted(names) == sorted(NAMES)
    for variant, settings in golden_case.sidecar["variants"].items():
        parameters = [Parameter(Tensor(golden_case.inputs[f"param/{name}"]), name=name) for name in NAMES]
        factor = np.float32(1e-4 if variant == "sgd_tiny_gradients" else 1)
        optimizer = make_optimizer(variant, settings, parameters)
        step = TrainStep(GivenGradients(parameters), optimizer, max_grad_norm=settings["clip_norm"])
        found = {name: [] for name in (*NAMES, "grad_norm")}
        for update in range(len(golden_case.inputs["grad/w"])):
            gradients = [Tensor(golden_case.inputs[f"grad/{name}"][update] * factor) for name in NAMES]
            found["grad_norm"].append(step([gradients], settings["lr"]).grad_norm.asnumpy())
            for parameter in parameters:
                found[parameter.name].append(parameter.asnumpy().copy())
        for name, values in found.items():
            if f"{variant}/{name}" in golden_case.outputs:
                golden_case.check_outputs(f"{variant}/{name}", np.stack(values))


@pytest.mark.golden("optim_ema")
def test_averages_are_those_of_the_originals(golden_case: GoldenCase, mode):
    """What is not trained has no average, and keeps the value that it had."""
    trained = ("weight", "bias")
    for variant in {name.split("/")[0] for name in golden_case.outputs}:
        parameters = [Parameter(Tensor(golden_case.inputs[f"ema/{name}"]), name=name) for name in trained]
        warmup = variant == "warmup_variant"
        ema = Ema(parameters, 0.9999 if warmup else float(variant.removeprefix("decay_")), warmup)
        averages, rates = {name: [] for name in trained}, []
        for update in range(len(golden_case.inputs["param/weight"])):
            for parameter in parameters:
                parameter.set_data(Tensor(golden_case.inputs[f"param/{parameter.name}"][update]))
            rates.append(ema.rate(update))
            ema(Tensor(rates[-1], ms.float32))
            for name, average in zip(trained, ema.averages):
                averages[name].append(average.asnumpy().copy())
        for name, values in averages.items():
            golden_case.check_outputs(f"{variant}/{name}", np.stack(values))
        if warmup:
            golden_case.check_outputs(f"{variant}/decay", 1 - np.array(rates))
