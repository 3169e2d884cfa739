from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mindone.checkpoint import save_safetensors
from mindone.config import parse
from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.config import GalleryConfig
from opensora.generate import run
from opensora.toy.gallery import make_gallery
from opensora.toy.judge import expected
from opensora.toy.world import Scene, render

VERSIONS = ("v1", "v1.1", "v1.2", "v2.0")


@pytest.fixture
def recipes(tmp_path):
    """A recipe per version; the weights of 1.1 and the recipe of 2.0 are missing."""
    save_safetensors(tmp_path / "model.safetensors", {"weight": np.zeros(1, np.float32)})
    for version in VERSIONS[:3]:
        weights = "gone.safetensors" if version == "v1.1" else "model.safetensors"
        (tmp_path / f"{version}.yaml").write_text(
            f"image_size: [64, 64]\nnum_frames: 17\nmodel_version: {version}\nckpt_path: ./{weights}\n"
            "vae_checkpoint: ./model.safetensors\nfps: 8\n"
        )
    return [str(tmp_path / f"{version}.yaml") for version in VERSIONS]


@pytest.fixture
def asked(monkeypatch):
    """What models are asked for; they make what the prompt says."""
    seen = []

    def generate(config):
        results = []
        for text in config.prompts.captions:
            conditions = config.conditions
            seen.append((config.denoiser.model_version, conditions.task, conditions.loop, text))
            name = "-".join(map(str, seen[-1])).replace(" ", "-")
            frames = render(Scene(*expected(text)), np.random.default_rng(len(seen)), config.shape.num_frames)
            video = write_video(Path(config.output.output_path) / f"{name}.mp4", frames, 8)
            results.append(SimpleNamespace(video=video))
        return results

    monkeypatch.setattr(run, "generate", generate)
    return seen


def settings(tmp_path, recipes, *argv):
    paths = ["--output", str(tmp_path / "docs" / "gallery.png"), "--output_path", str(tmp_path / "samples")]
    return parse(GalleryConfig, ["--recipes", *recipes, *paths, *argv])


def test_a_gallery_shows_every_model_that_is_there_on_the_same_prompts_and_its_tasks(tmp_path, recipes, asked, caplog):
    caplog.set_level("INFO")
    path = make_gallery(settings(tmp_path, recipes))
    prompts = ["a red circle moves left", "a green triangle moves up"]
    assert [(version, text) for version, task, loop, text in asked if task is None and loop == 1] == [
        (version, text) for version in ("v1", "v1.2") for text in prompts
    ]
    assert [item[:3] for item in asked[4:]] == [("v1.2", "i2v", 1), ("v1.2", "interpolate", 1), ("v1.2", None, 3)]
    for line in ("gone.safetensors", "there is no recipe", "Open-Sora 1.0: task=i2v is not supported"):
        assert f"left out: {line}" in caplog.text or line in caplog.text
    assert path.stat().st_size <= 300_000
    width, height = Image.open(path).size
    assert width == 2 * (6 * (64 + 4) + 4) and height >= 4 * 64


def test_a_picture_that_would_be_too_large_has_smaller_frames(tmp_path, recipes, asked):
    flags = ["--tasks", "i2v", "--captions", "a red circle moves left"]
    large = make_gallery(settings(tmp_path, recipes, *flags))
    wide = Image.open(large).size[0]
    small = make_gallery(settings(tmp_path, recipes, *flags, "--max_kilobytes", "30"))
    assert small.stat().st_size <= 30_000 and Image.open(small).size[0] < wide


def test_a_picture_that_never_fits_is_refused_and_the_old_one_stays(tmp_path, recipes, asked):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "gallery.png").write_bytes(b"old")
    flags = ["--max_kilobytes", "10", "--columns", "40", "--width", "20"]
    flags += ["--captions", *["a red circle moves left"] * 6]
    with pytest.raises(UserError, match="max_kilobytes=10"):
        make_gallery(settings(tmp_path, recipes, *flags))
    assert (tmp_path / "docs" / "gallery.png").read_bytes() == b"old"


def test_no_model_at_all_is_refused(tmp_path, recipes):
    with pytest.raises(UserError, match="none of these recipes has its model"):
        make_gallery(settings(tmp_path, recipes[3:]))


def test_a_picture_that_is_no_png_is_refused(tmp_path, recipes):
    with pytest.raises(UserError, match=r"\.png"):
        settings(tmp_path, recipes, "--output", "a.jpg")
