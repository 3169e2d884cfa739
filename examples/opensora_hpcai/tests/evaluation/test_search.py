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
from opensora.noise import InitialNoise, parse_noise
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
        count, given = config.sampler.num_samples, config.sampler.initial_noise
        results = []
        for row, left in enumerate(shown):
            for sample in range(count):
                video = tmp_path / f"{row}-{2 - len(left)}.mp4"
                write_video(video, render(left.pop(0), np.random.default_rng(0)), fps=8)
                video.with_suffix(".json").write_text(json.dumps({"prompt": PROMPTS[row]}))
                noise = parse_noise(given[row * count + sample]) if given else InitialNoise(10 * row + sample)
                results.append(SimpleNamespace(job=SimpleNamespace(noise=noise), video=video))
        assert given is None or (config.output.output_path, config.output.append_timestr) == (str(tmp_path), False)
        return results

    monkeypatch.setattr(run, "generate", generate)
    return tmp_path


@pytest.mark.parametrize(("method", "seeds"), [("best_of_n", [1, 11]), ("zero_order", [0, 10])])
def test_the_best_video_of_every_prompt_is_kept_with_its_settings(made, capsys, method, seeds):
    chosen = search(configured("--captions", *PROMPTS, "--candidates", "2", "--search_method", method))
    assert [(each.noise.seed, round(each.score, 3)) for each in chosen] == list(zip(seeds, [1.0, 0.667]))
    assert [len(each.noise.mixed) for each in chosen] == [int(method == "zero_order")] * 2
    assert sorted(path.name for path in (made / "best").iterdir()) == ["0-1.json", "0-1.mp4", "1-1.json", "1-1.mp4"]
    record = json.loads((made / "search.json").read_text())
    assert len(record["candidates"]) == 4 and record["best_of"]["2"] == pytest.approx((1 + 2 / 3) / 2)
    assert record["search_method"] == method
    assert {each["initial_noise"] for each in record["candidates"]} >= {str(each.noise) for each in chosen}
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
        (["--initial_noise", "7,8:0.5"], "initial_noise is what a search looks for"),
        (["--noise_radius", "1.5"], "noise_radius=1.5 has to be above 0 up to 1"),
        (["--search_method", "zero_order", "--overwrite", "True"], "give another output_path"),
        (["--search_method", "zero_order", "--extend_prompts", "1", "--endpoint", "a", "--model", "b"], "each round"),
        (["--use_vae_decode", "False", "--save_latent", "True"], "a judge looks at videos"),
    ],
)
def test_settings_that_make_no_search_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        configured("--captions", "a red circle moves left", *flags)
