"""What MMDiT's modules are called in every layout, and that weights come back from each bit by bit."""

import dataclasses
import itertools
import json

import mindspore as ms
import numpy as np
import pytest

from mindone import runtime
from mindone.checkpoint import load_into, network_tensors, read_tensors, save_model, save_safetensors
from mindone.errors import UserError
from opensora.cli import enter
from opensora.models.flux_weights import convert_flux, in_layout
from opensora.models.mmdit import MMDIT_PRESETS, MMDiT, MMDiTConfig
from opensora.models.mmdit_layouts import LAYOUTS, Layout, known_layout, layout_of
from opensora.networks import check_denoiser_weights, denoiser_config, load_denoiser

VIDEO = MMDiTConfig(
    in_channels=8,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=24,
    num_heads=2,
    depth=2,
    depth_single_blocks=1,
    axes_dim=(2, 4, 6),
)
CONFIGS = {
    "video": VIDEO,
    "distilled": dataclasses.replace(VIDEO, guidance_embed=True),
    "pictures": dataclasses.replace(VIDEO, guidance_embed=True, cond_embed=False),
    "without biases": dataclasses.replace(VIDEO, qkv_bias=False, depth_single_blocks=0),
    "one stream": dataclasses.replace(VIDEO, depth=0, depth_single_blocks=2),
}
PAIRS = list(itertools.permutations(LAYOUTS, 2))

# Flux.1-dev as diffusers publishes it: names and shapes of FluxTransformer2DModel, one line for those of every block.
D, M, HEAD, TEXT, VECTOR, TOKEN = 3072, 12288, 128, 4096, 768, 64
DIFFUSERS = {
    "x_embedder": (D, TOKEN),
    "context_embedder": (D, TEXT),
    "time_text_embed.timestep_embedder.linear_1": (D, 256),
    "time_text_embed.timestep_embedder.linear_2": (D, D),
    "time_text_embed.guidance_embedder.linear_1": (D, 256),
    "time_text_embed.guidance_embedder.linear_2": (D, D),
    "time_text_embed.text_embedder.linear_1": (D, VECTOR),
    "time_text_embed.text_embedder.linear_2": (D, D),
    "transformer_blocks.*.norm1.linear": (6 * D, D),
    "transformer_blocks.*.norm1_context.linear": (6 * D, D),
    "transformer_blocks.*.attn.norm_q": (HEAD,),
    "transformer_blocks.*.attn.norm_k": (HEAD,),
    "transformer_blocks.*.attn.norm_added_q": (HEAD,),
    "transformer_blocks.*.attn.norm_added_k": (HEAD,),
    "transformer_blocks.*.attn.to_q": (D, D),
    "transformer_blocks.*.attn.to_k": (D, D),
    "transformer_blocks.*.attn.to_v": (D, D),
    "transformer_blocks.*.attn.to_out.0": (D, D),
    "transformer_blocks.*.attn.add_q_proj": (D, D),
    "transformer_blocks.*.attn.add_k_proj": (D, D),
    "transformer_blocks.*.attn.add_v_proj": (D, D),
    "transformer_blocks.*.attn.to_add_out": (D, D),
    "transformer_blocks.*.ff.net.0.proj": (M, D),
    "transformer_blocks.*.ff.net.2": (D, M),
    "transformer_blocks.*.ff_context.net.0.proj": (M, D),
    "transformer_blocks.*.ff_context.net.2": (D, M),
    "single_transformer_blocks.*.norm.linear": (3 * D, D),
    "single_transformer_blocks.*.attn.norm_q": (HEAD,),
    "single_transformer_blocks.*.attn.norm_k": (HEAD,),
    "single_transformer_blocks.*.attn.to_q": (D, D),
    "single_transformer_blocks.*.attn.to_k": (D, D),
    "single_transformer_blocks.*.attn.to_v": (D, D),
    "single_transformer_blocks.*.proj_mlp": (M, D),
    "single_transformer_blocks.*.proj_out": (D, D + M),
    "norm_out.linear": (2 * D, D),
    "proj_out": (TOKEN, D),
}
# The same network as its authors publish it, and ComfyUI reads it.
FLUX = {
    "img_in": (D, TOKEN),
    "txt_in": (D, TEXT),
    "time_in.in_layer": (D, 256),
    "time_in.out_layer": (D, D),
    "guidance_in.in_layer": (D, 256),
    "guidance_in.out_layer": (D, D),
    "vector_in.in_layer": (D, VECTOR),
    "vector_in.out_layer": (D, D),
    **{
        f"double_blocks.*.{stream}_{name}": shape
        for stream in ("img", "txt")
        for name, shape in {
            "mod.lin": (6 * D, D),
            "attn.qkv": (3 * D, D),
            "attn.norm.query_norm": (HEAD,),
            "attn.norm.key_norm": (HEAD,),
            "attn.proj": (D, D),
            "mlp.0": (M, D),
            "mlp.2": (D, M),
        }.items()
    },
    "single_blocks.*.linear1": (3 * D + M, D),
    "single_blocks.*.linear2": (D, D + M),
    "single_blocks.*.norm.query_norm": (HEAD,),
    "single_blocks.*.norm.key_norm": (HEAD,),
    "single_blocks.*.modulation.lin": (3 * D, D),
    "final_layer.adaLN_modulation.1": (2 * D, D),
    "final_layer.linear": (TOKEN, D),
}
DEPTH, SINGLE = 19, 38
# What Flux.1-dev and Open-Sora 2.0 have, as counted in their published files; the others follow from the tables.
COUNTS = {
    ("Flux.1-dev", "flux"): 780,
    ("Flux.1-dev", "comfyui"): 780,
    ("Flux.1-dev", "diffusers"): 20 + 32 * DEPTH + 14 * SINGLE,
    ("MMDiT-11B", "open-sora"): 18 + 32 * DEPTH + 12 * SINGLE,
    ("MMDiT-11B", "diffusers"): 18 + 32 * DEPTH + 14 * SINGLE,
}


