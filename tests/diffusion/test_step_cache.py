"""Which steps reuse results, against the decisions of the originals."""

import numpy as np
import pytest

from mindone.diffusion.step_cache import Broadcast, Forecast, MlpBroadcast, TeaCache, TeaCacheRun
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


def forecast(order, power, at, times=(9.0, 7.0, 4.0, 3.5)):
    """What is expected of a power of time at a time after ``times``."""
    rule = Forecast(order)
    for time in times:
        rule.computed(np.array([time]), np.array([True]))
    latest = np.array(times[::-1][: order + 1]) ** power
    return float(rule.weights(np.array([at]))[:, 0] @ latest)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_forecast_is_exact_for_polynomials_up_to_its_order_and_not_beyond(order):
    for power in range(4):
        exact = forecast(order, power, 2.0) == pytest.approx(2.0**power, rel=1e-5)
        assert exact == (power <= order)


def test_a_forecast_of_order_0_repeats_the_latest_result():
    rule = Forecast(0)
    rule.computed(np.array([9.0, 8.0]), np.array([True, True]))
    np.testing.assert_array_equal(rule.weights(np.array([3.0, 2.0])), [[1, 1]])


def test_samples_forecast_from_the_steps_that_they_computed_and_from_as_many_as_there_are():
    rule = Forecast(1)
    rule.computed(np.array([1.0, 1.0]), np.array([True, True]))
    np.testing.assert_array_equal(rule.weights(np.array([0.8, 0.8])), [[1, 1], [0, 0]])
    rule.computed(np.array([0.8, 0.8]), np.array([True, False]))
    np.testing.assert_allclose(rule.weights(np.array([0.7, 0.7])), [[1.5, 1], [-0.5, 0]], rtol=1e-6)


def test_a_time_that_was_computed_again_counts_once():
    rule = Forecast(1)
    for _ in range(2):
        rule.computed(np.array([0.5]), np.array([True]))
    np.testing.assert_array_equal(rule.weights(np.array([0.4])), [[1], [0]])


def test_without_coefficients_of_the_change_every_step_counts_the_same():
    rule = TeaCache(1.5, (1.0,))
    assert not rule.compares
    assert TeaCache(1.5).compares
    computes, _ = rule.schedule([0.1, 5.0, 0.0, 2.0, 0.3])
    assert computes == [True, False, True, False, True, True]


def test_the_first_steps_compute_in_plans_and_while_sampling():
    rule = TeaCache(2.5, (1.0,), warmup=3)
    expected = [True, True, True, False, False, True, False, True]
    assert rule.schedule([0.0] * 7)[0] == expected
    run = TeaCacheRun(rule, 8)
    assert [bool(run.computes(np.zeros(1))[0]) for _ in range(8)] == expected
