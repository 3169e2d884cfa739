"""The recipes of Open-Sora 2.0 say what was published."""

from pathlib import Path

import pytest

from mindone.config import check, load
from opensora.config import InferenceV2Config

RECIPES = Path(__file__).parents[2] / "configs/opensora-v2-0/inference"
TEXT = ["text_emb.t5_dir=a", "text_emb.clip_dir=b", "text_emb.neg_t5_dir=c", "text_emb.neg_clip_dir=d"]


@pytest.mark.parametrize(
    ("name", "resolution", "num_frames", "makes_picture"),
    [
        ("256px", "256px", 129, False),
        ("768px", "768px", 129, False),
        ("t2i2v_256px", "256px", 129, True),
        ("t2i2v_768px", "768px", 129, True),
        ("high_compression", "768px", 128, False),
    ],
)
def test_recipes_say_what_was_published(name, resolution, num_frames, makes_picture):
    config = load(InferenceV2Config, ["--config", str(RECIPES / f"{name}.yaml"), *TEXT])
    check(config)
    option, first = config.sampling_option, config.sampling_option_t2i
    assert (option.resolution, option.aspect_ratio, option.num_frames) == (resolution, "16:9", num_frames)
    assert (option.num_steps, option.guidance, option.guidance_img, option.motion_score) == (50, 7.5, 3.0, 4.0)
    assert option.text_osci and option.image_osci and option.scale_temporal_osci and option.shift
    assert (option.method, first.method, first.guidance, first.num_steps) == ("i2v", "distill", 4.0, 50)
    assert {config.model.dtype, config.ae.dtype} == {"bf16"}
    assert config.ae.use_spatial_tiling is True
    assert (config.t5.max_length, config.clip.max_length) == (512, 77)
    assert config.makes_picture is makes_picture
