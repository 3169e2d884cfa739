"""The 1.0 denoiser against the numbers of the original, its sizes and its options."""

import pytest
from mindspore import nn, ops

from opensora.models.stdit import STDiT, STDiTConfig


class _Loss(nn.Cell):
    """mean(out^2); further result: the output."""

    def __init__(self, denoiser):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser

    def construct(self, *inputs):
        out = self.denoiser(*inputs)
        return ops.square(out).mean(), out


@pytest.mark.golden("v10_stdit_")
def test_noise_and_gradients_match_the_original(golden_case, mode):
    denoiser = golden_case.load_into(STDiT(STDiTConfig(**golden_case.args)))
    inputs = golden_case.input_tensors(("x", "timestep", "y", "mask"))
    (out,) = golden_case.check_loss_and_gradients(denoiser, _Loss(denoiser), inputs)
    golden_case.check_outputs("out", out)
