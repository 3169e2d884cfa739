import pytest

from mindone.checkpoint import naming
from mindone.errors import UserError


@pytest.mark.parametrize(
    ("old", "published"),
    [
        ("network.blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.weight"),
        ("network._backbone.blocks.0.norm.gamma", "blocks.0.norm.weight"),
        ("blocks.0._backbone.attn.q_norm.gamma", "blocks.0.attn.q_norm.weight"),
        ("module.ema.t_block.1.bias", "t_block.1.bias"),
        ("norm.beta", "norm.bias"),
        ("bn.moving_mean", "bn.running_mean"),
        ("shared.embedding_table", "shared.weight"),
        ("encoder.mid_block.attentions.0.query.weight", "encoder.mid_block.attentions.0.to_q.weight"),
        ("encoder.mid_block.attentions.0.proj_attn.bias", "encoder.mid_block.attentions.0.to_out.0.bias"),
        ("spatial_vae.module.encoder.down.0.block.1.conv1.weight",
         "spatial_vae.module.encoder.down_blocks.0.resnets.1.conv1.weight"),
        ("encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias"),
        ("decoder.up.3.block.2.nin_shortcut.weight", "decoder.up_blocks.0.resnets.2.conv_shortcut.weight"),
        ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
        ("decoder.mid.block_2.norm1.gamma", "decoder.mid_block.resnets.1.norm1.weight"),
        ("decoder.mid.attn_1.norm.beta", "decoder.mid_block.attentions.0.group_norm.bias"),
        ("decoder.mid.attn_1.proj_out.weight", "decoder.mid_block.attentions.0.to_out.0.weight"),
        ("encoder.norm_out.gamma", "encoder.conv_norm_out.weight"),
    ],
)  # fmt: skip
def test_older_names_become_published_names(old, published):
    found, unexpected = naming.resolve([old], [published])
    assert found == {published: old}
    assert not unexpected
    assert naming.published_name(published, [published]) == published


def test_names_the_network_knows_are_never_touched():
    names = ["module.weight", "decoder.up.1.upsample.conv.weight", "mid.attn_1.q.weight", "norm.gamma"]
    assert naming.resolve(names, names) == ({name: name for name in names}, [])


def test_the_exact_name_wins_and_the_other_is_unexpected():
    assert naming.resolve(["w", "ema.w"], ["w"]) == ({"w": "w"}, ["ema.w"])


def test_two_names_for_one_parameter_are_refused():
    with pytest.raises(UserError, match="both w"):
        naming.resolve(["ema.w", "network.w"], ["w"])


def test_a_tied_token_matrix_may_come_under_its_second_name():
    assert naming.resolve(["encoder.embed_tokens.weight"], ["shared.weight"])[0] == {
        "shared.weight": "encoder.embed_tokens.weight"
    }


def test_names_of_another_network_are_taken_only_on_request():
    known = ["spatial_blocks.0.attn.qkv.weight"]
    assert naming.resolve(["blocks.0.attn.qkv.weight"], known)[0] == {}
    adapters = (*naming.DEFAULT_ADAPTERS, lambda name: f"spatial_{name}")
    assert list(naming.resolve(["blocks.0.attn.qkv.weight"], known, adapters)[0]) == known


@pytest.mark.parametrize(
    ("name", "shape", "target", "fits"),
    [
        ("x_embedder.proj.weight", (8, 4, 2, 2), (8, 4, 1, 2, 2), True),
        ("x_embedder.proj.weight", (8, 16), (8, 4, 1, 2, 2), True),
        ("x_embedder.proj.weight", (8, 2, 4, 2), (8, 4, 1, 2, 2), False),
        ("x_embedder.proj.weight", (16, 8), (8, 4, 1, 2, 2), False),
        ("attentions.0.to_q.weight", (8, 8, 1, 1), (8, 8), True),
        ("quant_conv.weight", (8, 8), (8, 8, 1, 1), True),
        ("conv.weight", (8, 4, 3, 1), (8, 4, 1, 3), False),
        ("fc.weight", (4, 8), (8, 4), False),
        ("fc.weight", (32,), (8, 4), False),
        ("scale", (4,), (1, 4, 1, 1, 1), True),
        ("shift", (1, 4, 1, 1, 1), (4,), True),
        ("scale_shift_table", (2, 8), (16,), False),
        ("shift", (5,), (1, 4, 1, 1, 1), False),
    ],
)
def test_only_the_documented_shapes_are_reshaped(name, shape, target, fits):
    assert naming.fits_after_reshape(name, shape, target) is fits
