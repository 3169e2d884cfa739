"""The best of several videos: chosen by a judge, kept with its settings, and what more candidates buy."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from mindone.config import parse
from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.config.search import SearchConfig
from opensora.evaluation.search import best_of, right_labels, search
from opensora.generate import run
from opensora.toy.world import Scene, render

PROMPTS = ("a red circle moves left", "a blue square moves up")
ARGUMENTS = ["--image_size", "64", "64", "--judge", "toy", "--allow_random_weights", "True", "--device_target", "CPU"]


def configured(*argv):
    return parse(SearchConfig, [*ARGUMENTS, *argv])


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Of the first prompt the second candidate is right, of the second none is, but one is nearly so."""
    shown = [
        [Scene("green", "square", "up"), Scene("red", "circle", "left")],
        [Scene("red", "circle", "left"), Scene("blue", "square", "down")],
    ]

    def generate(config):
        assert config.sampler.num_samples == 2
        results = []
        for row, scenes in enumerate(shown):
            for sample, scene in enumerate(scenes):
                video = tmp_path / f"{row}-{sample}.mp4"
                write_video(video, render(scene, np.random.default_rng(0)), fps=8)
                video.with_suffix(".json").write_text(json.dumps({"prompt": PROMPTS[row]}))
                results.append(SimpleNamespace(job=SimpleNamespace(row=row, seed=10 * row + sample), video=video))
        return results

    monkeypatch.setattr(run, "generate", generate)
    return tmp_path


def test_the_best_video_of_every_prompt_is_kept_with_its_settings(made, capsys):
    chosen = search(configured("--captions", *PROMPTS, "--candidates", "2"))
    assert [(each.seed, round(each.score, 3)) for each in chosen] == [(1, 1.0), (11, 0.667)]
    assert sorted(path.name for path in (made / "best").iterdir()) == ["0-1.json", "0-1.mp4", "1-1.json", "1-1.mp4"]
    record = json.loads((made / "search.json").read_text())
    assert len(record["candidates"]) == 4 and record["best_of"]["2"] == pytest.approx((1 + 2 / 3) / 2)
    assert "best of" in capsys.readouterr().out


def test_the_expected_best_is_the_mean_over_all_subsets():
    scores = np.random.default_rng(0).random((3, 5)).tolist()
    for number, found in best_of(scores).items():
        subsets = [[max(part) for part in itertools.combinations(row, number)] for row in scores]
        assert found == pytest.approx(np.mean([np.mean(row) for row in subsets]))


def test_a_prompt_that_the_judge_does_not_know_is_refused(made):
    with pytest.raises(UserError, match="names no colour, shape or direction"):
        right_labels(made / "absent.mp4", "a dog in the snow")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--candidates", "1"], "candidates=1 has to be at least 2"),
        (["--num_samples", "3"], "num_samples is what candidates says"),
        (["--judge", "clip"], "give a folder of CLIP as --clip"),
        (["--use_vae_decode", "False", "--save_latent", "True"], "a judge looks at videos"),
    ],
)
def test_settings_that_make_no_search_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        configured("--captions", "a red circle moves left", *flags)