def tensors_of(table, norm):
    """Name → shape, with blocks counted out; a norm has one parameter, other modules weight and bias."""
    found = {}
    for pattern, shape in table.items():
        count = 1 if "*" not in pattern else SINGLE if pattern.startswith("single") else DEPTH
        for block in range(count):
            module = pattern.replace("*", str(block))
            found |= (
                {f"{module}.{norm}": shape}
                if len(shape) == 1
                else {f"{module}.weight": shape, f"{module}.bias": shape[:1]}
            )
    return found


@pytest.fixture(scope="module")
def published():
    """The tensors of the published sizes, without memory for their values."""
    with runtime.lazy_parameters():
        return {name: network_tensors(MMDiT(MMDIT_PRESETS[name])) for name in ("Flux.1-dev", "MMDiT-11B")}


def own(config):
    return Layout(config.fused_qkv, config.use_liger_rope)


def shapes_in(tensors, source, target):
    return {name: entry.shape for name, entry in in_layout(tensors, source, LAYOUTS[target]).entries.items()}


def test_published_flux_has_the_names_and_shapes_that_diffusers_and_comfyui_read(published):
    flux, source = published["Flux.1-dev"], LAYOUTS["flux"]
    assert shapes_in(flux, source, "diffusers") == tensors_of(DIFFUSERS, "weight")
    assert shapes_in(flux, source, "comfyui") == shapes_in(flux, source, "flux") == tensors_of(FLUX, "scale")


def test_open_sora_has_the_same_names_but_for_guidance_and_the_condition(published):
    video, source = published["MMDiT-11B"], LAYOUTS["open-sora"]
    condition = {"cond_in.weight": (D, TOKEN + 4), "cond_in.bias": (D,)}
    for layout, table in (("diffusers", tensors_of(DIFFUSERS, "weight")), ("comfyui", tensors_of(FLUX, "scale"))):
        expected = {name: shape for name, shape in table.items() if "guidance" not in name}
        assert shapes_in(video, source, layout) == expected | condition


