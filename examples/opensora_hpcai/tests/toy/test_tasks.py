import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mindone.config import parse
from mindone.data.video import read_video
from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.config import ScoreConfig
from opensora.generate import run
from opensora.toy.cases import CLIPS_SEED, Setup, for_task, make_cases
from opensora.toy.judge import expected
from opensora.toy.score import score_videos
from opensora.toy.world import Scene, clip, render

# Nothing is loaded, so that sizes need no model folder.
SIZES = {"image_size": [64, 64], "seed": 1, "fps": 8, "num_frames": 17}


def settings(version, task, *argv, **changes):
    values = {**SIZES, "model_version": version, "task": task, **changes}
    words = []
    for name, value in values.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return parse(ScoreConfig, [*words, *argv])


@pytest.mark.parametrize(
    ("version", "task", "changes", "frames", "places", "joins"),
    [
        ("v1.1", "i2v", {}, 17, [range(1)], ()),
        ("v1.1", "interpolate", {"num_frames": 16}, 16, [range(1), range(15, 16)], ()),
        ("v1.1", "extend", {"num_frames": 16}, 16, [range(8)], (8,)),
        ("v1.1", "extend", {"num_frames": 16, "condition_frame_length": 4}, 16, [range(4)], (4,)),
        ("v1.1", "extend_before", {"num_frames": 16}, 16, [range(8, 16)], (8,)),
        ("v1.1", "connect", {"num_frames": 16}, 16, [range(4), range(12, 16)], (4, 12)),
        ("v1.1", "loop", {"num_frames": 16}, 16, [], (16, 28)),
        ("v1.2", "i2v", {}, 17, [range(1)], ()),
        ("v1.2", "interpolate", {}, 34, [range(1), range(17, 18)], ()),
        ("v1.2", "extend", {}, 34, [range(17)], (17,)),
        ("v1.2", "loop", {"loop": 4}, 34, [], (34, 51, 68)),
        ("v1.2", "connect", {"task_frames": 51}, 51, [range(17), range(34, 51)], (17, 34)),
        ("v2.0", "i2v", {}, 17, [range(1)], ()),
        ("v2.0", "i2v_loop", {}, 17, [range(1), range(16, 17)], ()),
        ("v2.0", "i2v_tail", {}, 17, [range(16, 17)], ()),
        ("v2.0", "extend", {"num_frames": 65}, 65, [range(33)], (33,)),
        ("v2.0", "extend", {}, 49, [range(33)], (33,)),
        ("v2.0", "v2v_tail", {"task_frames": 65}, 65, [range(32, 65)], (32,)),
    ],
)
def test_a_task_gives_frames_where_the_version_puts_them(version, task, changes, frames, places, joins):
    config, setup = for_task(settings(version, task, **changes), changes.get("task_frames"))
    assert setup == Setup((frames, 64, 64), tuple(places), joins)
    assert config.shape.num_frames == frames
    assert (config.conditions.loop > 1) == (task == "loop")


@pytest.mark.parametrize(
    ("version", "task", "changes", "message"),
    [
        ("v1", "i2v", {}, "task=i2v is not supported by model_version v1"),
        ("v1", "loop", {}, "loop=3 is not supported by model_version v1"),
        ("v2.0", "loop", {}, "loop=3 is not supported by model_version v2.0"),
        ("v2.0", "connect", {}, "task=connect is not one of version 2.0"),
        ("v1.2", "i2v_head", {}, "task=i2v_head is one of version 2.0"),
        ("v1.2", "connect", {}, "leaves nothing of 34 frames"),
        ("v1.2", "interpolate", {"task_frames": 17}, "use 34 frames"),
        ("v1.1", "edit", {}, "keeps no frames"),
        ("v1.1", "i2v", {"image_size": [64, 96]}, "are squares, not 64x96"),
    ],
)
def test_what_a_version_cannot_do_is_refused_as_it_says(version, task, changes, message):
    with pytest.raises(UserError, match=message):
        for_task(settings(version, task, **changes), changes.get("task_frames"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--reference_path", "a.png"], "bring their own references"),
        (["--captions", "a red circle"], "bring their own prompts"),
        (["--videos", "folder"], "existing clips have no task"),
        (["--num_cases", "0"], "num_cases=0"),
    ],
)
def test_settings_that_do_not_go_with_a_task_are_refused(argv, message):
    with pytest.raises(UserError, match=message):
        settings("v1.2", "i2v", *argv)


