import cv2
import numpy as np
import pytest

from mindone.errors import UserError
from opensora.toy.judge import Verdict, expected, judge, score
from opensora.toy.world import captions, clip, scenes


@pytest.fixture(scope="module")
def clips():
    return [clip(11, index, "all") for index in range(180)]


def blurred(frames, sigma):
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])


def test_real_clips_are_all_right_and_shuffled_captions_about_chance(clips):
    verdicts = [judge(item.frames) for item in clips]
    assert score((item.caption, verdict) for item, verdict in zip(clips, verdicts)).all >= 0.99
    order = np.random.default_rng(0).permutation(len(clips))
    chance = score((clips[i].caption, verdict) for i, verdict in zip(order, verdicts))
    assert chance.all < 0.06 and chance.colour < 0.30 and chance.shape < 0.45 and chance.direction < 0.35


def test_a_new_colour_is_told_from_the_others(clips):
    verdicts = [judge(clip(11, index, "azure").frames) for index in range(30)]
    assert {verdict.colour for verdict in verdicts} == {"azure"}
    assert "azure" not in {judge(item.frames).colour for item in clips}


def test_a_soft_picture_is_still_judged(clips):
    verdicts = [judge(blurred(item.frames, 1.2)) for item in clips[:90]]
    assert score((item.caption, verdict) for item, verdict in zip(clips, verdicts)).all >= 0.99


def test_every_caption_is_understood():
    for scene in scenes("all"):
        assert {expected(text) for text in captions(scene)} == {Verdict(*scene)}


def test_a_prompt_may_leave_labels_open():
    assert expected("a Green thing moves upwards") == Verdict("green", None, "up")
    assert expected("a red or blue dog") == Verdict(None, None, None)


def test_clips_without_one_clear_shape_are_right_about_nothing():
    noise = np.random.default_rng(0)
    plain = np.full((17, 64, 64, 3), 120, np.uint8)
    assert judge(plain) == Verdict(None, None, None)
    grainy = noise.integers(0, 256, plain.shape, dtype=np.uint8)
    assert judge(grainy) == Verdict(None, None, None)
    two = plain.copy()
    two[:, 8:20, 8:20] = two[:, 40:52, 40:52] = (220, 20, 20)
    assert judge(two) == Verdict(None, None, None)


def test_a_grey_shape_has_no_colour_and_a_jumping_one_no_direction():
    frames = np.full((16, 64, 64, 3), 60, np.uint8)
    for index, frame in enumerate(frames):
        left = 8 if index % 2 else 36
        frame[24:44, left : left + 20] = 180
    assert judge(frames) == Verdict(None, "square", None)


def test_a_slanted_way_has_no_direction():
    frames = np.full((16, 64, 64, 3), 60, np.uint8)
    for index, frame in enumerate(frames):
        frame[6 + index : 26 + index, 6 + index : 26 + index] = (20, 40, 230)
    assert judge(frames) == Verdict("blue", "square", None)


def test_a_score_counts_each_label_and_what_it_was_taken_for():
    pairs = [
        ("a red circle moves left", Verdict("red", "circle", "right")),
        ("a red circle moves left", Verdict("red", None, "left")),
        ("a red thing", Verdict("red", "square", "up")),
        ("a red circle moves left", Verdict("red", "circle", "left")),
    ]
    result = score(pairs)
    assert (result.count, result.colour, result.shape, result.direction, result.all) == (4, 1, 0.75, 0.75, 0.5)
    assert result.confusions == {"left -> right": 1, "circle -> unclear": 1}


def test_prompts_that_name_nothing_have_no_score():
    with pytest.raises(UserError, match="no caption names"):
        score([("a dog", Verdict("red", None, None))])
    with pytest.raises(UserError, match="cannot be judged"):
        judge(np.zeros((64, 64, 3), np.uint8))
