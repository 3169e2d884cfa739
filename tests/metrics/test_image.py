import numpy as np
import pytest

from mindone.errors import UserError
from mindone.metrics.image import psnr, ssim


@pytest.mark.golden("metric_psnr_ssim")
def test_scores_are_those_of_the_original(golden_case):
    inputs, outputs = golden_case.inputs, golden_case.outputs
    limit = golden_case.sidecar["tolerance"]["outputs_atol_over_max"]
    for kind, names in (("rgb", ("videos1", "videos2")), ("gray", ("gray1", "gray2"))):
        first, second = (inputs[name] for name in names)
        for name, each in (("psnr", psnr(first, second)), ("ssim", ssim(first, second))):
            found = {
                f"{name}_each": each,
                f"{name}_per_frame_time": each.mean(0),
                f"{name}_std": each.std(0),
                name: each.mean(0).mean(),
            }
            for key, value in found.items():
                expected = outputs[f"{kind}/{key}"]
                assert np.abs(value - expected).max() <= limit * np.abs(expected).max() + 1e-8, (kind, key)


def test_identical_pictures_score_highest():
    x = np.random.default_rng(0).random((2, 3, 16, 16))
    assert (psnr(x, x) == 100).all()
    assert ssim(x, x) == pytest.approx(1)


def test_pictures_smaller_than_the_window_are_refused():
    with pytest.raises(UserError, match="at least 11 pixels"):
        ssim(np.zeros((3, 8, 16)), np.zeros((3, 8, 16)))
