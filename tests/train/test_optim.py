"""AdamW against PyTorch's numbers, and what all optimizers promise."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindone.errors import UserError
from mindone.testing import golden
from mindone.train.optim import OPTIMIZER_NAMES, AdamW, Optimizer, make_optimizer
from mindone.train.optim.make import ADAMW_NAMES, spares

STARTS = ([[1.0, -2.0], [0.5, 0.25]], [0.75, -0.125])
GRADIENTS = (
    ([[0.5, -1e-3], [3.0, 0.0]], [2.0, -0.25]),
    ([[-0.25, 2e-3], [1e-4, 1.0]], [-1.0, 0.5]),
    ([[1.5, -4.0], [0.0, -2e-2]], [0.125, 8.0]),
)
# torch.optim.AdamW(lr=0.1, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.2) after each of the three updates
EXPECTED = (
    ([[0.8801996, -1.9100001], [0.39003333, 0.245]], [0.63505, -0.022898413]),
    ([[0.83582693, -1.8941252], [0.31439775, 0.1667065]], [0.5955292, -0.05868684]),
    ([[0.75341976, -1.7939622], [0.25500134, 0.10721314]], [0.5590188, -0.121603]),
)


@pytest.fixture(autouse=True)
def graph_mode():
    golden.use_mode("graph")


def parameters() -> list[Parameter]:
    return [Parameter(Tensor(np.array(start, np.float32)), name=f"p{i}") for i, start in enumerate(STARTS)]


def tensors(arrays) -> tuple[Tensor, ...]:
    return tuple(Tensor(np.array(array, np.float32)) for array in arrays)


def update(optimizer: Optimizer, gradients, apply: bool = True, scale: float = 1.0) -> None:
    optimizer(ms.mutable(tensors(gradients)), Tensor(0.1, ms.float32), Tensor(scale, ms.float32), Tensor(apply))


def test_updates_have_the_numbers_of_pytorch(mode):
    trained = parameters()
    optimizer = AdamW(trained, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.2)
    for gradients, expected in zip(GRADIENTS, EXPECTED):
        update(optimizer, gradients)
        for parameter, values in zip(trained, expected):
            np.testing.assert_allclose(parameter.asnumpy(), np.array(values, np.float32), rtol=2e-6)


def test_published_settings_agree_with_the_formula_in_float64_over_many_updates():
    rng = np.random.default_rng(0)
    trained = parameters()
    optimizer = AdamW(trained, eps=1e-15, weight_decay=1e-2)
    exact = [np.array(start) for start in STARTS]
    m, v = [np.zeros_like(p) for p in exact], [np.zeros_like(p) for p in exact]
    for t in range(1, 101):
        gradients = [(rng.normal(size=p.shape) * 10 ** rng.uniform(-6, 2)).astype(np.float32) for p in exact]
        update(optimizer, gradients)
        for i, g in enumerate(gradients):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g.astype(np.float64) ** 2
            direction = m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-15)
            exact[i] = exact[i] - 0.1 * (direction + 1e-2 * exact[i])
    for parameter, values in zip(trained, exact):
        np.testing.assert_allclose(parameter.asnumpy(), values, rtol=1e-5, atol=1e-5)


DIFFERENT = [name for name in OPTIMIZER_NAMES if name not in ADAMW_NAMES[1:]]


def arrays(optimizer: Optimizer) -> list[np.ndarray]:
    """Copies of all that an update changes."""
    return [parameter.asnumpy().copy() for parameter in (*optimizer.parameters, *optimizer.state().values())]


@pytest.mark.parametrize("name", DIFFERENT)
def test_an_update_that_is_left_out_changes_nothing_even_with_nan_gradients(name):
    optimizer = make_optimizer(name, parameters(), weight_decay=0.2)
    nan = [np.full(np.shape(g), np.nan) for g in GRADIENTS[1]]
    for gradients, apply in ((nan, False), (GRADIENTS[0], True), (nan, False)):
        before = arrays(optimizer)
        update(optimizer, gradients, apply=apply, scale=float(apply))
        assert all(np.array_equal(a, b) for a, b in zip(before, arrays(optimizer))) == (not apply)


@pytest.mark.parametrize("name", DIFFERENT)
def test_an_optimizer_goes_on_from_its_state_bit_by_bit(name):
    through = make_optimizer(name, parameters(), weight_decay=0.2)
    update(through, GRADIENTS[0])
    resumed = make_optimizer(name, parameters(), weight_decay=0.2)
    for own, saved in zip((*resumed.parameters, *resumed.states), arrays(through)):
        own.set_data(Tensor(saved))
    for gradients in GRADIENTS[1:]:
        update(through, gradients)
        update(resumed, gradients)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(through), arrays(resumed)))


def test_an_unknown_optimizer_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match="optim=adagrad is not known; use one of adamw, .*lion"):
        make_optimizer("adagrad", parameters())


def test_group_strategies_spare_biases_and_norms_or_whatever_is_no_matrix():
    shapes = {"mlp.weight": (2, 2), "mlp.bias": (2,), "q_norm.weight": (2,), "table": (2,), "norm.scale": (2,)}
    trained = [Parameter(Tensor(np.zeros(shape, np.float32)), name=name) for name, shape in shapes.items()]
    spared = {strategy: [p.name for p in trained if spares(strategy, p)] for strategy in ("norm_and_bias", "unclip")}
    assert spared == {"norm_and_bias": ["mlp.bias", "q_norm.weight", "norm.scale"], "unclip": [*shapes][1:]}
    assert not any(spares(strategy, parameter) for strategy in (None, "not_grouping") for parameter in trained)


def test_weight_decay_spares_the_parameters_that_are_to_be_spared():
    trained = parameters()
    optimizer = AdamW(trained, weight_decay=0.5, decays=lambda parameter: parameter.name != "p1")
    update(optimizer, [np.zeros(np.shape(g)) for g in GRADIENTS[0]])
    np.testing.assert_allclose(trained[0].asnumpy(), np.array(STARTS[0], np.float32) * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(trained[1].asnumpy(), np.array(STARTS[1], np.float32))


def test_state_has_a_name_for_everything_needed_to_continue():
    assert list(AdamW(parameters()).state()) == ["exp_avg.p0", "exp_avg.p1", "exp_avg_sq.p0", "exp_avg_sq.p1", "step"]
