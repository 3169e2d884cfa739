import json
import re

import mindspore as ms
import ml_dtypes
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import initializer

from mindone import runtime
from mindone.checkpoint import load_into, network_tensors, read_tensors, save_ckpt, save_model, save_safetensors
from mindone.checkpoint.convert import convert
from mindone.checkpoint.naming import DEFAULT_ADAPTERS
from mindone.errors import UserError
from mindone.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig


def parameter(shape, name, dtype=ms.float32, init="zeros"):
    return Parameter(initializer(init, shape, dtype), name=name)


class Norm(nn.Cell):
    def __init__(self):
        super().__init__()
        self.weight = parameter((4,), "any_name", init="ones")
        self.bias = parameter((4,), "another_name")


class Network(nn.Cell):
    """Parameters of the kinds that need care; their own names do not fit their places."""

    def __init__(self):
        super().__init__()
        self.proj = parameter((4, 2, 1, 2, 2), "kernel")
        self.norm = Norm()
        self.blocks = nn.CellList([nn.Dense(4, 3), nn.Dense(3, 2)])
        self.half = parameter((2,), "half", ms.bfloat16)
        self.steps = parameter((2,), "steps", ms.int64)


NAMES = {
    "proj": (4, 2, 1, 2, 2),
    "norm.weight": (4,),
    "norm.bias": (4,),
    "blocks.0.weight": (3, 4),
    "blocks.0.bias": (3,),
    "blocks.1.weight": (2, 3),
    "blocks.1.bias": (2,),
    "half": (2,),
    "steps": (2,),
}


@pytest.fixture
def weights():
    numbers = np.random.default_rng(1)
    values = {name: numbers.standard_normal(shape).astype(np.float32) for name, shape in NAMES.items()}
    return values | {"steps": np.array([3, 4]), "half": values["half"].astype(ml_dtypes.bfloat16)}


def values_of(network):
    return dict(network_tensors(network).items())


def test_a_network_takes_every_tensor_by_its_place(weights, assert_same):
    network = Network()
    report = load_into(network, weights)
    assert_same(values_of(network), weights)
    assert set(report.loaded) == set(NAMES)
    assert report.missing == report.unexpected == ()
    assert report.renamed == {}


def test_a_network_without_memory_is_filled_by_the_checkpoint(tmp_path, weights, assert_same):
    save_safetensors(tmp_path / "a.safetensors", weights)
    with runtime.lazy_parameters():
        network = Network()
    assert all(parameter.has_init for parameter in network.get_parameters())
    load_into(network, tmp_path / "a.safetensors")
    assert not any(parameter.has_init for parameter in network.get_parameters())
    assert_same(values_of(network), weights)


def test_parameters_own_their_memory_and_leave_the_file_alone(tmp_path, weights, assert_same):
    save_safetensors(tmp_path / "a.safetensors", weights)
    network, source = Network(), read_tensors(tmp_path / "a.safetensors")
    load_into(network, source)
    for item in (network.norm.weight, network.proj, network.steps):
        ms.ops.assign(item, item * 2)
    assert_same(source, weights)
    assert np.array_equal(network.norm.weight.asnumpy(), weights["norm.weight"] * 2)


def test_the_network_computes_with_what_was_loaded(weights):
    network = Network()
    load_into(network, weights)
    x = np.ones((1, 4), np.float32)
    wanted = x @ weights["blocks.0.weight"].T + weights["blocks.0.bias"]
    assert np.allclose(network.blocks[0](Tensor(x)).asnumpy(), wanted, atol=1e-6)


def test_missing_unexpected_and_misshapen_tensors_are_listed_and_nothing_is_loaded(weights):
    network = Network()
    before = values_of(network)
    del weights["norm.bias"], weights["blocks.1.bias"]
    weights |= {"blocks.0.weight": np.zeros((4, 3), np.float32), "head.weight": np.zeros(1)}
    with pytest.raises(UserError) as error:
        load_into(network, weights)
    message = str(error.value)
    assert "2 of 9 tensors missing (norm.bias, blocks.1.bias)" in message
    assert "1 of 8 tensors unexpected (head.weight)" in message
    assert "blocks.0.weight [4, 3] instead of [3, 4]" in message
    assert all(np.array_equal(array, before[name]) for name, array in values_of(network).items())


def test_a_long_list_of_names_is_shortened(weights):
    weights |= {f"head.{i}": np.zeros(1) for i in range(25)}
    with pytest.raises(UserError, match="25 of 34 tensors unexpected .*head.9 and 15 more"):
        load_into(Network(), weights)


