"""The benchmark from a world to its table, with a training of a few updates."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mindone.config import parse
from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.config import ToyBenchmarkConfig
from opensora.config.world import read_world
from opensora.generate import run
from opensora.toy import benchmark as module
from opensora.toy.benchmark import MEANING, benchmark, page
from opensora.toy.combinations import Scene
from opensora.toy.judge import asked
from opensora.toy.world import Shown, draw

EXAMPLE = Path(__file__).parents[2]
TINY = EXAMPLE / "configs" / "tiny"
TRAIN = ["--config", str(TINY / "opensora_v1_2_train.yaml")]
SMALL = {
    "denoiser": "{hidden_size: 16, depth: 1, num_heads: 2, caption_channels: 64, model_max_length: 16}",
    "image_size": 32,
    "num_frames": 17,
    "batch_size": 2,
    "train_steps": 2,
    "warmup_steps": 0,
    "ckpt_save_steps": 2,
    "log_interval": 1,
    "num_clips": 3,
    "num_real": 2,
    "num_seen": 1,
    "num_unseen": 1,
    "device_target": "CPU",
}


def settings(folder, **changes):
    values = {**SMALL, "output": folder / "out", **changes}
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return parse(ToyBenchmarkConfig, [*TRAIN, *words])


@pytest.fixture
def world(tmp_path):
    """A world of two small shapes, whose captions are longer than the recipe has room for."""
    path = tmp_path / "world.yaml"
    path.write_text(
        "{objects: 2, image_size: 32, radius: [0.12, 0.14], path: [0.25, 0.3], backgrounds: [dark, light],\n"
        "background_caption: 'on a {background} background', new_colours: {}, held_out: 0.1}"
    )
    return path


@pytest.fixture
def sampling(tmp_path):
    path = tmp_path / "sample.yaml"
    path.write_text("sampler: {sampling_steps: 2, guidance_scale: 2, batch_size: 2}")
    return path


def test_one_command_makes_a_table_of_a_world_once(tmp_path, world, sampling, capsys, caplog):
    caplog.set_level("INFO")
    config = settings(tmp_path, world=world, sample_config=sampling)
    result = benchmark(config)
    out = tmp_path / "out"
    assert json.loads((out / "benchmark.json").read_text()) == result
    assert list(result["parts"]) == list(MEANING)
    assert [result["parts"][name]["count"] for name in MEANING] == [2, 2, 2, 1, 1]
    real = result["parts"]["real"]
    assert real["colour"] == real["direction"] == real["background"] == 1 and result["parts"]["shuffled"]["all"] == 0
    text = (out / "benchmark.md").read_text()
    assert text == page(result) and text in capsys.readouterr().out
    assert f"| real | 2 | 1.000 | {real['shape']:.3f} | 1.000 | 1.000 |" in text
    written = json.loads((out / "denoiser" / "model" / "config.json").read_text())
    assert written["model_max_length"] > 16 and "it is set to that" in caplog.text
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".safetensors", ".mp4")}
    caplog.clear()
    assert benchmark(config) == result
    assert sum(line.endswith(": done") for line in caplog.messages) == len(result["seconds"])
    assert files == {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture
def perfect(monkeypatch):
    """Stands in for all networks: the autoencoder loses nothing, and videos show what prompts ask for."""
    done = []

    def draw_what_is_asked(config):
        done.append("generate")
        world, results = read_world(config.score.world), []
        for row, text in enumerate(config.prompts.captions):
            shown = Shown(tuple(Scene(*each) for each in asked(text, world).objects), asked(text, world).background)
            frames = draw(shown, np.random.default_rng(row), world=world)
            video = write_video(Path(config.output.output_path) / f"{row}.mp4", frames, 8, 8)
            video.with_suffix(".json").write_text(json.dumps({"prompt": text}))
            results.append(SimpleNamespace(video=video))
        return results

    def keep(config):
        done.append("decode")
        shutil.copytree(Path(config.latents.latent_folder).parent / "real", config.latents.output_path)

    monkeypatch.setattr(run, "generate", draw_what_is_asked)
    monkeypatch.setattr(module, "decode_files", keep)
    for name in ("embed_texts", "embed_videos"):
        monkeypatch.setattr(module, name, lambda config, name=name: done.append(name))
    monkeypatch.setattr(module.denoiser, "train", lambda config: done.append("train"))
    monkeypatch.setattr(module.autoencoder, "train", lambda config: done.append("train autoencoder"))
    return done


def test_a_model_that_obeys_scores_one_and_only_what_is_changed_is_done_again(tmp_path, perfect, sampling):
    changes = {"world": TINY / "world_two.yaml", "num_seen": 3, "num_unseen": 3, "sample_config": sampling}
    result = benchmark(settings(tmp_path, **changes))
    shares = {name: row["all"] for name, row in result["parts"].items()}
    assert shares == {"real": 1, "shuffled": 0, "autoencoder": 1, "seen": 1, "unseen": 1}
    assert perfect == ["embed_texts", "embed_videos", "embed_videos", "decode", "train", "generate"]
    perfect.clear()
    assert benchmark(settings(tmp_path, **changes)) == result and perfect == []
    benchmark(settings(tmp_path, **changes, train_steps=4))
    assert perfect == ["train", "generate"]
    perfect.clear()
    changes["num_seen"] = 2
    again = benchmark(settings(tmp_path, **changes, train_steps=4))
    assert perfect == ["generate"] and again["parts"]["seen"]["count"] == 2
    assert len(list((tmp_path / "out" / "videos").glob("*.mp4"))) == 5


def test_an_autoencoder_is_trained_in_legs_and_used(tmp_path):
    recipes = [str(TINY / f"vae_v1_2_train_{name}.yaml") for name in ("frames", "time")]
    config = settings(tmp_path, vae_train_steps=3)
    config.benchmark.vae_configs = recipes
    first, second = module._autoencoder_runs(config)
    out = tmp_path / "out"
    assert first.model.pretrained_model_path == config.autoencoder.vae_checkpoint
    assert second.model.pretrained_model_path == str(out / "vae_1" / "model")
    assert (first.data.csv_path, first.train.train_steps) == (str(out / "clips" / "video_caption.csv"), 3)
    assert config.training().autoencoder.vae_checkpoint == str(out / "vae_2" / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": ""}, "give one with --output DIR"),
        ({"num_clips": 0}, "num_clips=0 has to be at least 1"),
        ({"lora_rank": 4}, "lora_rank"),
    ],
)
def test_what_cannot_be_a_benchmark_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        settings(tmp_path, **changes)
