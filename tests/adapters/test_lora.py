"""Adapters of a small network: what is adapted, what is trained, and files in every naming."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindone.adapters import LORA_FORMATS, LoraConfig, add_lora, read_lora, with_lora, write_lora
from mindone.checkpoint import (
    ADAPTER_LAYOUT,
    load_into,
    network_tensors,
    read_tensors,
    save_model,
    save_safetensors,
)
from mindone.errors import UserError
from mindone.nn import set_compute_dtype
from mindone.nn.layers import LayerNorm, Linear, Mlp
from mindone.testing import golden


class Block(nn.Cell):
    def __init__(self):
        super().__init__()
        self.q_proj = Linear(8, 6)
        self.proj = Linear(6, 8)
        self.norm = LayerNorm(8)
        self.mlp = Mlp(8, 12, 8)

    def construct(self, x):
        return self.norm(x + self.mlp(self.proj(self.q_proj(x))))


class Network(nn.Cell):
    def __init__(self):
        super().__init__()
        self.x_in = Linear(5, 8)
        self.blocks = nn.SequentialCell(Block(), Block())

    def construct(self, x):
        return self.blocks(self.x_in(x))


@pytest.fixture(autouse=True)
def pynative_mode():
    golden.use_mode("pynative")


def network() -> Network:
    made, rng = Network(), np.random.default_rng(0)
    for _, parameter in made.parameters_and_names():
        parameter.set_data(Tensor(rng.normal(size=parameter.shape).astype(np.float32)))
    return made.set_train(False)


SHAPES = {name: tuple(parameter.shape) for name, parameter in Network().parameters_and_names()}
X = Tensor(np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32))


def trained(config: LoraConfig):
    """A network with an adapter whose matrices all have values."""
    adapted = network()
    lora = add_lora(adapted, config, seed=3)
    rng = np.random.default_rng(2)
    for branch in lora.branches.values():
        branch.lora_B.weight.set_data(Tensor(0.3 * rng.normal(size=branch.lora_B.weight.shape).astype(np.float32)))
    return adapted, lora


def saved(lora, folder):
    save_model(folder, lora, lora.peft_config("base"), layout=ADAPTER_LAYOUT)
    return folder


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (("proj",), ["blocks.0.proj", "blocks.1.proj"]),
        (("1.q_proj", "x_in"), ["blocks.1.q_proj", "x_in"]),
        (("blocks.0.*",), ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.0.proj", "blocks.0.q_proj"]),
        (("re:.*fc[12]",), [f"blocks.{i}.mlp.fc{j}" for i in (0, 1) for j in (1, 2)]),
    ],
)
def test_targets_are_ends_of_paths_patterns_or_expressions(targets, adapted):
    assert sorted(add_lora(network(), LoraConfig(targets=targets)).branches) == adapted


def test_a_target_that_fits_nothing_is_refused_with_what_there_is():
    with pytest.raises(UserError, match="no linear of the network fits qkv; some are x_in, q_proj, proj, fc1, fc2"):
        add_lora(network(), LoraConfig(targets=("proj", "qkv")))


def test_a_fresh_adapter_changes_nothing_and_is_all_that_is_trained(mode):
    before = network()(X).asnumpy()
    adapted = network()
    lora = add_lora(adapted, LoraConfig(rank=2))
    assert np.array_equal(adapted(X).asnumpy(), before)
    assert {p.name for p in adapted.trainable_params()} == {p.name for _, p in lora.parameters_and_names()}
    assert len({p.name for p in adapted.get_parameters()}) == len(list(adapted.get_parameters()))


def test_fresh_values_depend_on_the_seed_and_the_module_alone():
    first, again, other = (add_lora(network(), LoraConfig(targets=("proj",)), seed) for seed in (1, 1, 2))
    more = add_lora(network(), LoraConfig(), 1)
    values = [lora.branches["blocks.1.proj"].lora_A.weight.asnumpy() for lora in (first, again, other, more)]
    assert np.array_equal(values[0], values[1]) and np.array_equal(values[0], values[3])
    assert not np.array_equal(values[0], values[2]) and abs(values[0]).max() <= 1 / np.sqrt(6)


def test_a_frozen_network_in_half_precision_is_adapted_by_float32_matrices():
    adapted = Network()
    set_compute_dtype(adapted, ms.float16, store=True)
    adapted.set_train(False)
    lora = add_lora(adapted, LoraConfig(rank=2))
    assert adapted.x_in.weight.dtype == ms.float16
    assert {parameter.dtype for _, parameter in lora.parameters_and_names()} == {ms.float32}
    assert np.isfinite(adapted(X).asnumpy()).all()


CONFIGS = {
    "plain": LoraConfig(rank=2, alpha=6),
    "stabilised": LoraConfig(rank=4, alpha=3, rank_stabilised=True),
    "special": LoraConfig(rank=2, alpha=1, ranks={"q_proj": 3}, alphas={"0.proj": 5.0}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter_gives_the_same_in_every_naming_as_branch_and_in_the_weights(name, tmp_path):
    adapted, lora = trained(CONFIGS[name])
    expected = adapted(X).asnumpy()
    folder = saved(lora, tmp_path / "own")
    assert set(read_tensors(folder / "adapter_model.safetensors")) == dict(lora.parameters_and_names()).keys()
    sources = {"own": folder}
    for layout in LORA_FORMATS:
        sources[layout] = tmp_path / layout / ("adapter" if layout == "peft" else "adapter.safetensors")
        write_lora(sources[layout], read_lora(folder, SHAPES), layout)
    for source in sources.values():
        merged = network()
        load_into(merged, with_lora(network_tensors(merged), SHAPES, [(read_lora(source, SHAPES), 1.0)]))
        np.testing.assert_allclose(merged(X).asnumpy(), expected, rtol=2e-5, atol=2e-5)


def test_several_adapters_add_up_each_with_its_strength(tmp_path):
    folders = []
    for targets in (("proj",), ("q_proj", "fc1")):
        folders.append(saved(trained(LoraConfig(rank=2, targets=targets))[1], tmp_path / targets[0]))
    loras = [read_lora(folder, SHAPES) for folder in folders]
    weights = network_tensors(network())
    both = with_lora(weights, SHAPES, [(loras[0], 0.5), (loras[1], -1.0), (loras[0], 0.5)])
    for path, lora, strength in (("blocks.0.proj", loras[0], 1.0), ("blocks.1.q_proj", loras[1], -1.0)):
        name = f"{path}.weight"
        np.testing.assert_allclose(both[name], weights[name] + strength * lora.modules[path].delta(), rtol=1e-6)
    nothing = with_lora(weights, SHAPES, [(lora, 0.0) for lora in loras])
    assert all(np.array_equal(nothing[name], weights[name]) for name in SHAPES)


def test_an_earlier_adapter_is_gone_on_from_if_it_is_of_the_same_kind(tmp_path):
    config = LoraConfig(rank=2, alpha=6, targets=("proj",))
    adapted, lora = trained(config)
    earlier = read_lora(saved(lora, tmp_path / "own"), SHAPES)
    fresh = network()
    add_lora(fresh, config, seed=9).load(earlier)
    assert np.array_equal(fresh(X).asnumpy(), adapted(X).asnumpy())
    for other, message in (
        (LoraConfig(rank=2, alpha=6, targets=("proj", "fc1")), "adapts other modules"),
        (LoraConfig(rank=2, alpha=1, targets=("proj",)), "rank 2 and scale 3 at blocks.0.proj"),
        (LoraConfig(rank=4, alpha=12, targets=("proj",)), "ask for rank 4 and scale 3"),
    ):
        with pytest.raises(UserError, match=message):
            add_lora(network(), other).load(earlier)


DOWN, UP = np.ones((2, 6), np.float32), np.ones((8, 2), np.float32)


@pytest.mark.parametrize(
    ("down", "up", "alpha"),
    [
        ("blocks.1.proj.lora.down.weight", "blocks.1.proj.lora.up.weight", None),
        (
            "diffusion_model.blocks.1.proj.lora_A.default.weight",
            "diffusion_model.blocks.1.proj.lora_B.default.weight",
            4,
        ),
        ("transformer.blocks.1.proj_lora.down.weight", "transformer.blocks.1.proj_lora.up.weight", None),
        ("blocks.1.proj.lora_linear_layer.down.weight", "blocks.1.proj.lora_linear_layer.up.weight", None),
        ("lora_unet_blocks_1_proj.lora_down.weight", "lora_unet_blocks_1_proj.lora_up.weight", 1),
        ("blocks.1.proj.lora_A", "blocks.1.proj.lora_B", None),
    ],
)
def test_other_tools_names_are_read_and_without_alpha_the_scale_is_one(down, up, alpha, tmp_path):
    tensors = {down: DOWN, up: UP}
    if alpha:
        prefix = down.split(".lora")[0]
        tensors[f"{prefix}.alpha"] = np.array(alpha, np.float32)
    save_safetensors(tmp_path / "a.safetensors", tensors)
    modules = read_lora(tmp_path / "a.safetensors", SHAPES).modules
    assert list(modules) == ["blocks.1.proj"] and modules["blocks.1.proj"].scale == (alpha / 2 if alpha else 1.0)


PAIR = {"blocks.0.proj.lora_A.weight": DOWN, "blocks.0.proj.lora_B.weight": UP}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({**PAIR, "blocks.0.proj.dora_scale": UP}, "dora_scale, which is no part of a LoRA"),
        ({"blocks.0.proj.lora_A.weight": DOWN}, "no up matrix for blocks.0.proj"),
        ({"blocks.0.proj.alpha": np.float32([1])}, "no down matrix for blocks.0.proj"),
        ({"blocks.7.proj.lora_A.weight": DOWN, "blocks.7.proj.lora_B.weight": UP}, "blocks.7.proj, which is no linear"),
        ({**PAIR, "blocks.0.proj.lora_B.weight": DOWN}, "belongs to another size"),
        ({**PAIR, "blocks.0.proj.lora_A.weight": DOWN * np.nan}, "finite real numbers"),
        ({**PAIR, "blocks.0.proj.lora_down.weight": DOWN}, "twice"),
        ({**PAIR, "blocks.0.proj.alpha": np.float32([np.inf])}, "the alpha of blocks.0.proj is no number"),
        ({"blocks.0.norm.lora_A.weight": DOWN, "blocks.0.norm.lora_B.weight": UP}, "blocks.0.norm, which is no linear"),
    ],
)
def test_what_is_no_adapter_of_the_network_is_refused_in_one_line(tensors, message, tmp_path):
    save_safetensors(tmp_path / "a.safetensors", tensors)
    with pytest.raises(UserError, match=message) as refusal:
        read_lora(tmp_path / "a.safetensors", SHAPES)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora=True, which is not supported"),
        ({"lora_alpha": "much"}, "is no number"),
        ({"lora_alpha": 1, "alpha_pattern": {"(a+)+": 2}}, "only names of modules"),
        ({"lora_alpha": 1, "alpha_pattern": [1]}, "is no number"),
    ],
)
def test_a_configuration_that_means_something_else_is_refused(config, message, tmp_path):
    save_safetensors(tmp_path / "adapter_model.safetensors", PAIR)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        read_lora(tmp_path, SHAPES)


def test_writing_never_replaces_a_folder_that_has_files(tmp_path):
    lora = read_lora(saved(trained(LoraConfig(rank=2))[1], tmp_path / "own"), SHAPES)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "novel.txt").write_text("once")
    with pytest.raises(UserError, match="has files already"):
        write_lora(tmp_path / "mine", lora, "peft")
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        write_lora(tmp_path / "mine", lora, "kohya")
    assert (tmp_path / "mine" / "novel.txt").read_text() == "once"
