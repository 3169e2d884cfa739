"""Lengths of time in updates, epochs and percent."""

import pytest

from mindone.errors import UserError
from mindone.train.intervals import updates_of


@pytest.mark.parametrize(
    ("text", "updates"),
    [
        (500, 500),
        ("500", 500),
        ("500 steps", 500),
        ("1 update", 1),
        ("2 epochs", 25),
        ("1 epoch", 12),
        ("0.5 epochs", 6),
        ("10%", 100),
        ("29 %", 290),
        ("2.5 percent", 25),
    ],
)
def test_a_length_is_said_in_updates_epochs_or_percent(text, updates):
    assert updates_of(text, "ckpt_save_steps", per_epoch=12.5, total=1000) == updates


def test_a_short_length_is_at_least_one_update():
    assert updates_of("0.1%", "log_interval", per_epoch=0.25, total=10) == 1
    assert updates_of("1 epoch", "log_interval", per_epoch=0.25, total=10) == 1


@pytest.mark.parametrize("text", [0, -1, "0", "0%"])
def test_never_stays_never(text):
    assert updates_of(text, "sample_every", per_epoch=10, total=100) == int(str(text).removesuffix("%"))


@pytest.mark.parametrize("text", ["often", "1.5", "2 weeks", "%", "", "ten%", "1e3", "5 5", "5 s"])
def test_anything_else_is_refused_with_the_setting_and_what_to_use(text):
    with pytest.raises(UserError, match="sample_every=.*use updates"):
        updates_of(text, "sample_every", per_epoch=10, total=100)
