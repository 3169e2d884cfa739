"""Dropout whose masks follow from seeds."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindone.adapters.dropout import PRIME, SeededDropout, SeededLoss, new_seeds
from mindone.testing import golden


class Sum(nn.Cell):
    """Two dropouts of one input, and the sum of the first one's squares with a weight."""

    def __init__(self, seeds, rate=0.25):
        super().__init__(auto_prefix=False)
        self.weight = Parameter(Tensor(np.ones(40, np.float32)), name="weight")
        self.first, self.second = SeededDropout(rate, 0, seeds), SeededDropout(rate, 1, seeds)

    def construct(self, x):
        first = self.first(x * self.weight)
        return ops.square(first).sum(), (first, self.second(x))


def masks(loss, seeds, x):
    first, second = loss(Tensor(np.array(seeds, np.int32)), Tensor(x))[1]
    return first.asnumpy(), second.asnumpy()


def test_masks_are_functions_of_the_seeds_and_keep_the_mean(mode):
    seeds, x = new_seeds(), np.ones((3, 50, 40), np.float32)
    loss = SeededLoss(Sum(seeds), seeds).set_train(True)
    first, second = masks(loss, (5, 7), x)
    assert {0.0, 4 / 3} == {round(value, 6) for value in np.unique(first)} or np.allclose(np.unique(first), (0, 4 / 3))
    assert abs((first == 0).mean() - 0.25) < 0.02 and abs((second == 0).mean() - 0.25) < 0.02
    assert np.array_equal(first, masks(loss, (5, 7), x)[0])
    for other in (second, masks(loss, (6, 7), x)[0], masks(loss, (5, 8), x)[0]):
        both = ((first == 0) & (other == 0)).mean()
        assert abs(both - 0.25**2) < 0.02, "masks are not independent of each other"


def test_rows_and_columns_are_dropped_independently():
    golden.use_mode("graph")
    seeds = new_seeds()
    loss = SeededLoss(Sum(seeds), seeds).set_train(True)
    kept = masks(loss, (PRIME - 1, 0), np.ones((2000, 40), np.float32))[0] != 0
    for axis in (0, 1):
        correlation = np.corrcoef(kept if axis == 0 else kept.T[:, :1000])
        between = correlation[~np.eye(len(correlation), dtype=bool)]
        assert abs(np.nanmean(between)) < 0.02


def test_gradients_pass_where_values_do(mode):
    seeds = new_seeds()
    network = Sum(seeds)
    loss = SeededLoss(network, seeds).set_train(True)
    run = ms.value_and_grad(loss, None, weights=ms.ParameterTuple([network.weight]), has_aux=True)
    x = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    (_, (first, _)), gradients = run(Tensor(np.array((3, 4), np.int32)), Tensor(x))
    np.testing.assert_allclose(gradients[0].asnumpy(), 2 * np.square(first.asnumpy()).sum(0), rtol=1e-5)


@pytest.mark.parametrize("rate", [0.25])
def test_nothing_is_dropped_outside_of_training(rate, mode):
    seeds, x = new_seeds(), np.ones((4, 40), np.float32)
    loss = SeededLoss(Sum(seeds, rate), seeds).set_train(False)
    assert np.array_equal(masks(loss, (1, 2), x)[0], x)
