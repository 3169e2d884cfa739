"""DiT, Latte and PixArt of 1.0: trained and sampled by the recipes that are shipped for them."""

import json
from pathlib import Path

import numpy as np
import pytest
from older_world import CAPTIONS, FRAMES, SIDE, losses, write_older_world

from mindone.config import parse
from mindone.testing import golden
from opensora.cli import enter
from opensora.config import GenerateConfig
from opensora.generate.run import generate

RECIPES = Path(__file__).parents[2] / "configs" / "tiny"
SIZE = ["--image_size", str(8 * SIDE), "--num_frames", str(FRAMES), "--device_target", "CPU"]
TINY = {"hidden_size": 24, "depth": 1, "num_heads": 2, "patch_size": [1, 2, 2], "predict_xstart": True}
NETWORKS = {
    "dit": {"caption_channels": 64},
    "latte_class": {"condition": "label_90", "depth": 2},
    "pixart": {"caption_channels": 64, "model_max_length": 16},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("older")
    write_older_world(root)
    return root


def arguments(data, key, *more):
    flags = ["--config", str(RECIPES / f"opensora_v1_0_{key}_train.yaml"), *SIZE]
    flags += ["--csv_path", str(data / "videos.csv"), "--vae_latent_folder", str(data / "latents")]
    flags += [
        "--vae_checkpoint",
        "None",
        "--text_embed_folder",
        "None",
        "--clip_model_name_or_path",
        str(data / "clip"),
    ]
    flags += ["--t5_model_name_or_path", str(data / "t5"), "--denoiser", json.dumps(TINY | NETWORKS[key])]
    return [*flags, *more]


def train(data, key, folder, *more):
    golden.use_mode("graph")
    short = ["--train_steps", "30", "--batch_size", "6", "--log_interval", "1", "--warmup_steps", "0"]
    short += [
        "--use_ema",
        "False",
        "--start_learning_rate",
        "0.01",
        "--ckpt_save_steps",
        "30",
        "--output_path",
        str(folder),
    ]
    enter("train", arguments(data, key, *short, *more))


def sample(data, key, model, folder, prompts, *more):
    flags = ["--config", str(RECIPES / f"opensora_v1_0_{key}_sample.yaml"), *SIZE, "--ckpt_path", str(model)]
    flags += ["--clip_model_name_or_path", str(data / "clip"), "--t5_model_name_or_path", str(data / "t5")]
    flags += ["--vae_checkpoint", "None", "--use_vae_decode", "False", "--save_latent", "True", "--seed", "3"]
    flags += ["--sampling_steps", "2", "--output_path", str(folder), "--captions", *prompts]
    return generate(parse(GenerateConfig, [*flags, *more]))


@pytest.mark.parametrize("key", NETWORKS)
def test_the_recipe_of_a_network_trains_it_and_samples_what_it_learned(data, tmp_path, key):
    train(data, key, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert np.mean(found[-5:]) < 0.5 * np.mean(found[:3])
    prompts = ["0", "1"] if key.endswith("class") else CAPTIONS[:2]
    results = sample(data, key, tmp_path / "run" / "model", tmp_path / "samples", prompts)
    assert [result.latents.shape for result in results] == [(4, FRAMES, SIDE, SIDE)] * 2
    assert all(np.isfinite(result.latents).all() for result in results)
    assert np.abs(results[0].latents - results[1].latents).max() > 0.05
