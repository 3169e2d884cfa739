import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mindone.config import parse
from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.config import ScoreConfig
from opensora.generate import run
from opensora.toy import score
from opensora.toy.combinations import Scene, held_out, scenes
from opensora.toy.judge import Verdict, expected
from opensora.toy.score import judge_generated, judge_table, prompts, score_videos
from opensora.toy.world import clip, render, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_dataset(folder, 12, split="all", seed=2)
    return folder


def settings(*argv):
    return parse(ScoreConfig, list(argv))


def test_clips_survive_the_mp4_file_and_are_all_right(dataset, tmp_path, capsys):
    score_videos(settings("--videos", str(dataset), "--json", str(tmp_path / "score.json")))
    written = json.loads((tmp_path / "score.json").read_text())["clips"]
    assert written["count"] == 12 and written["all"] == 1.0 and written["clips"][0]["wrong"] == []
    assert "1.000" in capsys.readouterr().out


def test_shuffled_captions_never_meet_their_own_clip(dataset):
    judged = judge_table(settings("--videos", str(dataset), "--shuffle_captions", "True").score)["shuffled"]
    own = [clip(2, index, "all").caption for index in range(12)]
    assert sorted(text for text, _ in judged) == sorted(own)
    assert all(text != caption for (text, _), caption in zip(judged, own))


def test_prompts_are_balanced_and_keep_seen_and_unseen_apart():
    seen = [expected(text) for text in prompts("train", 100)]
    unseen = [expected(text) for text in prompts("unseen", 24)]
    assert set(seen) == {Verdict(*scene) for scene in scenes("train")}
    assert sorted(unseen) == sorted([Verdict(*scene) for scene in held_out()] * 2)
    assert prompts("train", 100) == prompts("train", 100)


def draw_what_is_asked(config):
    """Stands in for a model that is always right but for red, which it paints blue."""
    folder, results = Path(config.output.output_path), []
    for row, text in enumerate(config.prompts.captions):
        scene = expected(text)._replace(colour="blue") if "red" in text else expected(text)
        video = write_video(folder / f"{row}.mp4", render(Scene(*scene), np.random.default_rng(row)), 8)
        video.with_suffix(".json").write_text(json.dumps({"prompt": text}))
        results.append(SimpleNamespace(video=video))
    return results


def test_prompts_of_pictures_name_no_motion():
    wanted = [expected(text) for text in prompts("train", 20, pictures=True)]
    assert all(each.colour and each.shape and each.direction is None for each in wanted)


def test_generated_videos_are_judged_by_split(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "generate", draw_what_is_asked)
    counts = ["--num_seen", "5", "--num_unseen", "4"]
    score_videos(settings("--image_size", "64", *counts, "--output_path", str(tmp_path)))
    asked = [prompts("train", 5), prompts("unseen", 4)]
    lines = capsys.readouterr().out.splitlines()
    for line, texts in zip(lines[1:3], asked):
        blue = sum("red" in text for text in texts) / len(texts)
        assert line.split()[1:] == [str(len(texts)), f"{1 - blue:.3f}", "1.000", "1.000", f"{1 - blue:.3f}"]


def test_a_users_own_prompts_are_scored_as_one_part(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "generate", draw_what_is_asked)
    captions = ["--captions", "a green circle moves up", "a red square moves up"]
    config = settings("--image_size", "64", "--output_path", str(tmp_path), *captions)
    parts = judge_generated(config)
    assert {name: score.score(judged).all for name, judged in parts.items()} == {"prompts": 0.5}


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--csv", "table.csv"], "give their folder as --videos"),
        (["--image_size", "64", "--save_format", "gif"], "needs mp4"),
        (["--image_size", "64", "--num_seen", "-1"], "num_seen=-1"),
    ],
)
def test_settings_that_cannot_be_scored_are_refused(argv, message):
    with pytest.raises(UserError, match=message):
        settings(*argv)


def test_prompts_without_labels_are_refused_before_anything_is_generated():
    with pytest.raises(UserError, match="no prompt names"):
        judge_generated(settings("--image_size", "64", "--captions", "a dog runs"))
