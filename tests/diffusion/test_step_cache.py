"""Which steps reuse results, against the decisions of the originals."""

import numpy as np
import pytest

from mindone.diffusion.step_cache import Broadcast, MlpBroadcast, TeaCache
from mindone.errors import UserError


@pytest.mark.golden("data_v12_pab_schedule")
def test_branches_are_reused_in_the_steps_of_the_original(golden_case):
    defaults = golden_case.sidecar["defaults"]
    for case in golden_case.sidecar["cases"]:
        ranges = dict(zip(("spatial", "temporal", "cross"), case["ranges_spatial_temporal_cross"]))
        for kind, every in ranges.items():
            found = Broadcast(every, tuple(case["threshold"])).reuses(case["timesteps"])
            assert found == [bool(flag) for flag in case[f"reuse_{kind}"]], (case["name"], kind)
        mlp = MlpBroadcast(tuple(case["mlp_keys"]), tuple(defaults["mlp_blocks"]), defaults["skip_count"])
        for name in case:
            if name.startswith("mlp_block_"):
                assert mlp.steps(case["timesteps"], int(name.rpartition("_")[2])) == case[name], (case["name"], name)


@pytest.mark.golden("data_v12_teacache_schedule")
def test_the_network_runs_in_the_steps_of_the_original(golden_case):
    coefficients = tuple(golden_case.sidecar["coefficients"])
    for distance, expected in golden_case.sidecar["polynomial_values"]:
        assert TeaCache(0.1, coefficients).change(distance) == pytest.approx(expected, rel=1e-9)
    for case in golden_case.sidecar["cases"]:
        computes, added = TeaCache(case["threshold"], coefficients).schedule(case["relative_distances"])
        assert computes == [bool(flag) for flag in case["compute"]]
        np.testing.assert_allclose(added, case["accumulated_after_step"], rtol=0, atol=1e-8)
        assert sum(computes) == case["computed_steps"]


def test_the_defaults_are_those_of_1_2():
    assert TeaCache(0.1).change(0.0) == 0.048442624
    assert MlpBroadcast().steps([864, 848, 828, 808], 4) == ["store", "reuse", "reuse", "compute"]
    assert MlpBroadcast().steps([864, 848], 5) == ["compute", "compute"]


@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": 2, "window": (930, 450)}])
def test_a_broadcast_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match="cannot be"):
        Broadcast(**wrong)
