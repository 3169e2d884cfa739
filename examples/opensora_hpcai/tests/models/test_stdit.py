"""The 1.0 denoiser against the numbers of the original, its position tables and its options."""

import numpy as np
import pytest

from mindone.errors import UserError
from opensora.models.stdit import STDiT, STDiTConfig

SMALL = {"hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": 8, "model_max_length": 4}


@pytest.mark.golden("v10_stdit_")
def test_noise_and_gradients_match_the_original(golden_case, mode):
    """The first block is recomputed for the gradients, the others are not."""
    denoiser = STDiT(STDiTConfig(**golden_case.args), use_recompute=True, num_recompute_blocks=1)
    golden_case.load_into(denoiser)
    golden_case.check_network(denoiser, golden_case.input_tensors(("x", "timestep", "y", "mask")))


@pytest.mark.golden("v10_stdit_")
def test_positions_are_the_stored_tables_of_the_original(golden_case):
    denoiser = STDiT(STDiTConfig(**golden_case.args))
    grid = denoiser.x_embedder.grid(golden_case.inputs["x"].shape[2:])
    for name, table in zip(("pos_embed", "pos_embed_temporal"), denoiser.positions(grid)):
        expected, limit = golden_case.weights[name][0], golden_case.tolerance["outputs_atol"]
        np.testing.assert_allclose(table.asnumpy(), expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [("not_temporal", {"attn_temp"}), ("text", {"attn", "attn_temp", "mlp", "scale_shift_table"})],
)
def test_what_is_frozen_is_not_trained(freeze, trained):
    names = [parameter.name for parameter in STDiT(STDiTConfig(**SMALL, freeze=freeze)).trainable_params()]
    assert {name.split(".")[2] for name in names if name.startswith("blocks.")} == trained
    assert any(name.startswith("t_block.") for name in names) == (freeze == "text")


def test_text_and_time_start_without_effect():
    weights = dict(STDiT(STDiTConfig(**SMALL)).parameters_and_names())
    zeros = ("blocks.0.cross_attn.proj.weight", "blocks.0.attn_temp.proj.weight", "final_layer.linear.weight")
    assert not any(weights[name].asnumpy().any() for name in zeros)
    assert weights["blocks.0.attn.proj.weight"].asnumpy().any()
    assert weights["t_block.1.weight"].asnumpy().std() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"freeze": "spatial"}, "not_temporal"), ({"num_heads": 3}, "num_heads"), ({"space_scale": 0}, "space_scale")],
)
def test_settings_that_cannot_be_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        STDiTConfig(**{**SMALL, **setting})
