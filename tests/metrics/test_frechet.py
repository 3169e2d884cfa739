import numpy as np
import pytest

from mindone.errors import UserError
from mindone.metrics.frechet import frechet_distance


@pytest.mark.golden("metric_frechet")
def test_distances_match_the_reference(golden_case):
    for name in sorted({key.split("/")[0] for key in golden_case.outputs}):
        first, second = (golden_case.inputs[f"features_{part}"] for part in name.split("_"))
        distance, mean_term = frechet_distance(first, second)
        golden_case.check_outputs(f"{name}/distance", np.float64(distance))
        golden_case.check_outputs(f"{name}/mean_term", np.float64(mean_term))


def test_a_shift_of_all_features_is_the_squared_length_of_the_shift():
    features = np.random.default_rng(0).normal(size=(50, 4))
    distance, mean_term = frechet_distance(features, features + np.array([1.0, 2.0, 0.0, 0.0]))
    assert distance == pytest.approx(5, abs=1e-6) and mean_term == pytest.approx(5)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), "the first set of features has the shape"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "features of 3 and 2 values"),
        (np.zeros((4, 3)), np.full((4, 3), np.nan), "the second set of features has values that are not finite"),
    ],
)
def test_sets_that_have_no_distance_are_refused(first, second, message):
    with pytest.raises(UserError, match=message):
        frechet_distance(first, second)
