import numpy as np
import pytest

from mindone.errors import UserError
from opensora.conditions.strategies import (
    TASKS,
    Given,
    apply_strategy,
    going_on,
    nearest_point,
    parse_strategy,
    strategy_of_task,
)

GOLDEN = ("data_v11_mask_strategy_prompts", "data_v12_mask_strategy_prompts")


@pytest.mark.golden(*GOLDEN)
def test_strategies_are_read_as_the_original_reads_them(golden_case):
    for text, groups in golden_case.sidecar["parse"]["rows"]:
        assert [list(group) for group in parse_strategy(text)] == groups


def numbered(sample, reference, frames):
    return (1000.0 * sample + 100 * reference + np.arange(frames, dtype=np.float32)).reshape(1, -1, 1, 1)


@pytest.mark.golden(*GOLDEN)
def test_references_stand_where_the_original_puts_them(golden_case):
    for row in golden_case.sidecar["apply"]["rows"]:
        for sample, strategy in enumerate(row["mask_strategy"]):
            frames = row["reference_frames"][sample]
            references = [numbered(sample, r, frames) for r in range(2)] if frames else []
            empty = np.full((1, row["latent_frames"], 1, 1), -1, np.float32)
            groups = parse_strategy(strategy)
            latents, mask = apply_strategy(empty, references, groups, row["loop"], row.get("align"))
            assert latents[0, :, 0, 0].tolist() == row["frames"][sample], (strategy, row)
            np.testing.assert_allclose(mask, row["mask"][sample], rtol=1e-6)
            assert (empty == -1).all()


@pytest.mark.golden("data_v12_mask_strategy_prompts")
def test_starts_are_aligned_and_loops_appended_as_in_the_original(golden_case):
    for value, step, limit, result in golden_case.sidecar["nearest_point"]["rows"]:
        assert nearest_point(value, step, limit) == result, (value, step, limit)
    for before, counts, loop, length, ratio, after, _ in golden_case.sidecar["append_generated"]["rows"]:
        for text, count, expected in zip(before, counts, after):
            groups = going_on(parse_strategy(text), count, loop, length, ratio)
            assert groups == parse_strategy(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "loop 'a' is not a number"),
        ("0,0,0,0,1,0,9", "has 7 numbers"),
        ("0,0,0,0,0", "length 0"),
        ("0,0,0,0,1,1.5", "edit ratio 1.5"),
        ("0,0,0,0,1,nan", "edit ratio nan"),
        ("-1", "loop -1"),
        ("0,-1", "reference -1"),
    ],
)
def test_strategies_that_cannot_be_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_strategy(text)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (Given(0, 2), "wants reference 2, but 1"),
        (Given(0, 0, -5), "4 latent frames, so none can start at -5"),
        (Given(0, 0, 0, 9), "9 latent frames, so none can start at 9"),
    ],
)
def test_what_is_not_there_is_refused(group, message):
    with pytest.raises(UserError, match=message):
        apply_strategy(np.zeros((1, 9, 1, 1)), [np.zeros((1, 4, 1, 1))], [group])


def test_words_stand_for_strategies_that_can_be_applied():
    clips = [numbered(0, r, 8) for r in range(2)]
    empty = np.full((1, 8, 1, 1), -1, np.float32)
    frames = {}
    for task in TASKS:
        latents, mask = apply_strategy(empty, clips, parse_strategy(strategy_of_task(task, 3)))
        frames[task] = (latents[0, :, 0, 0].tolist(), mask.tolist())
    assert frames["i2v"][0] == [0, -1, -1, -1, -1, -1, -1, -1]
    assert frames["interpolate"][0] == [0, -1, -1, -1, -1, -1, -1, 100]
    assert frames["connect"][0] == [5, 6, 7, -1, -1, 100, 101, 102]
    assert frames["extend"][0] == [5, 6, 7, -1, -1, -1, -1, -1]
    assert frames["extend_before"][0] == [-1, -1, -1, -1, -1, 0, 1, 2]
    assert frames["edit"][1][:4] == pytest.approx([0.3, 0.3, 0.3, 1])
    with pytest.raises(UserError, match="task=t2x"):
        strategy_of_task("t2x", 1)
