"""Autoencoders by name, from folders and from files with older names, and what they have in common."""

import math
import re

import numpy as np
import pytest

from mindone import runtime
from mindone.checkpoint import network_tensors, save_model, save_safetensors
from mindone.errors import UserError
from mindone.testing import golden
from opensora.models.autoencoder import Autoencoder
from opensora.networks import AUTOENCODER_KINDS, AUTOENCODERS, autoencoder_config, build_autoencoder, load_autoencoder

IMAGE = {"block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2}
IMAGE = {**IMAGE, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
STAGES = {"width_list": (4, 32), "depth_list": (1, 1), "block_type": ("ResBlock", "EViTS5_GLU")}
TINY = {
    "2d": {"autoencoder_kl": IMAGE},
    "pipeline": {
        "autoencoder_kl": IMAGE,
        "vae_temporal": {
            "filters": 4,
            "num_res_blocks": 1,
            "channel_multipliers": (1, 2),
            "temporal_downsample": (True,),
            "num_groups": 2,
        },
    },
    "flux": {"ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1, "z_channels": 4},
    "hunyuan": {
        "latent_channels": 2,
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "time_compression_ratio": 2,
        "spatial_compression_ratio": 2,
    },
    "raw": {},
    "vqvae": {"vqvae": {"embedding_dim": 4, "n_codes": 8, "n_hiddens": 8, "n_res_layers": 1, "resolution": 8}},
    "dc-ae": {
        "latent_channels": 4,
        "time_compression_ratio": 2,
        "spatial_compression_ratio": 2,
        "encoder": {**STAGES, "temporal_downsample": (True, False)},
        "decoder": {**STAGES, "temporal_upsample": (True, False)},
    },
}
# Exact numbers, published or counted once from the published sizes.
SIZES = {
    "SD-VAE": 83_653_863,
    "SDXL-VAE": 83_653_863,
    "OpenSora-VAE-v1.2": 83_653_863 + 309_687_144,
    "Flux-AE": 83_819_683,
    "Hunyuan-VAE": 246_478_803,
    "Video-DC-AE": 459_462_147,
    "raw": 0,
    "VQ-VAE": 22_202_829,
}
# Videos that are no multiple of what the autoencoder compresses, where it takes such.
VIDEOS = {"dc-ae": (4, 8, 6), "vqvae": (4, 8, 8)}


@pytest.fixture(autouse=True)
def pynative():
    golden.use_mode("pynative")


def tiny(kind: str):
    name = next(name for name, (other, _) in AUTOENCODERS.items() if other == kind)
    return build_autoencoder(type(autoencoder_config(name)).from_dict(TINY[kind]))


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_published_sizes_need_no_memory_and_have_the_published_number_of_parameters(name):
    with runtime.lazy_parameters():
        autoencoder = build_autoencoder(autoencoder_config(name))
    parameters = {n: p for n, p in autoencoder.parameters_and_names() if n not in ("shift", "scale")}
    # But for the counts of batches that norms have seen, eight bytes each.
    assert all(p.has_init for n, p in parameters.items() if not n.endswith("batches_tracked"))
    assert sum(math.prod(parameter.shape) for parameter in parameters.values()) == SIZES[name]


@pytest.mark.parametrize("kind", AUTOENCODER_KINDS)
def test_a_folder_gives_the_same_autoencoder_again(kind, tmp_path):
    autoencoder = tiny(kind)
    save_model(tmp_path, autoencoder, autoencoder.config.to_dict())
    again = load_autoencoder(tmp_path)
    assert again.config == autoencoder.config
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, *VIDEOS.get(kind, (3, 8, 6)))).astype(np.float32)
    z = autoencoder.encode(x)
    assert isinstance(autoencoder, Autoencoder)
    assert z.shape == (2, autoencoder.latent_channels, *autoencoder.latent_size(x.shape[2:]))
    np.testing.assert_array_equal(again.encode(x).asnumpy(), z.asnumpy())
    assert again.decode(z, x.shape[2]).shape == x.shape


def older(name: str) -> str:
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f".{new}.", f".{old}.")
    return name


@pytest.mark.parametrize("rename", [str, older], ids=["to_q", "query"])
@pytest.mark.parametrize("name,scale", [("SD-VAE", 0.18215), ("SDXL-VAE", 0.13025)])
def test_image_autoencoders_load_under_the_names_of_both_generations(rename, name, scale, tmp_path):
    autoencoder = tiny("2d")
    tensors = {rename(n.removeprefix("module.")): value for n, value in network_tensors(autoencoder).items()}
    assert any(".query." in n for n in tensors) == (rename is older)
    save_safetensors(tmp_path / "model.safetensors", tensors)
    loaded = load_autoencoder(tmp_path, name, autoencoder_kl=autoencoder.config.autoencoder_kl)
    for n, value in network_tensors(autoencoder).items():
        np.testing.assert_array_equal(network_tensors(loaded)[n], value)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 2, 8, 6)).astype(np.float32)
    mean, _ = autoencoder.posterior(x)
    np.testing.assert_allclose(loaded.encode(x).asnumpy(), scale * mean.asnumpy(), rtol=1e-6)
    again, once = loaded.decode(loaded.encode(x)), autoencoder.decode(autoencoder.encode(x))
    np.testing.assert_allclose(again.asnumpy(), once.asnumpy(), atol=1e-5)


def test_the_published_config_of_an_image_autoencoder_brings_its_own_factor(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL", "scaling_factor": 0.13025}')
    assert autoencoder_config(path=tmp_path).scale_factor == 0.13025


def test_the_factor_of_latents_can_be_set_for_image_autoencoders_alone(caplog):
    assert autoencoder_config("SD-VAE", sd_scale_factor=0.13025).scale_factor == 0.13025
    assert autoencoder_config("SD-VAE", sd_scale_factor=None).scale_factor == 0.18215
    assert caplog.messages == []
    for name in ("OpenSora-VAE-v1.2", "Flux-AE", "Hunyuan-VAE", "Video-DC-AE"):
        assert autoencoder_config(name, sd_scale_factor=0.5) == autoencoder_config(name)
    assert len(caplog.messages) == 4
    assert caplog.messages[0] == "sd_scale_factor=0.5 has no effect: an autoencoder of kind pipeline has none"


def test_a_number_of_frames_at_once_has_no_effect_frame_by_frame(caplog):
    assert autoencoder_config("SD-VAE", micro_frame_size=17) == autoencoder_config("SD-VAE")
    assert autoencoder_config("OpenSora-VAE-v1.2", micro_frame_size=34).micro_frame_size == 34
    assert len(caplog.messages) == 1


def test_what_is_not_known_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no autoencoder VQ"):
        autoencoder_config("VQ")
    with pytest.raises(UserError, match="nothing says which autoencoder"):
        autoencoder_config(path=tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "flux"}')
    with pytest.raises(UserError, match=re.escape("kind flux, not Hunyuan-VAE")):
        autoencoder_config("Hunyuan-VAE", tmp_path)
    with pytest.raises(UserError, match="has no tiles"):
        tiny("flux").set_tiling(spatial=True)
