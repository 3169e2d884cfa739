import csv
from types import SimpleNamespace

import mindspore as ms
import pytest
from mindspore import Tensor

from mindone.errors import UserError
from mindone.train.skipped import SkippedUpdates
from mindone.train.step import StepResult

BATCH = SimpleNamespace(indices=(4, 7), positions=(0, 1))


def result(loss, finite, accepted):
    return StepResult(Tensor(loss, ms.float32), Tensor(1.5, ms.float32), Tensor(finite), (), accepted)


def test_a_spike_is_written_down_with_what_it_saw_and_too_many_in_a_row_end_the_run(tmp_path, caplog):
    skipped = SkippedUpdates(tmp_path / "skipped.csv", seed=3, most=2)
    skipped.note(1, result(0.5, True, True), [BATCH], object())
    assert not skipped.path.exists()
    skipped.note(2, result(40.0, True, False), [BATCH], object())
    assert "step 2: loss 40 is a spike, left out; what it saw is in skipped.csv" in caplog.text
    with open(skipped.path, newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["step"], row["seed"], row["samples"], row["epoch_positions"]) == ("2", "3", "4 7", "0 1")
    skipped.note(3, result(0.5, True, True), [BATCH], object())
    skipped.note(4, result(50.0, True, False), [BATCH], object())
    with pytest.raises(UserError, match="the loss was a spike in 2 updates in a row, up to step 5"):
        skipped.note(5, result(60.0, True, False), [BATCH], object())
