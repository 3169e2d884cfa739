import json

import numpy as np
from mindspore import Tensor, nn

from mindone.testing import golden
from mindone.train.profiler import ProfileUpdates


def updates(folder, count):
    golden.use_mode("graph")
    cell, profile = nn.Dense(8, 8), ProfileUpdates(folder, count)
    for step in range(1, count + 1):
        cell(Tensor(np.ones((2, 8), np.float32)))
        profile(step)
    return profile


def test_the_third_to_fifth_update_are_profiled_as_a_trace(tmp_path, caplog):
    caplog.set_level("INFO")
    assert updates(tmp_path, 7).profiler is None
    (trace,) = tmp_path.glob("*/ASCEND_PROFILER_OUTPUT/trace_view.json")
    assert json.loads(trace.read_text())
    assert f"updates 3 to 5 are profiled in {tmp_path}" in caplog.text


def test_a_run_that_is_too_short_says_so(tmp_path, caplog):
    updates(tmp_path, 2)
    assert "a run of 2 updates has none to profile" in caplog.text and not list(tmp_path.iterdir())
