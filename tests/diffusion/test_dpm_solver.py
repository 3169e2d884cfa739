import numpy as np
import pytest

from mindone.diffusion.dpm_solver import DPMSolver
from mindone.diffusion.iddpm import betas_of
from mindone.testing.stand_ins import guided


@pytest.mark.golden("sched_v10_iddpm_sampling")
def test_sampling_matches_the_original(golden_case):
    inputs, told = golden_case.inputs, []
    expected = golden_case.outputs["dpm_solver/model_timesteps"]
    scale = golden_case.sidecar.get("dpm_solver", {}).get("cfg_scale", 4.0)

    def predict(z, t):
        told.append(t[0])
        return guided(z, t, inputs["y_cond"], inputs["y_null"], scale)

    *_, sample = DPMSolver(len(expected)).sample(predict, inputs["z"])
    np.testing.assert_allclose(told, expected, rtol=1e-5)
    reference = golden_case.outputs["dpm_solver/sample"]
    assert np.abs(sample - reference).max() <= 1e-4 * np.abs(reference).max()


@pytest.mark.parametrize("predict_xstart", [False, True])
def test_a_perfect_prediction_leads_to_the_data(predict_xstart):
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 1, 4, 3, 2, 2)).astype(np.float32)
    bar = np.cumprod(1 - betas_of("linear", 1000))
    start = (np.sqrt(bar[-1]) * x + np.sqrt(1 - bar[-1]) * noise).astype(np.float32)
    prediction = x if predict_xstart else noise
    *_, result = DPMSolver(20, predict_xstart=predict_xstart).sample(lambda z, t: prediction, start)
    ends_at = np.sqrt(bar[0]) * x + np.sqrt(1 - bar[0]) * noise
    np.testing.assert_allclose(result, ends_at, atol=1e-3)
