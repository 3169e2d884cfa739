"""The two kinds of attention blocks of the deep-compression autoencoder."""

import numpy as np
import pytest
from mindspore import Tensor

from mindone.checkpoint import load_into, network_tensors
from mindone.errors import UserError
from mindone.testing import golden
from opensora.models.vae_dc_ae import DCAE, DCAEConfig, LiteMLA, StagesConfig

WIDTH, HEADS = 64, 2
WITHOUT_SUMS = {
    "qkv.conv.weight": (3 * WIDTH, WIDTH, 1, 1, 1),
    "proj.conv.weight": (WIDTH, WIDTH, 1, 1, 1),
    "proj.norm.weight": (WIDTH,),
    "proj.norm.bias": (WIDTH,),
}
WITH_SUMS = {
    **WITHOUT_SUMS,
    "aggreg.0.0.weight": (3 * WIDTH, 1, 5, 5, 5),
    "aggreg.0.1.weight": (3 * WIDTH, 32, 1, 1, 1),
    "proj.conv.weight": (WIDTH, 2 * WIDTH, 1, 1, 1),
}


def attention(scales: tuple[int, ...], seed: int = 0) -> LiteMLA:
    cell, rng = LiteMLA(WIDTH, scales), np.random.default_rng(seed)
    load_into(
        cell, {name: rng.standard_normal(value.shape, np.float32) for name, value in network_tensors(cell).items()}
    )
    return cell.set_train(False)


@pytest.mark.parametrize(("scales", "shapes"), [((), WITHOUT_SUMS), ((5,), WITH_SUMS)])
def test_attention_has_the_published_parameters(scales, shapes):
    cell = LiteMLA(WIDTH, scales)
    assert {name: tuple(parameter.shape) for name, parameter in cell.parameters_and_names()} == shapes


def by_hand(weights, x):
    """Linear attention from its formula, in float64: one head after the other, one query after the other."""
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    tokens = x.astype(np.float64).reshape(WIDTH, -1)
    parts = (weights["qkv.conv.weight"].reshape(3 * WIDTH, WIDTH) @ tokens).reshape(HEADS, 3, 32, -1)
    mixed = np.zeros_like(tokens).reshape(HEADS, 32, -1)
    for head, (q, k, v) in enumerate(parts):
        scores = np.maximum(q, 0).T @ np.maximum(k, 0)
        mixed[head] = (scores @ v.T / (scores.sum(1, keepdims=True) + 1e-15)).T
    out = weights["proj.conv.weight"].reshape(WIDTH, WIDTH) @ mixed.reshape(WIDTH, -1)
    out = out / np.sqrt((out**2).mean(0) + 1e-5)
    out = out * weights["proj.norm.weight"][:, None] + weights["proj.norm.bias"][:, None]
    return out.reshape(x.shape)


def test_attention_without_sums_follows_its_formula(mode):
    cell = attention(())
    x = np.random.default_rng(1).standard_normal((1, WIDTH, 2, 3, 4), np.float32)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy()[0], by_hand(network_tensors(cell), x[0]), atol=2e-4)


def test_sums_whose_part_of_the_projection_is_zero_change_nothing():
    golden.use_mode("pynative")
    cell, wider = attention(()), LiteMLA(WIDTH, (5,))
    weights = {name: np.array(value) for name, value in network_tensors(attention((5,), seed=1)).items()}
    own = {name: np.array(value) for name, value in network_tensors(cell).items()}
    own["proj.conv.weight"] = np.concatenate([own["proj.conv.weight"], np.zeros_like(own["proj.conv.weight"])], 1)
    load_into(wider, {**weights, **own})
    x = Tensor(np.random.default_rng(2).standard_normal((2, WIDTH, 2, 3, 4), np.float32))
    np.testing.assert_allclose(wider(x).asnumpy(), cell(x).asnumpy(), atol=1e-5)


def test_an_autoencoder_with_blocks_without_sums_encodes_and_decodes(mode):
    stages = {"width_list": (4, 32, 32), "depth_list": (1, 1, 1), "block_type": ("ResBlock", "EViT_GLU", "EViTS5_GLU")}
    values = {
        "latent_channels": 4,
        "time_compression_ratio": 2,
        "spatial_compression_ratio": 4,
        "encoder": {**stages, "temporal_downsample": (True, False, False)},
        "decoder": {**stages, "temporal_upsample": (True, False, False)},
    }
    autoencoder = DCAE(DCAEConfig.from_dict(values)).set_train(False)
    sums = [name for name, _ in autoencoder.parameters_and_names() if ".aggreg." in name]
    assert len(sums) == 4 and all(".stages.2." in name for name in sums)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 16, 8)).astype(np.float32)
    z = autoencoder.encode(x)
    assert z.shape == (1, 4, 2, 4, 2)
    video = autoencoder.decode(z, 4).asnumpy()
    assert video.shape == x.shape and np.isfinite(video).all()


def test_other_blocks_are_refused_with_those_that_are_known():
    with pytest.raises(UserError, match="block_type=EViTS3_GLU.*ResBlock, EViT_GLU, EViTS5_GLU"):
        StagesConfig((32,), (1,), ("EViTS3_GLU",), (False,))