@pytest.mark.parametrize(("name", "layout"), COUNTS)
def test_as_many_tensors_are_written_as_the_depths_say(published, name, layout):
    source = own(MMDIT_PRESETS[name])
    converted = in_layout(published[name], source, LAYOUTS[layout])
    assert len(converted) == COUNTS[name, layout]
    assert (
        sum(entry.size for entry in converted.entries.values())
        == {
            "Flux.1-dev": 11_901_408_320,
            "MMDiT-11B": 11_891_390_528,
        }[name]
    )


# --- there and back --------------------------------------------------------------------------------------------------


def filled(config, layout):
    """A network with random weights, whose config is that of a layout."""
    config = dataclasses.replace(config, fused_qkv=layout.fused_qkv, use_liger_rope=layout.half_rope)
    network, rng = MMDiT(config), np.random.default_rng(0)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(rng.normal(0.5, 0.3, parameter.shape).astype(np.float32)))
    return network.set_train(False)


def inputs_of(config, batch=2, tokens=6, words=3):
    rng = np.random.default_rng(1)
    ids = np.stack(np.meshgrid(np.arange(1), np.arange(2), np.arange(3), indexing="ij"), -1).reshape(1, tokens, 3)
    given = [
        rng.normal(size=(batch, tokens, config.in_channels)),
        ids,
        rng.normal(size=(batch, words, config.context_in_dim)),
        np.zeros((1, words, 3)),
        rng.uniform(size=batch),
        rng.normal(size=(batch, config.vec_in_dim)),
        rng.normal(size=(batch, tokens, config.cond_channels)) if config.cond_embed else None,
        np.array([3.5, 1.0]) if config.guidance_embed else None,
    ]
    return [None if array is None else ms.Tensor(array.astype(np.float32)) for array in given]


def same_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first.dtype(name) == second.dtype(name), name
        assert np.array_equal(np.array(first[name]).view(np.uint8), np.array(second[name]).view(np.uint8)), name


def converted(source, target, layout, *more):
    enter("convert-flux", ["--src", str(source), "--target", str(target), "--layout", layout, *more])
    return read_tensors(target)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_layout_is_left_for_every_other_and_reached_again_bit_by_bit(config):
    base = network_tensors(filled(CONFIGS[config], LAYOUTS["open-sora"]))
    for first, second in PAIRS:
        there = in_layout(base, LAYOUTS["open-sora"], LAYOUTS[first])
        back = in_layout(in_layout(there, LAYOUTS[first], LAYOUTS[second]), LAYOUTS[second], LAYOUTS[first])
        same_bits(there, back)
        same_bits(base, in_layout(back, LAYOUTS[first], LAYOUTS["open-sora"]))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("way", [("diffusers", "comfyui"), ("comfyui", "diffusers"), ("flux", "diffusers")])
def test_files_go_through_two_layouts_and_give_the_same_video(way, dtype, tmp_path):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network = filled(VIDEO, LAYOUTS["open-sora"])
    save_safetensors(tmp_path / "a.safetensors", network_tensors(network, dtype))
    source = tmp_path / "a.safetensors"
    for step, layout in enumerate((*way, "original")):
        target = tmp_path / f"{step}.safetensors"
        converted(source, target, layout)
        source = target
    before, after = read_tensors(tmp_path / "a.safetensors"), read_tensors(source)
    same_bits(before, after)
    load_into(network, before)
    twin = MMDiT(VIDEO).set_train(False)
    load_into(twin, after)
    inputs = inputs_of(VIDEO)
    assert np.array_equal(network(*inputs).asnumpy(), twin(*inputs).asnumpy())


