import pytest

from mindone.errors import UserError
from opensora.text.loops import check_loops, merge_loops, split_loops, split_settings, text_of_loop


@pytest.mark.golden("data_v12_mask_strategy_prompts")
def test_prompts_are_taken_apart_as_in_1_2(golden_case):
    sidecar = golden_case.sidecar
    for prompt, text, path, strategy in sidecar["json_suffix"]["rows"]:
        found, settings = split_settings(prompt)
        assert (found, settings.get("reference_path", ""), settings.get("mask_strategy", "")) == (text, path, strategy)
    for prompt, segments, starts, merged in sidecar["split_merge"]["rows"]:
        assert split_loops(prompt) == (segments, starts)
        assert merge_loops(segments, starts) == merged
    for prompt, loop, expected in sidecar["loop_text"]["rows"]:
        assert text_of_loop(prompt, loop) == expected


@pytest.mark.golden("data_v11_mask_strategy_prompts")
def test_prompts_are_taken_apart_as_in_1_1(golden_case):
    sidecar = golden_case.sidecar
    for prompt, text, settings in sidecar["json_suffix"]["rows"]:
        assert split_settings(prompt) == (text, settings)
    for prompt, loops, expected in sidecar["prompt_loops"]["rows"]:
        text, _ = split_settings(prompt)
        if isinstance(expected, dict):
            with pytest.raises(UserError, match="loop"):
                check_loops(text, loops)
            continue
        check_loops(text, loops)
        assert len(expected) == loops


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ('a cat{"reference_path": }', "not JSON"),
        ('a cat{"reference": "a.png"}', "have reference"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(prompt, message):
    with pytest.raises(UserError, match=message):
        split_settings(prompt)


def test_loops_have_to_rise():
    with pytest.raises(UserError, match="have to rise"):
        split_loops("|0|a|2|b|1|c")