def test_a_checkpoint_of_another_network_is_called_that():
    with pytest.raises(UserError, match="is it the checkpoint of another network"):
        load_into(Network(), {"x": np.zeros(1)})


def test_exceptions_are_allowed_by_pattern_and_reported(weights):
    network = Network()
    network.computed_buffers = ("pos_embed",)
    del weights["norm.weight"]
    weights |= {"decoder.w": np.zeros(1), "pos_embed": np.zeros(3), "a.rope.inv_freq": np.zeros(2)}
    report = load_into(network, weights, allow_missing=("norm.*",), allow_unexpected=("decoder.*",))
    assert report.missing == ("norm.weight",)
    assert set(report.unexpected) == {"decoder.w", "pos_embed", "a.rope.inv_freq"}
    assert np.array_equal(network.norm.weight.asnumpy(), np.ones(4))


@pytest.mark.parametrize("kernel_shape", [(4, 2, 2, 2), (4, 8), (4, 2, 1, 2, 2)])
def test_older_mindspore_files_load_as_they_are(tmp_path, weights, assert_same, kernel_shape):
    old = {f"network._backbone.{name}": array for name, array in weights.items()}
    old["network._backbone.norm.gamma"] = old.pop("network._backbone.norm.weight")
    old["network._backbone.norm.beta"] = old.pop("network._backbone.norm.bias")
    old["epoch_num"] = np.array(4)

    class Patch(Network):
        def __init__(self):
            super().__init__()
            self.x_embedder = nn.Cell()
            self.x_embedder.weight = self.proj
            del self.proj

    kernel = old.pop("network._backbone.proj")
    old["network._backbone.x_embedder.weight"] = kernel.reshape(kernel_shape)
    save_ckpt(tmp_path / "a.ckpt", old)
    network = Patch()
    report = load_into(network, tmp_path / "a.ckpt")
    wanted = {("x_embedder.weight" if name == "proj" else name): array for name, array in weights.items()}
    assert_same(values_of(network), wanted)
    assert report.renamed["norm.weight"] == "network._backbone.norm.gamma"


def test_an_explicit_adapter_starts_a_network_from_another(weights):
    class Spatial(nn.Cell):
        def __init__(self):
            super().__init__()
            self.spatial_blocks = nn.CellList([nn.Dense(4, 3), nn.Dense(3, 2)])
            self.temporal_blocks = nn.CellList([nn.Dense(4, 3)])

    network = Spatial()
    blocks = {name: array for name, array in weights.items() if name.startswith("blocks.")}
    adapters = (*DEFAULT_ADAPTERS, lambda name: f"spatial_{name}")
    report = load_into(network, blocks, adapters, allow_missing=("temporal_blocks.*",))
    assert len(report.missing) == 2
    assert np.array_equal(network.spatial_blocks[1].weight.asnumpy(), weights["blocks.1.weight"])


@pytest.mark.parametrize(("dtype", "own"), [("fp16", ms.float16), ("bf16", ms.bfloat16), ("fp32", ms.float32)])
def test_floating_parameters_can_be_loaded_in_another_dtype(weights, dtype, own):
    network = Network()
    load_into(network, weights, dtype=dtype)
    assert {parameter.dtype for parameter in network.get_parameters()} == {own, ms.int64}
    wanted = Tensor(weights["norm.weight"]).astype(own).astype(ms.float32).asnumpy()
    assert np.array_equal(network.norm.weight.astype(ms.float32).asnumpy(), wanted)
    with pytest.raises(UserError, match="dtype=int8 is not known"):
        load_into(network, weights, dtype="int8")


def test_tensors_take_the_dtype_of_their_parameter(weights):
    network = Network()
    load_into(network, {name: array.astype(np.float64) for name, array in weights.items()})
    assert network.norm.weight.dtype == ms.float32
    assert network.steps.dtype == ms.int64


def test_a_saved_model_loads_again_and_has_the_hubs_layout(tmp_path, weights, assert_same):
    network = Network()
    load_into(network, weights)
    save_model(tmp_path / "model", network, {"depth": 2})
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == {"depth": 2}
    assert_same(read_tensors(tmp_path / "model"), weights)
    save_model(tmp_path / "half", network, {}, dtype="fp16")
    assert read_tensors(tmp_path / "half").dtype("norm.weight") == np.float16
    assert read_tensors(tmp_path / "half").dtype("steps") == np.int64