@pytest.mark.parametrize("config", ["video", "pictures"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_last_modulation_and_the_rotation_are_those_of_the_layout(config, layout):
    rows = 2 * VIDEO.hidden_size
    network = filled(CONFIGS[config], LAYOUTS["open-sora"])
    network.final_layer.adaLN_modulation[1].bias.set_data(ms.Tensor(np.arange(rows, dtype=np.float32)))
    network.single_blocks[0].norm.query_norm.scale.set_data(ms.Tensor(np.arange(12, dtype=np.float32)))
    found = in_layout(network_tensors(network), LAYOUTS["open-sora"], LAYOUTS[layout])
    names = ("final_layer.adaLN_modulation.1.bias", "single_blocks.0.norm.query_norm.scale")
    if layout == "diffusers":
        names = ("norm_out.linear.bias", "single_transformer_blocks.0.attn.norm_q.weight")
    modulation, scale = (found[name].tolist() for name in names)
    shift_first, scale_first = list(range(rows)), [*range(rows // 2, rows), *range(rows // 2)]
    assert modulation == (scale_first if layout == "diffusers" else shift_first)
    halves, neighbours = list(range(12)), [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert scale == (halves if layout == "open-sora" else neighbours)


def test_the_passport_and_the_format_travel_with_the_weights(tmp_path):
    about = {"made_by": "mindone 1", "seed": "3", "parity": "equals the original"}
    save_safetensors(tmp_path / "a.safetensors", network_tensors(filled(VIDEO, LAYOUTS["open-sora"])), about)
    found = converted(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "diffusers", "--dtype", "bf16").metadata
    assert found == about | {"format": "pt", "layout": "diffusers", "converted_by": found["converted_by"]}
    assert found["converted_by"].startswith("mindone ")
    (tmp_path / "config.json").write_text('{"axes_dims_rope": [2, 4, 6]}')
    folder = converted(tmp_path / "b.safetensors", tmp_path / "folder", "original").metadata
    assert folder == found | {"layout": "open-sora"}


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_diffusers_has_the_config_of_its_transformer_and_comes_back_as_ours(tmp_path):
    save_model(tmp_path / "own", filled(VIDEO, LAYOUTS["open-sora"]), dataclasses.asdict(VIDEO))
    converted(tmp_path / "own", tmp_path / "theirs", "diffusers")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text()) == {
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": 12,
        "axes_dims_rope": [2, 4, 6],
        "guidance_embeds": False,
        "in_channels": 8,
        "joint_attention_dim": 10,
        "num_attention_heads": 2,
        "num_layers": 2,
        "num_single_layers": 1,
        "patch_size": 1,
        "pooled_projection_dim": 6,
    }
    assert (tmp_path / "theirs" / "diffusion_pytorch_model.safetensors").is_file()
    same_bits(read_tensors(tmp_path / "own"), converted(tmp_path / "theirs", tmp_path / "back", "original"))
    config = denoiser_config("MMDiT-11B", tmp_path / "back")
    assert config == VIDEO
    load_denoiser(tmp_path / "back", config)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_in_any_layout_loads_as_it_is_for_the_network_of_2_0(layout, tmp_path):
    save_model(tmp_path / "own", filled(VIDEO, LAYOUTS["open-sora"]), dataclasses.asdict(VIDEO))
    expected = converted(tmp_path / "own", tmp_path / "theirs", layout)
    config = denoiser_config("MMDiT-11B", tmp_path / "theirs")
    if layout == "diffusers":
        assert config == VIDEO
        assert check_denoiser_weights(tmp_path / "theirs", config) == len(network_tensors(MMDiT(VIDEO)))
    else:
        assert (config.fused_qkv, config.use_liger_rope) == (layout != "open-sora", layout == "open-sora")
    found = network_tensors(load_denoiser(tmp_path / "theirs", config))
    same_bits(in_layout(expected, LAYOUTS[layout], own(config)), found)
    given = network_tensors(load_denoiser(tmp_path / "theirs", VIDEO))
    same_bits(read_tensors(tmp_path / "own"), given)


@pytest.mark.parametrize("config", ["distilled", "without biases", "one stream"])
def test_the_config_of_a_folder_is_read_off_its_weights(config, tmp_path):
    network = CONFIGS[config]
    save_model(tmp_path / "own", filled(network, LAYOUTS["flux"]), {"axes_dim": [2, 4, 6]})
    converted(tmp_path / "own", tmp_path / "back", "open-sora")
    assert denoiser_config("MMDiT-11B", tmp_path / "back") == network


def test_the_channels_that_are_rotated_have_to_be_known_for_a_folder_but_not_for_a_file(tmp_path, capsys):
    save_safetensors(tmp_path / "a.safetensors", network_tensors(filled(VIDEO, LAYOUTS["open-sora"])))
    with pytest.raises(SystemExit) as stopped:
        converted(tmp_path / "a.safetensors", tmp_path / "out", "diffusers")
    assert stopped.value.code == 2 and "axes_dim of their rotation" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert converted(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "diffusers")


def test_a_config_beside_the_weights_says_which_channels_are_rotated():
    split, fused = {"double_blocks.0.img_attn.q_proj.weight"}, {"single_blocks.0.linear1.weight"}
    assert layout_of(split) == LAYOUTS["open-sora"] and layout_of(fused) == LAYOUTS["flux"]
    assert layout_of(split, half_rope=False) == Layout(False, False)
    assert layout_of({"transformer_blocks.0.attn.to_q.weight"}, half_rope=True) == LAYOUTS["diffusers"]
    assert known_layout("original", True)[0] == "open-sora" and known_layout("original", False)[0] == "flux"


# --- what is read, said and refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [{}, {"vae.decoder.conv_in.bias": np.zeros(2, np.float32)}], ids=["alone", "more"])
def test_comfyui_s_prefix_is_understood_and_what_stands_beside_it_left_out(others, tmp_path, caplog):
    flux = in_layout(network_tensors(filled(VIDEO, LAYOUTS["flux"])), LAYOUTS["flux"], LAYOUTS["comfyui"])
    file = {f"model.diffusion_model.{name}": flux[name] for name in flux}
    save_safetensors(tmp_path / "a.safetensors", file | others)
    same_bits(flux, converted(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "comfyui"))
    assert bool(others) == ("left out: vae" in caplog.text)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_condition_that_other_tools_do_not_know_is_kept_and_said(layout, tmp_path, caplog):
    for config in ("video", "pictures"):
        caplog.clear()
        save_safetensors(tmp_path / "a.safetensors", network_tensors(filled(CONFIGS[config], LAYOUTS["open-sora"])))
        found = converted(tmp_path / "a.safetensors", tmp_path / f"{config}.safetensors", layout)
        assert ("cond_in.weight" in found) == (config == "video")
        assert ("no counterpart of cond_in" in caplog.text) == (config == "video" and layout != "open-sora")


def without(name):
    return lambda tensors: {key: tensors[key] for key in tensors if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("double_blocks.1.txt_attn.k_proj.weight"), "missing: double_blocks.1.txt_attn.k_proj.weight"),
        (without("double_blocks.0.img_attn.k_proj.bias"), "a bias for some of"),
        (without("img_in.weight"), "missing: img_in.weight"),
        (lambda t: {**t, "scaled_fp8": np.zeros(1, np.float32)}, "that no MMDiT has: scaled_fp8"),
        (lambda t: {**t, "single_blocks.4.linear2.weight": np.ones((2, 2), np.float32)}, "no whole MMDiT"),
        (
            lambda t: {**t, "single_blocks.0.q_proj.weight": np.ones(24, np.float32)},
            r"shape \[24\], which does",
        ),
        (lambda t: {**t, "single_blocks.0.v_mlp.weight": np.ones((20, 24), np.float32)}, "does not fit an MMDiT"),
        (lambda t: {**t, "double_blocks.0.img_attn.q_proj.bias": np.ones(25, np.float32)}, "does not fit an MMDiT"),
        (lambda t: {**t, "single_blocks.0.norm.key_norm.scale": np.ones(10, np.float32)}, "not of one even size"),
        (lambda t: {name: array for name, array in t.items() if "norm" not in name}, "holds no MMDiT"),
    ],
)
def test_what_is_no_whole_mmdit_is_refused_in_one_line(change, message, tmp_path):
    tensors = dict(network_tensors(filled(VIDEO, LAYOUTS["open-sora"])))
    save_safetensors(tmp_path / "a.safetensors", change(tensors))
    with pytest.raises(UserError, match=message) as refusal:
        convert_flux(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "auto", "comfyui")
    assert "\n" not in str(refusal.value) and not (tmp_path / "b.safetensors").exists()
