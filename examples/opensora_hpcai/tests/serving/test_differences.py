"""In what two videos differ, from their JSON."""

from serving_world import RECIPE

from mindone.config import parse
from opensora.config import GenerateConfig
from opensora.outputs import plain
from opensora.serving.differences import differences
from opensora.serving.settings import command_line


def record_of(width=96, frames=17, seed=7, references=(), **settings):
    asked = {"captions": ["a red circle"], "seed": seed, "image_size": [64, width], "num_frames": frames, **settings}
    config = parse(GenerateConfig, command_line(RECIPE, asked))
    of_video = {"prompt": config.prompts.captions[0], "seed": seed, "height": 64, "width": width, "num_frames": frames}
    return plain({**of_video, "task": None, "mask_strategy": None, "references": references, "settings": config})


def test_the_same_settings_have_no_differences():
    assert differences(record_of(), record_of()) == []


def test_a_row_names_a_setting_and_both_values():
    assert differences(record_of(sampling_steps=5), record_of(sampling_steps=9, step_cache="teacache")) == [
        ["sampling steps", "5", "9"],
        ["step cache", "none", "teacache"],
    ]


def test_prompt_seed_size_length_and_references_are_those_of_the_video():
    other = record_of(64, 9, 8, ["/data/cat.png"], captions=["a dog"])
    assert differences(record_of(), other) == [
        ["prompt", "a red circle", "a dog"],
        ["seed", "7", "8"],
        ["num frames", "17", "9"],
        ["size", "96x64", "64x64"],
        ["references", "", "cat.png"],
    ]


def test_noise_that_a_search_has_found_is_a_difference_and_that_of_other_videos_of_the_run_is_none():
    found = {**record_of(), "initial_noise": "7,8:0.5"}
    found["settings"]["sampler"]["initial_noise"] = ["7,8:0.5", "7,9:0.5"]
    assert differences(record_of(), found) == [["initial noise", "", "7,8:0.5"]]


def test_how_a_length_was_asked_for_and_where_a_video_was_written_are_no_differences():
    other = record_of(output_path="elsewhere", device_target="CPU", batch_size=2)
    other["settings"]["shape"]["num_frames"] = "2.5sec"
    assert differences(record_of(), other) == []


def test_settings_that_only_one_of_the_files_knows_are_left_out():
    older = record_of(sampling_steps=9)
    del older["settings"]["cache"], older["settings"]["sampler"]["fps"]
    assert differences(record_of(sampling_steps=5, step_cache="pab"), older) == [["sampling steps", "5", "9"]]
