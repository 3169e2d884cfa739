"""Official files of DiT, Latte and PixArt, in small: names, image kernels, stored tables."""

import numpy as np
import pytest

from mindone.checkpoint import network_tensors, save_safetensors
from mindone.errors import UserError
from opensora.models.dit import DiT, DiTConfig
from opensora.models.pixart import PixArt, PixArtConfig
from opensora.models.pretrained import image_model_of, initialize_from_image_model
from opensora.networks import load_denoiser

SMALL = {"hidden_size": 24, "depth": 2, "num_heads": 2}
TEXT = {"caption_channels": 8, "model_max_length": 4}
NETWORKS = {
    "DiT-XL-2-256x256": (DiT, DiTConfig(**SMALL, condition="label_5"), ("pos_embed",)),
    "Latte-XL-2-256x256-ucf101": (
        DiT,
        DiTConfig(**SMALL, condition="label_5", axial=True),
        ("pos_embed", "temp_embed"),
    ),
    "PixArt-XL-2-512x512": (PixArt, PixArtConfig(**SMALL, **TEXT), ("pos_embed",)),
    "PixArt-XL-2-1024-MS": (PixArt, PixArtConfig(**SMALL, **TEXT, multi_scale=True), ("pos_embed",)),
}


def official(folder, name, keep=lambda key: True):
    """The file as it is published, and the values in it by our names."""
    network, config, tables = NETWORKS[name]
    rng = np.random.default_rng(0)
    shapes = {key: value.shape for key, value in network_tensors(network(config)).items()}
    values = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items() if keep(key)}
    stored = {key: value[:, :, 0] if key == "x_embedder.proj.weight" else value for key, value in values.items()}
    stored |= {table: np.zeros((1, 16, 24), np.float32) for table in tables}
    path = folder / f"{name}.safetensors"
    save_safetensors(path, {key: np.ascontiguousarray(value) for key, value in stored.items()})
    return path, values


@pytest.mark.parametrize("name", NETWORKS)
def test_an_official_file_loads_as_it_is(tmp_path, name):
    path, values = official(tmp_path, name)
    network = load_denoiser(path, NETWORKS[name][1])
    for key, value in network_tensors(network).items():
        assert np.array_equal(value, values[key]), key


def test_a_network_that_is_told_a_text_starts_from_one_that_is_told_a_class(tmp_path):
    from mindone.checkpoint import read_tensors

    path, values = official(tmp_path, "DiT-XL-2-256x256")
    config = DiTConfig(**SMALL, **TEXT, axial=True)
    assert image_model_of(config, read_tensors(path)).name == "DiT"
    assert image_model_of(NETWORKS["DiT-XL-2-256x256"][1], read_tensors(path)) is None
    network = DiT(config)
    report = initialize_from_image_model(network, path)
    assert all(name.startswith("y_embedder.") for name in report.missing)
    found = network_tensors(network)
    assert np.array_equal(found["blocks.1.adaLN_modulation.1.weight"], values["blocks.1.adaLN_modulation.1.weight"])


def test_a_tensor_that_is_not_there_is_named(tmp_path):
    path, _ = official(tmp_path, "DiT-XL-2-256x256", lambda key: key != "blocks.1.mlp.fc2.bias")
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc2\.bias"):
        load_denoiser(path, NETWORKS["DiT-XL-2-256x256"][1])
