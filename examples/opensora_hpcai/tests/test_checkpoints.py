import numpy as np
import pytest

from mindone.checkpoint import read_tensors, save_safetensors
from mindone.checkpoint.describe import guess_network
from mindone.checkpoint.tensors import as_tensor_file
from mindone.errors import UserError
from opensora.checkpoints import SIGNATURES, convert_video_autoencoder


def kernel(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


OLD_AUTOENCODER = {
    "spatial_vae.module.encoder.down.0.block.0.norm1.gamma": (8,),
    "spatial_vae.module.encoder.mid.attn_1.q.weight": (8, 8, 1, 1),
    "spatial_vae.module.decoder.up.3.block.0.conv1.weight": (8, 8, 3, 3),
    "temporal_vae.encoder.norm1.beta": (8,),
    "temporal_vae.decoder.conv1.conv.weight": (8, 4, 3, 3, 3),
    "scale": (4,),
    "shift": (4,),
}
PUBLISHED_AUTOENCODER = {
    "spatial_vae.module.encoder.down_blocks.0.resnets.0.norm1.weight": (8,),
    "spatial_vae.module.encoder.mid_block.attentions.0.to_q.weight": (8, 8),
    "spatial_vae.module.decoder.up_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3),
    "temporal_vae.encoder.norm1.bias": (8,),
    "temporal_vae.decoder.conv1.conv.weight": (8, 4, 3, 3, 3),
    "scale": (1, 4, 1, 1, 1),
    "shift": (1, 4, 1, 1, 1),
}


@pytest.mark.parametrize("names", [OLD_AUTOENCODER, PUBLISHED_AUTOENCODER])
def test_a_video_autoencoder_gets_its_published_names_and_shapes(tmp_path, names):
    save_safetensors(tmp_path / "a.safetensors", {name: kernel(*shape) for name, shape in names.items()})
    convert_video_autoencoder(tmp_path / "a.safetensors", tmp_path / "b.ckpt")
    found = read_tensors(tmp_path / "b.ckpt")
    assert {name: found.shape(name) for name in found} == PUBLISHED_AUTOENCODER
    assert np.array_equal(found["scale"].ravel(), kernel(*names["scale"]).ravel())
    assert guess_network(found, SIGNATURES) == "video autoencoder of Open-Sora 1.2"


def test_a_2d_autoencoder_becomes_the_spatial_part(tmp_path):
    prefix = "spatial_vae.module."
    spatial = {name: shape for name, shape in PUBLISHED_AUTOENCODER.items() if name.startswith(prefix)}
    old = {"encoder.mid_block.attentions.0.query.weight": (8, 8, 1, 1)}
    published = {name.removeprefix(prefix): shape for name, shape in spatial.items() if "to_q" not in name}
    save_safetensors(tmp_path / "a.safetensors", {n: kernel(*s) for n, s in {**old, **published}.items()})
    convert_video_autoencoder(tmp_path / "a.safetensors", tmp_path / "b.ckpt", from_vae2d=True)
    found = read_tensors(tmp_path / "b.ckpt")
    assert {name: found.shape(name) for name in found} == spatial
    with pytest.raises(UserError, match="--from_vae2d"):
        convert_video_autoencoder(tmp_path / "a.safetensors", tmp_path / "c.ckpt")


def test_another_network_is_not_taken_for_an_autoencoder(tmp_path):
    save_safetensors(tmp_path / "a.safetensors", {"blocks.0.weight": kernel(2)})
    for from_vae2d in (True, False):
        with pytest.raises(UserError, match="is not such an autoencoder"):
            convert_video_autoencoder(tmp_path / "a.safetensors", tmp_path / "c.ckpt", from_vae2d)


@pytest.mark.parametrize(
    ("names", "network"),
    [
        (["spatial_blocks.0.a", "temporal_blocks.0.a", "fps_embedder.mlp.0.bias"], "STDiT3"),
        (["module.blocks.0.attn_temp.a", "module.t_block_temp.1.bias"], "STDiT2"),
        (["blocks.0.attn_temp.a", "x_embedder.a"], "STDiT "),
        (["double_blocks.0.a", "single_blocks.0.a", "img_in.bias"], "MMDiT (Open-Sora"),
        (["transformer_blocks.0.a", "single_transformer_blocks.0.a", "x_embedder.bias"], "MMDiT in the layout"),
        (["encoder.stages.0.op_list.0.a", "decoder.stages.0.op_list.0.a"], "DC-AE"),
        (["encoder.down_blocks.0.a", "decoder.up_blocks.0.a"], "AutoencoderKL"),
    ],
)
def test_the_network_is_guessed_from_its_names(names, network):
    assert guess_network(as_tensor_file(dict.fromkeys(names, np.zeros(1))), SIGNATURES).startswith(network)
