"""The 1.2 denoiser against the numbers of the original, its sizes and its options."""

import pytest

from opensora.models.stdit3 import STDiT3, STDiT3Config

INPUTS = ("x", "timestep", "y", "mask", "x_mask", "fps", "height", "width")


@pytest.mark.golden("v12_stdit3_")
def test_velocity_and_gradients_match_the_original(golden_case, mode):
    denoiser = golden_case.load_into(STDiT3(STDiT3Config(**golden_case.args)))
    golden_case.check_network(denoiser, golden_case.input_tensors(INPUTS))
