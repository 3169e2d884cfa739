"""The 1.1 denoiser against the numbers of the original, and its options."""

import pytest

from mindone.errors import UserError
from opensora.models.stdit2 import STDiT2, STDiT2Config

INPUTS = ("x", "timestep", "y", "mask", "x_mask", "num_frames", "height", "width", "ar", "fps")
SMALL = {"hidden_size": 24, "depth": 1, "num_heads": 2, "caption_channels": 8, "model_max_length": 4}


@pytest.mark.golden("v11_stdit2_")
def test_noise_and_gradients_match_the_original(golden_case, mode):
    """The first block is recomputed for the gradients, the others are not."""
    denoiser = STDiT2(STDiT2Config(**golden_case.args), use_recompute=True, num_recompute_blocks=1)
    golden_case.load_into(denoiser)
    golden_case.check_network(denoiser, golden_case.input_tensors(INPUTS))


def test_freezing_all_but_time_trains_the_temporal_attentions():
    denoiser = STDiT2(STDiT2Config(**SMALL, freeze="not_temporal"))
    assert {parameter.name.split(".")[2] for parameter in denoiser.trainable_params()} == {"attn_temp"}


def test_text_and_time_start_without_effect():
    weights = dict(STDiT2(STDiT2Config(**SMALL)).parameters_and_names())
    zeros = ("blocks.0.cross_attn.proj.weight", "blocks.0.attn_temp.proj.weight", "final_layer.linear.weight")
    assert not any(weights[name].asnumpy().any() for name in zeros)
    assert weights["blocks.0.scale_shift_table_temporal"].asnumpy().any()
    assert (weights["blocks.0.attn_temp.q_norm.weight"].asnumpy() == 1).all()


@pytest.mark.parametrize(
    ("setting", "message"), [({"hidden_size": 16}, "divisible by 3"), ({"num_heads": 8}, "even number")]
)
def test_sizes_that_do_not_fit_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        STDiT2Config(**{**SMALL, **setting})
