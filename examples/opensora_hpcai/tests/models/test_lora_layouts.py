"""Adapters of MMDiT for the layouts of its weights: names of other tools, one matrix split and joined, equal merges."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from mindone import runtime
from mindone.adapters import LoraModule, LoraTensors, read_lora, with_lora, write_lora
from mindone.checkpoint import network_tensors, read_tensors, save_model, save_safetensors
from mindone.checkpoint.tensors import as_tensor_file
from mindone.errors import UserError
from opensora.cli import enter
from opensora.models.flux_weights import in_layout
from opensora.models.lora_layouts import lora_in_layout, read_adapter, shapes_in_layout
from opensora.models.mmdit import MMDiT, MMDiTConfig
from opensora.models.mmdit_layouts import LAYOUTS, own_layout
from opensora.models.stdit3 import STDiT3_PRESETS
from opensora.networks import load_denoiser

D = 24
OURS = MMDiTConfig(
    in_channels=8,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=D,
    num_heads=2,
    mlp_ratio=2.0,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(2, 4, 6),
)
FLUX = dataclasses.replace(OURS, fused_qkv=True, use_liger_rope=False)
NUMBERS = np.random.default_rng(0)


def tensors_of(config):
    """Random weights of a network, and their shapes."""
    with runtime.lazy_parameters():
        entries = network_tensors(MMDiT(config)).entries
    rng = np.random.default_rng(5)
    values = {name: rng.normal(size=entry.shape).astype(np.float32) for name, entry in entries.items()}
    return values, {name: entry.shape for name, entry in entries.items()}


WEIGHTS, SHAPES = tensors_of(OURS)
FUSED, FUSED_SHAPES = tensors_of(FLUX)
IMAGE = "double_blocks.0.img_attn"


def module(out, rank, width=D, scale=0.5):
    up, down = NUMBERS.normal(size=(out, rank)), NUMBERS.normal(size=(rank, width))
    return LoraModule(down.astype(np.float32), up.astype(np.float32), scale)


def adapter(modules, about=None):
    return LoraTensors("adapter", modules, about or {})


def every_linear(shapes, rank=2):
    """An adapter of all linears, each of a rank of its own."""
    names = [name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 2]
    return adapter(
        {
            name.removesuffix(".weight"): module(
                shapes[name][0], rank + index % 3, shapes[name][1], 0.25 * (index % 2 + 1)
            )
            for index, name in enumerate(names)
        }
    )


def merged(weights, shapes, lora):
    return with_lora(as_tensor_file(weights), shapes, [(lora, 1.0)])


def same(first, second):
    """Modules that are equal bit by bit."""
    assert first.modules.keys() == second.modules.keys()
    for path, one in first.modules.items():
        other = second.modules[path]
        assert one.scale == other.scale
        assert np.array_equal(one.down, other.down) and np.array_equal(one.up, other.up), path


# --- equal weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
def test_an_adapter_merged_in_any_layout_gives_the_same_weights(first, second):
    lora, start = every_linear(SHAPES), LAYOUTS["open-sora"]
    expected = merged(WEIGHTS, SHAPES, lora)
    there = lora_in_layout(lora, SHAPES, start, LAYOUTS[first])
    known = shapes_in_layout(SHAPES, start, LAYOUTS[first])
    second_known = shapes_in_layout(SHAPES, start, LAYOUTS[second])
    moved = lora_in_layout(there, known, LAYOUTS[first], LAYOUTS[second])
    base = in_layout(as_tensor_file(WEIGHTS), start, LAYOUTS[second])
    found = in_layout(with_lora(base, second_known, [(moved, 1.0)]), LAYOUTS[second], start)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("way", list(itertools.permutations(("open-sora", "flux", "diffusers"), 2)), ids=str)
def test_an_adapter_comes_back_from_another_layout_bit_by_bit(way):
    first, second = (LAYOUTS[name] for name in way)
    known, elsewhere = (shapes_in_layout(SHAPES, LAYOUTS["open-sora"], layout) for layout in (first, second))
    lora = every_linear(known)
    lora = adapter({path: dataclasses.replace(each, scale=0.5) for path, each in lora.modules.items()})
    back = lora_in_layout(lora_in_layout(lora, known, first, second), elsewhere, second, first)
    same(lora, back)


# --- one matrix and three --------------------------------------------------------------------------------------------


def test_one_adapter_of_queries_keys_and_values_is_split_into_three_with_one_down_matrix():
    lora = adapter({f"{IMAGE}.qkv": module(3 * D, 4)})
    found = lora_in_layout(lora, FUSED_SHAPES, LAYOUTS["flux"], LAYOUTS["diffusers"]).modules
    whole, block = lora.modules[f"{IMAGE}.qkv"], "transformer_blocks.0.attn"
    assert list(found) == [f"{block}.to_q", f"{block}.to_k", f"{block}.to_v"]
    for part, each in enumerate(found.values()):
        assert np.array_equal(each.down, whole.down) and each.scale == whole.scale
        assert np.array_equal(each.up, whole.up[part * D : (part + 1) * D])


def test_three_of_different_ranks_and_scales_become_one_with_blocks_on_the_diagonal():
    block = "transformer_blocks.0.attn"
    parts = {f"{block}.to_{name}": module(D, rank, scale=rank / 4) for name, rank in zip("qkv", (1, 2, 3))}
    known = shapes_in_layout(FUSED_SHAPES, LAYOUTS["flux"], LAYOUTS["diffusers"])
    found = lora_in_layout(adapter(parts), known, LAYOUTS["diffusers"], LAYOUTS["flux"]).modules
    assert list(found) == [f"{IMAGE}.qkv"]
    one = found[f"{IMAGE}.qkv"]
    assert one.down.shape == (6, D) and one.up.shape == (3 * D, 6)
    blocks = [(slice(0, D), slice(0, 1)), (slice(D, 2 * D), slice(1, 3)), (slice(2 * D, 3 * D), slice(3, 6))]
    outside = one.up.copy()
    for place in blocks:
        assert outside[place].all()
        outside[place] = 0
    assert not outside.any()
    expected = np.concatenate([each.delta() for each in parts.values()])
    np.testing.assert_allclose(one.delta(), expected, rtol=1e-6, atol=1e-6)


def test_parts_that_are_not_adapted_stay_as_they_are():
    block = "single_transformer_blocks.0"
    known = shapes_in_layout(SHAPES, LAYOUTS["open-sora"], LAYOUTS["diffusers"])
    lora = adapter({f"{block}.attn.to_v": module(D, 2)})
    joined = lora_in_layout(lora, known, LAYOUTS["diffusers"], LAYOUTS["flux"])
    one = joined.modules["single_blocks.0.linear1"]
    assert one.rank == 2 and one.up.shape == (3 * D + 2 * D, 2)
    assert not one.up[: 2 * D].any() and one.up[2 * D : 3 * D].all() and not one.up[3 * D :].any()
    same(lora, lora_in_layout(joined, FUSED_SHAPES, LAYOUTS["flux"], LAYOUTS["diffusers"]))


def test_a_fresh_adapter_whose_up_matrix_is_zero_keeps_its_rank():
    fresh = dataclasses.replace(module(3 * D, 4), up=np.zeros((3 * D, 4), np.float32))
    found = lora_in_layout(adapter({f"{IMAGE}.qkv": fresh}), FUSED_SHAPES, LAYOUTS["flux"], LAYOUTS["open-sora"])
    assert [each.rank for each in found.modules.values()] == [4, 4, 4]


# --- files of other tools --------------------------------------------------------------------------------------------


def kohya(modules):
    """A file as trainers of Flux write it for ComfyUI."""
    tensors = {}
    for path, each in modules.items():
        name = "lora_unet_" + path.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": each.down, f"{name}.lora_up.weight": each.up}
        tensors[f"{name}.alpha"] = np.array(each.scale * each.rank, np.float32)
    return tensors


def test_an_adapter_of_comfyui_s_flux_is_read_for_any_network(tmp_path):
    modules = {f"{IMAGE}.qkv": module(3 * D, 4), "single_blocks.0.linear1": module(5 * D, 2)}
    save_safetensors(tmp_path / "a.safetensors", kohya(modules))
    assert "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight" in read_tensors(tmp_path / "a.safetensors", "all")
    expected = merged(FUSED, FUSED_SHAPES, read_adapter(tmp_path / "a.safetensors", FUSED_SHAPES, FLUX))
    for config in (OURS, dataclasses.replace(OURS, use_liger_rope=False)):
        weights = in_layout(as_tensor_file(FUSED), LAYOUTS["flux"], own_layout(config))
        known = {name: entry.shape for name, entry in weights.entries.items()}
        lora = read_adapter(tmp_path / "a.safetensors", known, config)
        found = in_layout(with_lora(weights, known, [(lora, 1.0)]), own_layout(config), LAYOUTS["flux"])
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "transformer.transformer_blocks.0.attn.to_q",
        "base_model.model.transformer_blocks.0.attn.to_q",
        "lora_transformer_transformer_blocks_0_attn_to_q",
    ],
)
def test_an_adapter_of_diffusers_is_read(name, tmp_path):
    each = module(D, 2)
    tensors = {f"{name}.lora_A.weight": each.down, f"{name}.lora_B.weight": each.up}
    save_safetensors(tmp_path / "a.safetensors", tensors)
    assert list(read_adapter(tmp_path / "a.safetensors", SHAPES, OURS).modules) == [f"{IMAGE}.q_proj"]


def test_an_adapter_of_another_model_is_refused_whatever_the_layout(tmp_path):
    save_safetensors(tmp_path / "a.safetensors", kohya({"blocks.0.attn": module(D, 2)}))
    with pytest.raises(UserError, match="no linear of this network"):
        read_adapter(tmp_path / "a.safetensors", SHAPES, OURS)
    save_safetensors(tmp_path / "b.safetensors", kohya({f"{IMAGE}.qkv": module(D, 2)}))
    with pytest.raises(UserError, match="belongs to another size"):
        read_adapter(tmp_path / "b.safetensors", SHAPES, OURS)


NAMES = {
    ("kohya", "comfyui"): [
        "lora_unet_double_blocks_0_img_attn_qkv.alpha",
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
        "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight",
    ],
    ("diffusers", "diffusers"): [
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight",
    ],
    ("comfyui", "original"): [
        "diffusion_model.double_blocks.0.img_attn.q_proj.alpha",
        "diffusion_model.double_blocks.0.img_attn.q_proj.lora_A.weight",
        "diffusion_model.double_blocks.0.img_attn.q_proj.lora_B.weight",
    ],
    ("comfyui", "flux"): [
        "diffusion_model.double_blocks.0.img_attn.qkv.alpha",
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight",
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight",
    ],
}


@pytest.fixture
def model(tmp_path):
    """A folder with the denoiser, whose config.json says its sizes."""
    network = MMDiT(OURS)
    save_model(tmp_path / "model", network, dataclasses.asdict(OURS), instead=WEIGHTS)
    return tmp_path / "model"


@pytest.mark.parametrize(("form", "layout"), NAMES)
def test_the_command_writes_an_adapter_under_the_names_of_a_tool_and_reads_it_again(form, layout, model, tmp_path):
    about = {"made_by": "mindone 1", "seed": "7"}
    lora = adapter({f"{IMAGE}.q_proj": module(D, 2)}, about)
    write_lora(tmp_path / "own.safetensors", lora)
    files = [tmp_path / "own.safetensors", tmp_path / "there.safetensors", tmp_path / "back.safetensors"]
    common = ["--ckpt_path", str(model), "--model_version", "v2.0"]
    for source, target, more in zip(files, files[1:], (["--format", form, "--layout", layout], [])):
        enter("convert-lora", ["--src", str(source), "--target", str(target), *common, *more])
    there = read_tensors(files[1], "all")
    assert sorted(there) == NAMES[form, layout]
    assert there.metadata.items() >= {"format": "pt", **about}.items()
    back = read_lora(files[2], SHAPES)
    assert back.metadata.items() >= about.items()
    same(lora, back)


def test_other_networks_have_no_layouts(tmp_path, capsys):
    arguments = ["--src", str(tmp_path), "--target", str(tmp_path / "a.safetensors"), "--layout", "comfyui"]
    assert own_layout(STDiT3_PRESETS["STDiT3-XL/2"]) is None
    block = {
        f"spatial_blocks.0.attn.proj.lora_{side}.weight": np.ones(shape, np.float32)
        for side, shape in (("A", (2, 1152)), ("B", (1152, 2)))
    }
    save_safetensors(tmp_path / "adapter.safetensors", block)
    with pytest.raises(SystemExit):
        enter("convert-lora", arguments)
    assert "layout=comfyui is one of MMDiT" in capsys.readouterr().err


def test_an_adapter_of_another_layout_samples_as_it_merges_and_the_result_says_what_is_in_it(model, tmp_path):
    modules = {f"{IMAGE}.qkv": module(3 * D, 4)}
    write_lora(tmp_path / "a.safetensors", adapter(modules, {"made_by": "mindone 1", "recipe": "{}"}), "kohya")
    folded = network_tensors(load_denoiser(model, OURS, loras=[(tmp_path / "a.safetensors", 0.5)]))
    common = ["--model_version", "v2.0", "--ckpt_path", str(model), "--lora_scale", "0.5"]
    enter("merge-lora", [*common, "--lora", str(tmp_path / "a.safetensors"), "--target", str(tmp_path / "merged")])
    found = read_tensors(tmp_path / "merged")
    assert found.keys() == folded.keys()
    changed = [name for name in found if not np.array_equal(found[name], WEIGHTS[name])]
    assert changed == [f"{IMAGE}.{part}_proj.weight" for part in "qkv"]
    for name in changed:
        np.testing.assert_allclose(found[name], folded[name], rtol=1e-6, atol=1e-6)
    said = json.loads(found.metadata["adapters"])
    assert [(each["strength"], each["made_by"], each["recipe"]) for each in said] == [(0.5, "mindone 1", "{}")]
    assert found.metadata["format"] == "pt" and found.metadata["merged_by"].startswith("mindone ")
