"""DiT, Latte and PixArt, the older denoisers of 1.0, against the numbers of the originals."""

import numpy as np
import pytest
from mindspore import Tensor

from mindone.errors import UserError
from mindone.testing.golden import as_tensor
from opensora.models.dit import DIT_PRESETS, DiT, DiTConfig
from opensora.models.pixart import PIXART_PRESETS, PixArt, PixArtConfig

SMALL = {"hidden_size": 24, "depth": 2, "num_heads": 2, "caption_channels": 8, "model_max_length": 4}


def dit_of(case):
    return case.load_into(DiT(DiTConfig(**case.args, axial=case.sidecar["class"] == "Latte")))


def pixart_of(case):
    return case.load_into(PixArt(PixArtConfig(**case.args, multi_scale=case.sidecar["class"] == "PixArtMS")))


@pytest.mark.golden("v10_dit_", "v10_latte_")
def test_dit_and_latte_match_the_original(golden_case, mode):
    golden_case.check_network(dit_of(golden_case), golden_case.input_tensors(("x", "t", "y")))


@pytest.mark.golden("v10_dit_", "v10_latte_")
def test_conditions_are_dropped_as_in_the_original(golden_case, mode):
    embedder = dit_of(golden_case).y_embedder
    for kind, name in (("label", "labels_drop"), ("caption", "caption_drop")):
        if name in golden_case.inputs:
            found = embedder(*golden_case.input_tensors((name, "force_drop_ids")))
            golden_case.check_outputs(f"{kind}_embedding_dropped", found)


@pytest.mark.golden("v10_dit_", "v10_latte_")
def test_positions_of_dit_are_the_stored_tables_of_the_original(golden_case):
    network = dit_of(golden_case)
    grid = network.x_embedder.grid(golden_case.inputs["x"].shape[2:])
    for name, table in zip(("pos_embed_spatial", "pos_embed_temporal"), network.positions(grid)):
        np.testing.assert_allclose(table.asnumpy(), golden_case.weights[name][0], rtol=0, atol=1e-6)


@pytest.mark.golden("v10_pixart")
def test_pixart_matches_the_original(golden_case, mode):
    network = pixart_of(golden_case)
    inputs = golden_case.input_tensors(("x", "timestep", "y", "mask"))
    if network.config.multi_scale:
        size, ratio = golden_case.inputs["data_info_hw"], golden_case.inputs["data_info_ar"]
        inputs += [as_tensor(array) for array in (size[:, 0], size[:, 1], ratio[:, 0])]
    golden_case.check_network(network, inputs)


@pytest.mark.golden("v10_pixart")
def test_positions_of_pixart_are_those_of_the_original(golden_case):
    network = pixart_of(golden_case)
    grid = network.x_embedder.grid(golden_case.inputs["x"].shape[2:])
    expected = golden_case.outputs.get("pos_embed_ms", golden_case.weights["pos_embed"])
    np.testing.assert_allclose(network.positions(grid)[0].asnumpy(), expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [*DIT_PRESETS, *PIXART_PRESETS])
def test_published_sizes_are_xl_2(name):
    config = (DIT_PRESETS | PIXART_PRESETS)[name]
    assert (config.hidden_size, config.depth, config.num_heads) == (1152, 28, 16)
    assert config.patch_size == ((2, 2, 2) if name.endswith("2x2") else (1, 2, 2))


def test_a_class_model_without_dropout_has_no_null_class():
    table = DiT(DiTConfig(**SMALL, condition="label_5", class_dropout_prob=0.0)).y_embedder.embedding_table
    assert table.weight.shape == (5, 24)


def test_fresh_networks_predict_nothing_and_do_not_depend_on_conditions():
    network = DiT(DiTConfig(**SMALL, condition="label_5"))
    x = Tensor(np.random.default_rng(0).normal(size=(2, 4, 2, 4, 4)).astype(np.float32))
    assert not network(x, Tensor([3, 900]), Tensor([0, 5])).asnumpy().any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DiTConfig(**SMALL, condition="label_many"), "label_N for N classes"),
        (lambda: DiTConfig(**{**SMALL, "num_heads": 5}), "num_heads"),
        (lambda: PixArtConfig(**SMALL, freeze="not_temporal"), "temporal"),
        (lambda: PixArtConfig(**{**SMALL, "hidden_size": 32}, multi_scale=True), "divisible by 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