def test_cases_are_real_clips_and_their_files_hold_what_is_given(tmp_path):
    setup = Setup((16, 64, 64), (range(1), range(8, 16)), (8,))
    first, second = make_cases(setup, 2, tmp_path / "references", 8)
    real = clip(CLIPS_SEED, 1, "train", 16, 64)
    assert second.caption == real.caption != first.caption
    picture, part = second.given
    np.testing.assert_array_equal(picture, real.frames[:1])
    assert part.shape == (8, 64, 64, 3) and np.abs(part.astype(float) - real.frames[8:]).mean() < 4
    np.testing.assert_array_equal(read_video(second.files[1]), part)


def stand_in(change):
    """A model that makes the real clip of each case, or a longer one, changed by ``change(frames, index)``."""

    def generate(config):
        folder, results = Path(config.output.output_path), []
        for index, text in enumerate(config.prompts.captions):
            if config.conditions.loop > 1:
                frames = render(Scene(*expected(text)), np.random.default_rng(index), 40)
            else:
                frames, caption, _ = clip(CLIPS_SEED, index, "train", config.shape.num_frames, 64)
                assert text == caption and len(config.conditions.reference_path) == config.score.num_cases
            video = write_video(folder / f"{index}.mp4", change(frames, index), 8)
            results.append(SimpleNamespace(video=video, job=SimpleNamespace(row=index)))
        return results

    return generate


def lines_of(monkeypatch, capsys, tmp_path, task, change, **changes):
    monkeypatch.setattr(run, "generate", stand_in(change))
    values = {"num_frames": 16, "num_cases": 4, "output": tmp_path, "json": tmp_path / "score.json", **changes}
    score_videos(settings("v1.1", task, **values))
    written = json.loads((tmp_path / "score.json").read_text())
    return capsys.readouterr().out.splitlines(), written


@pytest.mark.parametrize("task", ["i2v", "interpolate", "extend", "loop"])
def test_real_clips_meet_every_criterion(task, monkeypatch, capsys, tmp_path):
    lines, written = lines_of(monkeypatch, capsys, tmp_path, task, lambda frames, index: frames)
    said = [line for line in lines if line.startswith("criterion")]
    assert len(said) == {"i2v": 4, "interpolate": 1, "extend": 2, "loop": 4}[task]
    assert all(line.startswith("criterion met") for line in said)
    assert written["cases"] == 4 and all(item["met"] for item in written["criteria"])
    assert not any(clip["wrong"] for clip in written["clips"])


def test_a_first_frame_that_is_another_is_not_kept(monkeypatch, capsys, tmp_path):
    def first_is_grey(frames, index):
        frames[0] = 128 if index == 1 else frames[0]
        return frames

    lines, written = lines_of(monkeypatch, capsys, tmp_path, "i2v", first_is_grey)
    assert [line for line in lines if "given frame kept" in line] == [
        "criterion NOT met: given frame kept, 25 dB or more: 0.750 of 4 cases, 0.85 needed"
    ]
    assert [clip["kept_db"] < 25 for clip in written["clips"]] == [False, True, False, False]


def test_a_jump_at_a_join_is_found_and_only_there(monkeypatch, capsys, tmp_path):
    def jumps(frames, index):
        frames[8 if index < 2 else 12 :] = 255 - frames[8 if index < 2 else 12 :]
        return frames

    lines, _ = lines_of(monkeypatch, capsys, tmp_path, "extend", jumps, needed=0.5)
    shares = [line for line in lines if "join" in line and line.startswith("criterion")]
    assert shares == [
        "criterion met: change at a join at most 1.5 times the largest elsewhere: 0.500 of 4 cases, 0.5 needed"
    ]


def test_prompts_of_long_videos_are_judged(monkeypatch, capsys, tmp_path):
    _, written = lines_of(monkeypatch, capsys, tmp_path, "loop", lambda frames, index: frames[..., ::-1])
    shares = {item["what"]: item["share"] for item in written["criteria"]}
    assert shares["colour as the prompt says"] < 1 == shares["shape as the prompt says"]
