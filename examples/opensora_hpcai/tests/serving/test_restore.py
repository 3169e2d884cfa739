"""From the JSON of a video back to the fields of a page."""

import json

import pytest
from serving_world import MODEL, RECIPE

from mindone.config import parse
from mindone.errors import UserError
from opensora.config import GenerateConfig
from opensora.outputs import plain
from opensora.serving.fields import lengths_of, settings_in, sizes_of, values_of
from opensora.serving.restore import read_record, restored
from opensora.serving.settings import OPEN, command_line

ASKED = {
    "captions": ["a red circle moves left"],
    "negative_prompts": ["text"],
    "image_size": [64, 96],
    "num_frames": "17",
    "seed": 7,
    "sampling_steps": 5,
    "guidance_scale": 2.5,
    "aesthetic_score": 6.5,
    "camera_motion": "zoom in",
}


def record_of(*further):
    config = parse(GenerateConfig, [*command_line(RECIPE, ASKED), *further])
    beside = {"prompt": ASKED["captions"][0], "seed": 7, "height": 64, "width": 96, "task": config.conditions.task}
    return plain({**beside, "settings": config, "references": [], "mask_strategy": None})


def test_a_record_gives_the_settings_that_were_asked_for():
    found = restored(record_of(), {MODEL: RECIPE})
    assert (found.model, found.fixed, found.references) == (MODEL, {}, [])
    assert {name: str(found.settings[name]) for name in ASKED} == {name: str(value) for name, value in ASKED.items()}


def test_restored_settings_survive_the_fields_of_the_page():
    settings = restored(record_of(), {MODEL: RECIPE}).settings
    again = settings_in(dict(zip(OPEN, values_of(settings, OPEN))))
    first, second = (parse(GenerateConfig, command_line(RECIPE, given)) for given in (ASKED, again))
    assert plain(first) == plain(second)


def test_what_no_field_says_is_named():
    found = restored(record_of("--dtype", "fp16", "--vae_dtype", "bf16"), {MODEL: RECIPE})
    assert found.fixed == {"dtype": "fp16", "vae_dtype": "bf16"}
    assert restored({**record_of(), "initial_noise": "7,8:0.5"}, {MODEL: RECIPE}).fixed == {"initial_noise": "7,8:0.5"}


def test_a_file_that_does_not_know_all_settings_is_restored_as_far_as_it_goes():
    record = record_of()
    del record["settings"]["sampler"], record["settings"]["autoencoder"]["vae_dtype"]
    found = restored(record, {MODEL: RECIPE})
    assert (found.model, found.fixed, found.settings["seed"]) == (MODEL, {}, 7)
    assert "sampling_steps" not in found.settings


def test_a_video_of_another_model_has_no_recipe_here():
    assert restored(record_of("--ckpt_path", "elsewhere"), {MODEL: RECIPE}).model is None


def test_a_task_is_restored_as_a_word_and_not_as_what_it_became():
    record = record_of("--task", "i2v", "--reference_path", "/data/cat.png")
    settings = restored({**record, "mask_strategy": "0,0,0,0,1,0"}, {MODEL: RECIPE}).settings
    assert settings["task"] == "i2v" and "mask_strategy" not in settings


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"settings": 3}'])
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="a.json is not the JSON file of a video"):
        read_record(tmp_path / "a.json")


def test_sizes_and_lengths_that_were_trained_are_marked(tmp_path):
    trained = {"sizes": [[64, 64], [32, 48]], "num_frames": [1, 9]}
    (tmp_path / "config.json").write_text(json.dumps({"trained_on": trained}))
    (tmp_path / "recipe.yaml").write_text(f"image_size: [16, 32]\nnum_frames: 17\nckpt_path: {tmp_path}\n")
    recipe = str(tmp_path / "recipe.yaml")
    assert sizes_of(recipe)[1:] == [
        ("32x16 (of the recipe)", "32x16"),
        ("64x64 (trained on)", "64x64"),
        ("48x32 (trained on)", "48x32"),
    ]
    assert lengths_of(recipe)[1:] == [("17 (of the recipe)", "17"), ("1 (trained on)", "1"), ("9 (trained on)", "9")]


@pytest.mark.parametrize(("name", "value"), [("seed", "1.5"), ("guidance_scale", "much"), ("image_size", "64")])
def test_a_field_with_no_number_in_it_is_refused(name, value):
    with pytest.raises(UserError, match=f"{'size' if name == 'image_size' else name}="):
        settings_in({name: value})


def test_empty_fields_are_left_to_the_recipe():
    assert settings_in({"captions": "a cat", "seed": "", "task": None, "num_frames": ""}) == {"captions": ["a cat"]}
