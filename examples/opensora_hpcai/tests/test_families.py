import json

import mindspore as ms
import numpy as np
import pytest

from mindone.checkpoint import save_model
from mindone.errors import UserError
from mindone.testing import golden
from opensora.families import PromptRules, get_family
from opensora.pipelines.outputs import plain

SMALL = {"hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": 8, "model_max_length": 4}


def test_the_denoiser_config_is_the_preset_then_the_folder_then_the_overrides(tmp_path):
    family = get_family("v1.2")
    assert family.denoiser_config().hidden_size == 1152
    published = {"hidden_size": 384, "num_heads": 6, "enable_flash_attn": True, "model_type": "STDiT3"}
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = family.denoiser_config(tmp_path, {"depth": 3, "model_max_length": None})
    assert (config.hidden_size, config.depth, config.num_heads, config.model_max_length) == (384, 3, 6, 300)
    with pytest.raises(UserError, match="hiden_size"):
        family.denoiser_config(tmp_path, {"hiden_size": 3})


def test_a_denoiser_is_loaded_with_the_config_of_its_folder(tmp_path):
    family = get_family("v1.2")
    config = family.denoiser_config(None, SMALL)
    source = family.build_denoiser(config)
    save_model(tmp_path / "model", source, plain(config))
    loaded = family.load_denoiser(tmp_path / "model")
    assert loaded.config == config
    for (name, ours), (_, theirs) in zip(loaded.parameters_and_names(), source.parameters_and_names()):
        assert (ours.asnumpy() == theirs.asnumpy()).all(), name
    with pytest.raises(UserError, match="does not fit"):
        family.load_denoiser(tmp_path / "model", {"depth": 2})


def test_half_precision_weights_of_a_network_that_is_not_trained_give_what_float32_weights_give(tmp_path):
    family = get_family("v1.2")
    config = family.denoiser_config(None, SMALL)
    save_model(tmp_path, family.build_denoiser(config), plain(config))
    golden.use_mode("pynative")
    rng = np.random.default_rng(0)
    x, text = rng.standard_normal((1, 4, 2, 4, 4), np.float32), rng.standard_normal((1, 1, 4, 8), np.float32)
    one = ms.Tensor([1.0])
    outs, sizes = [], []
    for trained in (True, False):
        network = family.load_denoiser(tmp_path, dtype="fp16", trained=trained)
        outs.append(network(ms.Tensor(x), one * 500, ms.Tensor(text), None, None, one, one, one).asnumpy())
        sizes.append(sum(p.nbytes for p in network.get_parameters()))
    np.testing.assert_array_equal(*outs)
    assert sizes[1] < 0.55 * sizes[0]


def test_random_weights_are_refused_unless_asked_for():
    family = get_family("v1.2")
    with pytest.raises(UserError, match="pretrained_model_path"):
        family.load_denoiser(None, SMALL, option="pretrained_model_path")
    assert family.load_denoiser(None, SMALL, allow_random=True).config.depth == 1
    with pytest.raises(UserError, match="vae_checkpoint"):
        family.load_autoencoder(None)


def test_micro_sizes_of_the_command_line_replace_those_of_the_folder():
    config = get_family("v1.2").autoencoder_config(None, micro_batch_size=0, micro_frame_size=34)
    assert (config.micro_batch_size, config.micro_frame_size) == (None, 34)
    assert get_family("v1.2").autoencoder_config(None).micro_frame_size == 17


def test_flow_settings_that_are_not_given_keep_the_familys_own():
    flow = get_family("v1.2").flow(num_sampling_steps=5, cfg_scale=None).config
    assert (flow.num_sampling_steps, flow.cfg_scale, flow.use_timestep_transform) == (5, 7.0, True)


def test_an_image_is_told_120_frames_per_second():
    family = get_family("1.2")
    assert family.conditions(64, 48, 17, 8, 2)["fps"].tolist() == [8, 8]
    image = family.conditions(64, 48, 1, 8, 2)
    assert {name: value.tolist() for name, value in image.items()} == {
        "fps": [120, 120],
        "height": [64, 64],
        "width": [48, 48],
    }


def test_prompts_get_their_scores_and_are_cleaned():
    rules = PromptRules(aesthetic_score=6.5, camera_motion="static")
    text = get_family("v1.2").prepare_prompt("A red Circle.", rules)
    assert text == "a red circle. aesthetic score: 6.5. camera motion: static."


def test_sizes_come_from_numbers_or_names():
    family = get_family("v1.2")
    assert family.video_size("4s", resolution="720p", aspect_ratio="9:16") == (102, 720, 1280)
    assert family.video_size(17, image_size=[64, 96]) == (17, 64, 96)
    assert family.video_size(17, image_size=64) == (17, 64, 64)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "image_size"),
        ({"image_size": [60, 64]}, "64"),
        ({"image_size": [0, 64]}, "positive"),
        ({"image_size": [64, 64, 64]}, "height width"),
        ({"resolution": "240p"}, "aspect_ratio"),
    ],
)
def test_sizes_that_cannot_be_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        get_family("v1.2").video_size(17, **given)


def test_an_unknown_version_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"v1\.2"):
        get_family("v7")
