"""Learning rates by update."""

import math

import numpy as np
import pytest

from mindone.errors import UserError
from mindone.testing.golden import GoldenCase
from mindone.train.schedule import SCHEDULERS, make_schedule


def rates(name, steps, **settings):
    schedule = make_schedule(name, 1.0, 0.1, **settings)
    return [schedule(step) for step in steps]


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if not name.startswith("linear_warmup")])
def test_every_schedule_warms_up_linearly_to_its_full_rate(name):
    assert rates(name, range(5), warmup_steps=4, decay_steps=100) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_constant_stays():
    assert rates("constant", [0, 10, 10_000]) == [1.0, 1.0, 1.0]


def test_cosine_decay_ends_at_the_end_rate_and_stays_there():
    found = rates("cosine_decay", [10, 35, 60, 110, 999], warmup_steps=10, decay_steps=100)
    quarter = 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    assert found == pytest.approx([1.0, quarter, 0.55, 0.1, 0.1])


def test_polynomial_decay_is_linear_unless_told_otherwise():
    assert rates("polynomial_decay", [0, 50, 100], decay_steps=100) == pytest.approx([1.0, 0.55, 0.1])
    assert rates("polynomial_decay", [50], decay_steps=100, power=2.0) == pytest.approx([0.325])


def test_multi_step_decay_falls_at_its_milestones_and_not_below_the_end_rate():
    found = rates("multi_step_decay", [49, 50, 75], decay_steps=100, milestones=(0.5, 0.75), gamma=0.2)
    assert found == pytest.approx([1.0, 0.2, 0.1])


def test_warm_restarts_begin_each_cycle_at_the_full_rate():
    found = rates("cosine_annealing_warm_restarts_lr", [0, 25, 50, 75, 100], decay_steps=100, cycles=2)
    assert found == pytest.approx([1.0, 0.55, 1.0, 0.55, 0.1])


def test_decay_takes_all_updates_after_the_warm_up_unless_told_otherwise():
    found = rates("polynomial_decay", [20, 60, 100], warmup_steps=20, total_steps=100)
    assert found == pytest.approx([1.0, 0.55, 0.1])


def test_no_room_for_decay_is_an_error_that_says_so():
    with pytest.raises(UserError, match="warmup_steps=1000 leaves none of the 200 updates"):
        make_schedule("cosine_decay", 1.0, warmup_steps=1000, total_steps=200)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UserError, match="scheduler=linear is not known; use one of constant, cosine_decay"):
        make_schedule("linear", 1.0)


def scheduler_of(variant: str, settings: dict) -> tuple[str, dict]:
    """Ours for a variant of the reference run."""
    initial = settings.get("initial_lr", 0.0)
    if variant.startswith("linear_v13"):
        return "linear_warmup_v1_3", {"initial_lr": initial}
    if variant.startswith("linear_"):
        return "linear_warmup", {"initial_lr": initial}
    return "cosine_decay", {"end_lr": settings.get("eta_min", 0.0), "total_steps": settings["total_steps"]}


@pytest.mark.golden("optim_lr_schedules")
def test_rates_are_those_of_the_originals(golden_case: GoldenCase):
    for variant, settings in golden_case.sidecar["variants"].items():
        name, own = scheduler_of(variant, settings)
        own["warmup_steps"] = settings.get("warmup_steps", 0)
        schedules = [make_schedule(name, base, **own) for base in golden_case.sidecar["base_lr"]]
        updates = range(len(golden_case.outputs[variant]))
        golden_case.check_outputs(variant, np.array([[rate(update) for rate in schedules] for update in updates]))
