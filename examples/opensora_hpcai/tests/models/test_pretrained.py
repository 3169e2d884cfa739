"""Denoisers that start from made-up weights of image models, and weights under the names of the earlier port."""

import numpy as np
import pytest

from mindone.checkpoint import load_into, network_tensors, save_ckpt, save_safetensors
from mindone.errors import UserError
from opensora.models.pretrained import initialize_from_image_model
from opensora.models.stdit import STDiTConfig
from opensora.models.stdit2 import STDiT2, STDiT2Config
from opensora.models.stdit3 import STDiT3, STDiT3Config
from opensora.networks import denoiser_class

WIDTH, TOKENS, CAPTION = 24, 5, 8
SMALL = {"hidden_size": WIDTH, "depth": 2, "num_heads": 2, "caption_channels": CAPTION, "model_max_length": TOKENS}
CONFIGS = [STDiTConfig(**SMALL), STDiT2Config(**SMALL), STDiT3Config(**SMALL)]
SHAPES = {
    "x_embedder.proj.weight": (WIDTH, 4, 2, 2),
    "x_embedder.proj.bias": (WIDTH,),
    "t_embedder.mlp.0.weight": (WIDTH, 256),
    "t_embedder.mlp.0.bias": (WIDTH,),
    "t_embedder.mlp.2.weight": (WIDTH, WIDTH),
    "t_embedder.mlp.2.bias": (WIDTH,),
    "final_layer.linear.weight": (32, WIDTH),
    "final_layer.linear.bias": (32,),
    "pos_embed": (1, 16, WIDTH),
}
BLOCK_SHAPES = {
    "attn.qkv.weight": (3 * WIDTH, WIDTH),
    "attn.qkv.bias": (3 * WIDTH,),
    "attn.proj.weight": (WIDTH, WIDTH),
    "attn.proj.bias": (WIDTH,),
    "mlp.fc1.weight": (4 * WIDTH, WIDTH),
    "mlp.fc1.bias": (4 * WIDTH,),
    "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
    "mlp.fc2.bias": (WIDTH,),
}
PIXART_SHAPES = {
    "t_block.1.weight": (6 * WIDTH, WIDTH),
    "t_block.1.bias": (6 * WIDTH,),
    "y_embedder.y_proj.fc1.weight": (WIDTH, CAPTION),
    "y_embedder.y_proj.fc1.bias": (WIDTH,),
    "y_embedder.y_proj.fc2.weight": (WIDTH, WIDTH),
    "y_embedder.y_proj.fc2.bias": (WIDTH,),
    "final_layer.scale_shift_table": (2, WIDTH),
}
PIXART_BLOCK_SHAPES = {
    "scale_shift_table": (6, WIDTH),
    "cross_attn.q_linear.weight": (WIDTH, WIDTH),
    "cross_attn.q_linear.bias": (WIDTH,),
    "cross_attn.kv_linear.weight": (2 * WIDTH, WIDTH),
    "cross_attn.kv_linear.bias": (2 * WIDTH,),
    "cross_attn.proj.weight": (WIDTH, WIDTH),
    "cross_attn.proj.bias": (WIDTH,),
}
DIT_SHAPES = {
    "y_embedder.embedding_table.weight": (11, WIDTH),
    "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
    "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
}
DIT_BLOCK_SHAPES = {"adaLN_modulation.1.weight": (6 * WIDTH, WIDTH), "adaLN_modulation.1.bias": (6 * WIDTH,)}


def made_up(shapes, block_shapes):
    rng = np.random.default_rng(0)
    blocks = {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in block_shapes.items()}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in {**shapes, **blocks}.items()}


def pixart(tokens=TOKENS, sized=False):
    """PixArt; its multi-scale variant has embedders of size and aspect ratio."""
    third = WIDTH // 3
    layers = {"0.weight": (third, 256), "0.bias": (third,), "2.weight": (third, third), "2.bias": (third,)}
    sizes = {f"{kind}_embedder.mlp.{name}": shape for kind in ("csize", "ar") for name, shape in layers.items()}
    caption = {"y_embedder.y_embedding": (tokens, CAPTION)}
    shapes = {**SHAPES, **PIXART_SHAPES, **caption, **(sizes if sized else {})}
    return made_up(shapes, {**BLOCK_SHAPES, **PIXART_BLOCK_SHAPES})


