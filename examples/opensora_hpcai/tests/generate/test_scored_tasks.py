"""Tasks of the toy world through tiny networks with random weights: every case is made and looked at."""

import json
from dataclasses import fields

import pytest

from opensora.config import ScoreConfig
from opensora.config.toy import ScoredConditions
from opensora.toy.score import score_videos


@pytest.mark.parametrize(
    ("version", "task", "frames", "criteria"),
    [("v1.1", "i2v", 8, 4), ("v1.2", "loop", 34, 4), ("v2.0", "extend", 41, 2), ("v2.0", "i2v_loop", 5, 1)],
)
def test_a_task_is_scored_from_prompts_to_criteria(version, task, frames, criteria, settings, tmp_path, capsys):
    config = settings(version=version, image_size=[32, 32], num_frames=frames, captions=None, batch_size=2)
    groups = {field.name: getattr(config, field.name) for field in fields(config)}
    scored = ScoreConfig(**{**groups, "conditions": ScoredConditions(task=task)})
    scored.score.num_cases, scored.score.json = 2, tmp_path / "score.json"
    score_videos(scored)
    written = json.loads(scored.score.json.read_text())
    assert (written["cases"], len(written["criteria"])) == (2, criteria)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("criterion")]
    assert len(said) == criteria
    assert len(list((tmp_path / "samples").glob("*.mp4"))) == 2
