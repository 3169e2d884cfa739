import numpy as np
import pytest

from mindone.train.band import FIRST, WINDOW, BandWatch, LossBand
from mindone.train.tracker import Record


def warnings_of(caplog, losses, trained=False, band=None):
    band = band or LossBand(2.0)
    watch = BandWatch(band, trained)
    for step, loss in enumerate(losses, 1):
        parts = {band.part: loss} if band.part else {}
        total = 9.0 if band.part else np.float32(loss)
        watch.log(Record(step, 1, total, 1.0, 1e-4, 0.1, parts=parts))
    return [record.getMessage() for record in caplog.records]


def test_weights_that_were_not_loaded_are_noticed_in_the_first_updates(caplog):
    (message,) = warnings_of(caplog, [2.0] * FIRST, trained=True)
    assert "the loss of the first 20 updates is 2, about what a network without training has (2)" in message


@pytest.mark.parametrize(
    ("losses", "trained"), [([0.6] * WINDOW, True), ([2.0] * (WINDOW - 1), False), ([2.0] + [0.7] * WINDOW, True)]
)
def test_nothing_is_said_of_a_loss_that_is_where_it_has_to_be(caplog, losses, trained):
    assert not warnings_of(caplog, losses, trained)


def test_a_network_that_is_worse_than_none_is_noticed_once(caplog):
    (message,) = warnings_of(caplog, [4.0] * 3 * WINDOW)
    assert "is 4, more than a network without training has (2)" in message


def test_the_part_that_is_said_is_compared(caplog):
    assert not warnings_of(caplog, [0.5] * WINDOW, True, LossBand(1.0, "mse"))
    (message,) = warnings_of(caplog, [0.99] * FIRST, True, LossBand(1.0, "mse"))
    assert message.startswith("the mse of the loss")