def latent_diffusion_name(name):
    """The name of a tensor of AutoencoderKL in the files of the earlier port, by its documented rules."""
    name = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{3 - int(match[1])}", name).replace("down_blocks", "down")
    name = name.replace("samplers.0", "sample").replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    name = re.sub(r"mid_block\.attentions\.0\.to_(q|k|v)", r"mid.attn_1.\1", name).replace("resnets", "block")
    name = name.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    if "norm" in name:
        name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
    return name


def test_every_tensor_of_an_autoencoder_is_found_under_its_latent_diffusion_name(assert_same):
    def autoencoder():
        with runtime.lazy_parameters():
            return AutoencoderKL(AutoencoderKLConfig(block_out_channels=(8, 8, 16, 16), norm_num_groups=4))

    numbers = np.random.default_rng(2)
    shapes = {name: item.shape for name, item in autoencoder().parameters_and_names()}
    published = {name: numbers.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    old = {
        latent_diffusion_name(name): array[..., None, None] if ".to_" in name and array.ndim == 2 else array
        for name, array in published.items()
    }
    assert len(set(old) - set(published)) > 200
    network = autoencoder()
    load_into(network, old)
    assert_same(values_of(network), published)


def test_weights_that_are_not_finite_are_named_and_can_be_allowed(weights):
    weights["norm.bias"][2] = np.nan
    weights["blocks.0.weight"][0, 0] = -np.inf
    with pytest.raises(UserError, match=r"2 of 9 tensors with NaN or infinite values .norm.bias, blocks.0.weight."):
        load_into(Network(), weights)
    network = Network()
    load_into(network, weights, allow_not_finite=True)
    assert np.isnan(network.norm.bias.asnumpy()[2])


def test_a_value_that_half_precision_cannot_hold_is_named(weights):
    weights["norm.bias"][2] = 1e5
    with pytest.raises(UserError, match=r"tensor norm.bias: the value 1e\+05 is too large for float16; use bf16"):
        load_into(Network(), weights, dtype="fp16")
    load_into(Network(), weights, dtype="bf16")


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8, np.bool_])
def test_integers_in_the_place_of_real_numbers_are_refused(weights, dtype):
    network = Network()
    before = values_of(network)
    weights["blocks.0.weight"] = weights["blocks.0.weight"].astype(dtype)
    with pytest.raises(UserError, match=rf"floating point .blocks.0.weight {np.dtype(dtype)}.*are they quantized"):
        load_into(network, weights)
    assert all(np.array_equal(array, before[name]) for name, array in values_of(network).items())


def test_whole_numbers_take_only_whole_numbers(weights):
    with pytest.raises(UserError, match="tensor steps: its values are no int64"):
        load_into(Network(), weights | {"steps": np.array([3.5, 4.0])})


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "_fsdp_wrapped_module.",
        "_forward_module._fsdp_wrapped_module.",
        "model.",
        "model._orig_mod.",
        "network._backbone.",
        "net.",
        "model.generator.module.",
        "ema_model.",
    ],
)
def test_names_behind_the_prefixes_of_wrappers_are_found(weights, assert_same, prefix):
    network = Network()
    load_into(network, {prefix + name: array for name, array in weights.items()})
    assert_same(values_of(network), weights)


def test_wrappers_inside_of_names_are_found(weights, assert_same):
    network, old = Network(), dict(weights)
    for name in list(old):
        new = name.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module._fsdp_wrapped_module.")
        old[f"_fsdp_wrapped_module.{new}"] = old.pop(name)
    load_into(network, old)
    assert_same(values_of(network), weights)


def test_an_unknown_prefix_is_named_with_the_way_to_drop_it(tmp_path, weights, assert_same):
    foreign = {f"my.system.{name}": array for name, array in weights.items()} | {"loss.vgg.weight": np.zeros(3)}
    save_safetensors(tmp_path / "a.safetensors", foreign)
    hint = r"Behind the prefix 'my.system.' the checkpoint has 9 of the 9 names: .* --strip my.system. takes them"
    with pytest.raises(UserError, match=hint):
        load_into(Network(), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", strip="my.system.")
    network = Network()
    load_into(network, tmp_path / "b.safetensors")
    assert_same(values_of(network), weights)
    with pytest.raises(UserError, match="no tensor .* begins with 'your.'; the first is "):
        convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", strip="your.")
