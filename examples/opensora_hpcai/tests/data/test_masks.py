import random

import numpy as np
import pytest

from mindone.errors import UserError
from opensora.data.masks import MASK_NAMES, MaskGenerator, make_mask

LENGTHS = (1, 2, 3, 4, 5, 8, 16, 30)


class FixedDraws:
    """A generator whose draws are given."""

    def __init__(self, *integers, share=None, uniform=()):
        self.integers_left, self.share, self.numbers = list(integers), share, np.array(uniform)

    def integers(self, low, high):
        value = self.integers_left.pop(0)
        assert low <= value < high
        return value

    def uniform(self, low, high):
        assert low <= self.share <= high
        return self.share

    def random(self, count):
        assert len(self.numbers) == count
        return self.numbers


class PythonDraws:
    """Python's own generator, as the original takes it."""

    def __init__(self, seed):
        self.stream = random.Random(seed)

    def random(self):
        return self.stream.random()

    def integers(self, low, high):
        return self.stream.randint(low, high - 1)


MASK_GENERATORS = pytest.mark.golden("data_v11_mask_generator", "data_v12_mask_generator")


@MASK_GENERATORS
def test_masks_of_given_draws_are_those_of_the_original(golden_case):
    for row in golden_case.sidecar["fixed_draws"]["rows"]:
        integers = row["integer_draws"]
        draws = FixedDraws(
            *(value for *_, value in integers), share=row.get("ratio"), uniform=row.get("uniform_draws", ())
        )
        mask = make_mask(row["name"], row["num_frames"], draws).astype(int).tolist()
        if isinstance(row["mask"], dict):
            # the original fails where there is no room for a quarter; ours generates the whole video
            assert mask == [1] * row["num_frames"]
        else:
            assert mask == row["mask"], row


@MASK_GENERATORS
def test_kinds_are_chosen_by_their_ratios_as_in_the_original(golden_case):
    selection = golden_case.sidecar["selection"]
    generator = MaskGenerator(selection["ratios"])
    for draw, expected in selection["rows"]:
        mask = make_mask(generator.choose(draw), 16, FixedDraws(3, 5))
        assert mask.astype(int).tolist() == expected, draw


@MASK_GENERATORS
def test_a_stream_of_masks_is_that_of_the_original_with_the_same_random_numbers(golden_case):
    seeded = golden_case.sidecar["seeded"]
    generator, draws = MaskGenerator(seeded["ratios"]), PythonDraws(seeded["python_random_seed"])
    for num_frames, expected in seeded["rows"]:
        assert generator(num_frames, draws).astype(int).tolist() == expected


@pytest.mark.parametrize("kind", MASK_NAMES)
@pytest.mark.parametrize("num_frames", LENGTHS)
def test_every_mask_leaves_something_to_generate(kind, num_frames):
    for seed in range(30):
        mask = make_mask(kind, num_frames, np.random.default_rng(seed))
        assert mask.shape == (num_frames,) and mask.dtype == bool and mask.any()


@pytest.mark.parametrize("kind", MASK_NAMES)
def test_a_picture_is_always_generated(kind):
    assert make_mask(kind, 1, np.random.default_rng(0)).tolist() == [True]


@pytest.mark.parametrize("num_frames", [2, 3])
def test_videos_without_a_quarter_are_generated_whole(num_frames):
    for where in ("random", "head", "tail", "head_tail"):
        assert make_mask(f"quarter_{where}", num_frames, np.random.default_rng(0)).all()


@pytest.mark.parametrize(
    ("kind", "draws", "given"),
    [
        ("quarter_random", (3, 14), [14, 15, 16]),
        ("quarter_head", (4,), [0, 1, 2, 3]),
        ("quarter_tail", (2,), [15, 16]),
        ("quarter_head_tail", (2,), [0, 1, 15, 16]),
        ("half_head", (), list(range(8))),
        ("half_tail", (), list(range(9, 17))),
        ("image_random", (6,), [6]),
        ("image_head", (), [0]),
        ("image_tail", (), [16]),
        ("image_head_tail", (), [0, 16]),
        ("intepolate", (1,), [1, 3, 5, 7, 9, 11, 13, 15]),
        ("mask_image_head", (), [0]),
    ],
)
def test_given_frames_follow_from_the_draws(kind, draws, given):
    assert np.flatnonzero(~make_mask(kind, 17, FixedDraws(*draws))).tolist() == given


def test_kinds_come_as_often_as_their_ratios():
    generator = MaskGenerator({"image_head": 0.3, "image_tail": 0.2})
    rng = np.random.default_rng(0)
    masks = np.array([generator(5, rng) for _ in range(4000)])
    assert (~masks[:, 0]).mean() == pytest.approx(0.3, abs=0.03)
    assert (~masks[:, 4]).mean() == pytest.approx(0.2, abs=0.03)
    assert masks.all(1).mean() == pytest.approx(0.5, abs=0.03)


def test_the_kind_is_the_first_whose_running_sum_exceeds_the_draw():
    generator = MaskGenerator({"quarter_random": 0.1, "image_head": 0.2})
    assert [generator.choose(draw) for draw in (0.0, 0.0999, 0.1, 0.2999, 0.31, 0.999)] == [
        "quarter_random",
        "quarter_random",
        "image_head",
        "image_head",
        "identity",
        "identity",
    ]


def test_the_users_ratios_are_not_changed():
    ratios = {"random": 0.5}
    assert MaskGenerator(ratios).ratios == {"random": 0.5, "identity": 0.5}
    assert ratios == {"random": 0.5}


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"random": 0.6, "image_head": 0.5}, "add up to 1.1"),
        ({"identity": 0.5, "random": 0.2}, "add up to 0.7"),
        ({"heads": 0.5}, "heads is not known"),
        ({"random": -0.1}, "between 0 and 1"),
    ],
)
def test_ratios_that_cannot_be_are_refused(ratios, message):
    with pytest.raises(UserError, match=message):
        MaskGenerator(ratios)
