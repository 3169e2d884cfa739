from dataclasses import fields

import pytest

from mindone.config import load
from mindone.errors import UserError
from opensora.config import EmbedVideoConfig, GenerateConfig, TrainConfig
from opensora.config.common import Shape
from opensora.families import MODULES, get_family, settle
from opensora.families.base import PromptRules


@pytest.mark.parametrize("version", MODULES)
def test_a_family_is_found_with_and_without_the_v(version):
    assert get_family(version) is get_family(version[1:])
    assert get_family(version).name == version


def test_an_unknown_version_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"v1\.2"):
        get_family("v7")


@pytest.mark.parametrize("version", MODULES)
@pytest.mark.parametrize("schema", [GenerateConfig, TrainConfig, EmbedVideoConfig])
def test_settings_left_open_take_the_familys_values_and_those_given_stay(version, schema):
    family, config = settle(load(schema, ["--model_max_length", "7"] if schema is TrainConfig else []), version)
    defaults = family.defaults()
    for group in fields(config):
        for name, value in vars(getattr(config, group.name)).items():
            if name in defaults:
                assert value == (7 if (name, schema) == ("model_max_length", TrainConfig) else value)
                assert value is not None, name


def test_prompts_get_their_scores_and_are_cleaned():
    rules = PromptRules(aesthetic_score=6.5, camera_motion="static")
    text = get_family("v1.2").prepare_prompt("A red Circle.", rules)
    assert text == "a red circle. aesthetic score: 6.5. camera motion: static."


def test_sizes_come_from_numbers_or_names():
    family = get_family("v1.2")
    assert family.size(Shape(None, "720p", "9:16", "4s")) == (102, 720, 1280)
    assert family.size(Shape([64, 96], num_frames=17)) == (17, 64, 96)
    assert family.size(Shape(64, num_frames=17)) == (17, 64, 64)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "image_size"),
        ({"image_size": [60, 64]}, "64"),
        ({"image_size": [0, 64]}, "positive"),
        ({"image_size": [64, 64, 64]}, "height width"),
        ({"resolution": "240p"}, "aspect_ratio"),
        ({"resolution": "720p", "aspect_ratio": "7:5"}, "aspect_ratio=7:5"),
        ({"image_size": 64, "num_frames": "5s"}, "num_frames=5s"),
    ],
)
def test_sizes_that_cannot_be_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        get_family("v1.2").size(Shape(**{"num_frames": 17, **given}))


GENERATE = ["--captions", "a red circle", "--image_size", "64"]
TRAIN = ["--csv_path", "a.csv", "--video_folder", "v", "--image_size", "64"]


@pytest.mark.parametrize(
    ("schema", "argv", "message"),
    [
        (
            GenerateConfig,
            [*GENERATE, "--pre_patchify", "True"],
            "pre_patchify=True is not supported by .* v1.2",
        ),
        (GenerateConfig, [*GENERATE, "--sampling", "ddim"], "sampling=ddim is not supported by model_version v1.2"),
        (TrainConfig, [*TRAIN, "--noise_scheduler", "ddpm"], "noise_scheduler=ddpm is not"),
    ],
)
def test_what_a_version_cannot_do_is_refused_with_its_name(schema, argv, message):
    with pytest.raises(UserError, match=message):
        settle(load(schema, argv), "v1.2")


@pytest.mark.parametrize("version", MODULES)
@pytest.mark.parametrize("schema", [GenerateConfig, TrainConfig, EmbedVideoConfig])
def test_defaults_ask_for_nothing_that_a_version_refuses(version, schema):
    settle(load(schema, []), version)
