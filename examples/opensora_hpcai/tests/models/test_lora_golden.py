"""LoRA of the 2.0 denoiser against peft: as a branch, merged, at half strength, rank-stabilised, and its gradients."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mindone.adapters import LoraConfig, add_lora, read_lora, with_lora
from mindone.adapters.lora import set_strength
from mindone.checkpoint import load_into, network_tensors, save_safetensors
from mindone.testing.golden import as_numpy, loss_and_gradients, mean_square
from opensora.models.mmdit import MMDiT, MMDiTConfig

INPUTS = ("img", "img_ids", "txt", "txt_ids", "timesteps", "y_vec", "cond")


def network_of(case):
    return case.load_into(MMDiT(MMDiTConfig(**case.args)))


def shapes_of(network):
    return {name: tuple(parameter.shape) for name, parameter in network.parameters_and_names()}


def adapter_of(case):
    """The adapter's tensors by the names of their file, and its settings."""
    given = case.sidecar["lora_config"]
    config = LoraConfig(given["r"], given["lora_alpha"], tuple(given["target_modules"]), given["lora_dropout"])
    return {
        name.removeprefix("lora/"): value for name, value in case.inputs.items() if name.startswith("lora/")
    }, config


def adapted(case, config, strength=1.0):
    network, (tensors, _) = network_of(case), adapter_of(case)
    lora = add_lora(network, config)
    load_into(lora, tensors)
    set_strength(lora, strength)
    return network, lora


@pytest.mark.golden("lora_")
def test_a_branch_gives_the_outputs_and_gradients_of_peft(golden_case, mode):
    config = adapter_of(golden_case)[1]
    network, lora = adapted(golden_case, config)
    assert sorted(lora.branches) == sorted(golden_case.sidecar["adapted_modules"])
    named = dict(lora.parameters_and_names())
    assert set(named.values()) == set(network.trainable_params())
    wanted = [named[name] for name in golden_case.grads]
    results, gradients, _ = loss_and_gradients(mean_square(network), wanted, golden_case.input_tensors(INPUTS))
    golden_case.check_outputs("loss", results[0])
    golden_case.check_outputs("unmerged", results[1])
    golden_case.check_gradients(dict(zip(golden_case.grads, gradients)))


@pytest.mark.golden("lora_")
def test_strength_and_rank_stabilisation_scale_the_branch(golden_case, mode):
    config = adapter_of(golden_case)[1]
    half, _ = adapted(golden_case, config, 0.5)
    golden_case.check_outputs("strength_half", half(*golden_case.input_tensors(INPUTS)))
    stabilised, _ = adapted(golden_case, replace(config, rank_stabilised=True))
    golden_case.check_outputs("rslora", stabilised(*golden_case.input_tensors(INPUTS)))


@pytest.mark.golden("lora_")
def test_an_adapter_folder_is_merged_into_the_weights(golden_case, mode):
    network, tensors = network_of(golden_case), adapter_of(golden_case)[0]
    inputs = golden_case.input_tensors(INPUTS)
    golden_case.check_outputs("base", network(*inputs))
    names = shapes_of(network)
    with tempfile.TemporaryDirectory() as folder:
        write_peft(folder, tensors, golden_case.sidecar["adapter_config_saved_by_peft"])
        found = read_lora(folder, names)
    weights = network_tensors(network)
    unchanged = with_lora(weights, names, [(found, 0.0)])
    assert all(np.array_equal(unchanged[name], as_numpy(weights[name])) for name in names)
    load_into(network, with_lora(weights, names, [(found, 0.25), (found, 0.75)]))
    merged = dict(network.parameters_and_names())
    for name in golden_case.outputs:
        if name.startswith("merged_weight/"):
            golden_case.check_outputs(name, merged[name.removeprefix("merged_weight/")])
    golden_case.check_outputs("merged", network(*inputs))


def write_peft(folder, tensors, config):
    save_safetensors(Path(folder) / "adapter_model.safetensors", tensors)
    (Path(folder) / "adapter_config.json").write_text(json.dumps(config))