def dit():
    return made_up({**SHAPES, **DIT_SHAPES}, {**BLOCK_SHAPES, **DIT_BLOCK_SHAPES})


def build(config):
    return denoiser_class(config)(config)


def values_of(network):
    return {name: np.array(value) for name, value in network_tensors(network).items()}


def name_in(network, name):
    return name.replace("blocks.", "spatial_blocks.", 1) if isinstance(network, STDiT3) else name


def assert_taken(network, weights):
    values = values_of(network)
    for name, array in weights.items():
        ours = values.get(name_in(network, name))
        if ours is not None:
            assert np.array_equal(ours, array.reshape(ours.shape)), name


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_pixart_gives_all_it_has_and_what_is_new_keeps_its_start(config, sized, tmp_path):
    network, weights = build(config), pixart(sized=sized)
    fresh = values_of(network)
    save_safetensors(tmp_path / "pixart.safetensors", weights)
    report = initialize_from_image_model(network, tmp_path / "pixart.safetensors")
    assert_taken(network, weights)
    now = values_of(network)
    assert all(np.array_equal(now[name], fresh[name]) for name in report.missing)
    took_sizes = sized and isinstance(network, STDiT2)
    assert len(report.loaded) == len(weights) - 1 - (8 if sized and not took_sizes else 0)
    temporal = "temporal_blocks.1.attn.proj" if isinstance(network, STDiT3) else "blocks.1.attn_temp.proj"
    assert not now[f"{temporal}.weight"].any() and not now[f"{temporal}.bias"].any()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_dit_gives_its_attentions_and_mlps(config):
    network, weights = build(config), dit()
    report = initialize_from_image_model(network, weights)
    assert_taken(network, weights)
    assert len(report.loaded) == len(SHAPES) - 1 + 2 * len(BLOCK_SHAPES)
    assert {"t_block.1.weight", "y_embedder.y_embedding", "final_layer.scale_shift_table"} <= set(report.missing)


@pytest.mark.parametrize("tokens", [3, 7])
def test_the_null_caption_is_cut_or_its_last_row_repeated(tokens):
    network, weights = build(CONFIGS[1]), pixart(tokens)
    initialize_from_image_model(network, weights)
    rows = np.minimum(np.arange(TOKENS), tokens - 1)
    assert np.array_equal(network.y_embedder.y_embedding.asnumpy(), weights["y_embedder.y_embedding"][rows])


@pytest.mark.parametrize("name", ["blocks.1.cross_attn.proj.bias", "blocks.1.mlp.fc1.weight", "t_block.1.bias"])
def test_a_pixart_file_with_holes_is_refused(name):
    weights = pixart()
    del weights[name]
    with pytest.raises(UserError, match=f"missing .*{name}"):
        initialize_from_image_model(build(CONFIGS[0]), weights)


def test_what_pixart_does_not_have_is_refused():
    with pytest.raises(UserError, match="sr.weight"):
        initialize_from_image_model(build(CONFIGS[2]), {**pixart(), "blocks.1.attn.sr.weight": np.zeros(3, np.float32)})


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_weights_of_a_video_denoiser_are_no_image_model(config):
    network = build(config)
    with pytest.raises(UserError, match="PixArt or DiT"):
        initialize_from_image_model(network, values_of(network))


@pytest.mark.parametrize("kernel", ["frame", "matrix"])
@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda config: type(config).__name__)
def test_weights_of_the_earlier_port_load_under_their_names(config, kernel, tmp_path):
    network, rng = build(config), np.random.default_rng(1)
    wanted = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in values_of(network).items()}
    old = {}
    for name, value in wanted.items():
        name = name.replace("_norm.weight", "_norm.gamma").replace("blocks.0.", "blocks.0._backbone.")
        old[f"network.{name}"] = value
    patches = old["network.x_embedder.proj.weight"]
    old["network.x_embedder.proj.weight"] = patches[:, :, 0] if kernel == "frame" else patches.reshape(WIDTH, -1)
    save_ckpt(tmp_path / "old.ckpt", old)
    load_into(network, tmp_path / "old.ckpt")
    assert all(np.array_equal(value, wanted[name]) for name, value in values_of(network).items())
