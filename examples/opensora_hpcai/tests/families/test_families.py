import re
from dataclasses import fields

import pytest

from mindone.config import load
from mindone.errors import UserError
from opensora.config import EmbedVideoConfig, GenerateConfig, TrainConfig
from opensora.config.common import Shape, Text
from opensora.families import MODULES, get_family, settle
from opensora.families.base import PromptRules
from opensora.models.dit import DiT, DiTConfig


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


@pytest.mark.parametrize(
    ("version", "name", "message"),
    [
        ("v1.2", "DiT-XL/2", "model_name=DiT-XL/2 is no network of model_version v1.2; use one of STDiT3-XL/2"),
        ("v1", "STDiT3-XL/2", "use one of DiT-XL/2, DiT-XL/2x2, Latte-XL/2, Latte-XL/2x2, PixArt-XL/2"),
    ],
)
def test_a_network_of_another_version_is_refused(version, name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        settle(load(GenerateConfig, []), version, name)


@pytest.mark.parametrize("setting", ["--dsp", "--enable_sequence_parallelism"])
def test_what_only_stdit_has_is_refused_for_the_other_networks_of_1_0(setting):
    config = load(GenerateConfig, [setting, "True"])
    with pytest.raises(UserError, match="is not supported by Latte-XL/2; leave it out; STDiT has it"):
        settle(config, "v1", "Latte-XL/2")
    assert settle(config, "v1")[0].denoiser_preset == "STDiT-XL/2"


def test_the_other_networks_of_1_0_sample_as_published_if_not_said():
    for name, scale in (("DiT-XL/2", 4.0), ("Latte-XL/2", 4.0), ("PixArt-XL/2", 7.0)):
        sampler = settle(load(GenerateConfig, []), "v1", name)[1].sampler
        assert (sampler.sampling, sampler.sampling_steps, sampler.guidance_scale) == ("dpm-solver", 20, scale)
        assert sampler.guidance_channels is None


def test_classes_are_numbers_below_their_count():
    family = get_family("v1")
    config = DiTConfig(condition="label_5")
    conditioner = family.conditioner(Text(), config)
    assert family.encoders_of(config) == ()
    arrays = conditioner.fit(conditioner.encode(["0", " 4 "]))
    assert arrays["text"].tolist() == [[[0.0]], [[4.0]]] and arrays["text_mask"].tolist() == [[1], [1]]
    for text in ("5", "a cat", "-1", ""):
        with pytest.raises(UserError, match="a number from 0 to 4"):
            conditioner.encode([text])


def test_guidance_needs_a_class_that_stands_for_none():
    config = DiTConfig(hidden_size=8, depth=1, num_heads=2, condition="label_5", class_dropout_prob=0.0)
    settings = settle(load(GenerateConfig, []), "v1", "DiT-XL/2")[1].sampler
    with pytest.raises(UserError, match="use guidance_scale 1"):
        get_family("v1").sampler(DiT(config), settings)
