"""Step caches from the settings to the files: what is refused, what is recorded, what is measured once."""

import json

import numpy as np
import pytest
from generate_inputs import PROMPTS

from mindone.errors import UserError
from opensora.generate import calibrate
from opensora.generate.calibrate import Measured, candidates, choose, table
from opensora.generate.run import generate

TEACACHE = {"step_cache": "teacache", "teacache_coefficients": [1, 0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_cache": "pab", "enable_sequence_parallelism": True}, "where ranks share a video"),
        ({"step_cache": "teacache", "guidance_parallel": True}, "where ranks share a video"),
        ({"step_cache": "teacache", "pre_patchify": True, "version": "v1.1"}, "rows of patches"),
        ({"step_cache": "pab", "version": "v2.0"}, "version 2.0 does not have"),
        ({"step_cache": "teacache", "max_lpips": 0.05}, "weights of AlexNet"),
        ({"step_cache": "pab", "max_lpips": 0.05, "lpips_random": True}, "calibrates teacache"),
        ({"step_cache": "pab", "cross_threshold": [900, 400]}, "the smaller one first"),
    ],
)
def test_what_cannot_go_together_is_refused_in_one_sentence(settings, changes, message):
    with pytest.raises(UserError, match=message):
        generate(settings(captions=PROMPTS[:1], **changes))


def test_a_threshold_is_measured_once_and_recorded_beside_the_videos(settings, tmp_path, monkeypatch, caplog):
    wanted = {**TEACACHE, "max_lpips": 1e6, "lpips_random": True, "sampling_steps": 4, "num_frames": 1}
    wanted |= {"captions": PROMPTS[:1], "image_size": [64, 64]}
    (first,) = generate(settings(**wanted))
    kept = json.loads((tmp_path / "samples" / calibrate.KEPT).read_text())
    (rows,) = kept.values()
    fastest = min(rows, key=lambda row: row["computed"])
    assert rows[0]["computed"] == 4 > fastest["computed"]
    record = json.loads(first.video.with_suffix(".json").read_text())
    assert record["settings"]["cache"]["rel_l1_thresh"] == fastest["threshold"]
    assert record["made_from"]["cache"]["step_cache"] == "teacache"
    monkeypatch.setattr(calibrate, "measure", lambda plan: pytest.fail("it was measured already"))
    (again,) = generate(settings(**wanted))
    assert again.video == first.video
    assert again.latents is None


def test_the_fastest_threshold_within_the_distance_is_taken_and_none_if_all_are_beyond():
    rows = [Measured(0.0, 30, 30, 1, 0.0), Measured(0.1, 20, 30, 1, 0.03), Measured(0.2, 12, 30, 1, 0.08)]
    assert choose(rows, 0.05) == 0.1
    assert choose(rows, 0.1) == 0.2
    assert choose(rows[1:], 0.01) == 0.0
    assert "1.50x" in table(rows, 0.1).splitlines()[2]
    assert table(rows, 0.1).splitlines()[2].endswith("<-")


def test_candidates_cover_few_and_many_computed_steps():
    from mindone.diffusion.step_cache import TeaCache

    rule = TeaCache(0.0, (1.0, 0.0))
    found = candidates(rule, np.random.default_rng(0).uniform(0.01, 0.1, (2, 29)))
    assert found == sorted(set(found))
    assert len(found) >= 4
    changes = [0.05] * 29
    computed = [sum(TeaCache(threshold, (1.0, 0.0)).schedule(changes)[0]) for threshold in (found[0], found[-1])]
    assert computed[0] > 2 * computed[1]


def test_a_measurement_of_something_else_is_refused(tmp_path):
    file = tmp_path / calibrate.KEPT
    file.write_text('{"a": [{"other": 1}]}')
    with pytest.raises(UserError, match="remove it"):
        calibrate.read_kept(file)
