"""Scales that a user gives reach the networks: of positions (1.0), and of an image autoencoder's latents."""

import json
from pathlib import Path

import pytest

from mindone.checkpoint import save_model
from mindone.config import parse
from opensora import networks, outputs
from opensora.config import DecodeConfig, GenerateConfig
from opensora.embed.decode import decode_files
from opensora.generate.run import generate

MODELS = Path(__file__).parents[2] / "models" / "tiny"
TOKENS = 8


class Asked(Exception):
    """What a network was asked for, instead of the network."""


def instead(*args, **changes):
    raise Asked(args, changes)


@pytest.fixture
def settings(tmp_path):
    """Builds the settings of a picture by a tiny network of 1.0, with the bundled text encoder and autoencoder."""
    width = json.loads((MODELS / "t5" / "config.json").read_text())["d_model"]
    sizes = {"hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": width, "model_max_length": TOKENS}
    config = networks.denoiser_config("STDiT-XL/2", None, sizes)
    denoiser = networks.build_denoiser(config)
    denoiser.initialize_weights(0)
    save_model(tmp_path / "stdit", denoiser, outputs.plain(config))

    def build(*flags):
        models = ["--ckpt_path", tmp_path / "stdit", "--vae_checkpoint", MODELS / "vae2d"]
        text = ["--t5_model_name_or_path", MODELS / "t5", "--captions", "a red circle"]
        shape = ["--image_size", 32, "--num_frames", 1, "--sampling_steps", 1, "--mode", 1, "--output_path", tmp_path]
        return parse(GenerateConfig, [*map(str, [*models, *text, *shape]), "--model_version", "v1", *flags])

    return build


def test_position_scales_reach_the_denoiser(settings, monkeypatch):
    monkeypatch.setattr(networks, "denoiser_config", instead)
    with pytest.raises(Asked) as asked:
        generate(settings("--space_scale", "0.5"))
    (_, _, overrides, *_), _ = asked.value.args
    assert (overrides["space_scale"], overrides["time_scale"]) == (0.5, None)


def test_the_factor_of_latents_reaches_the_autoencoder(settings, monkeypatch):
    monkeypatch.setattr(networks, "load_autoencoder", instead)
    with pytest.raises(Asked) as asked:
        generate(settings("--sd_scale_factor", "0.2"))
    assert asked.value.args[1]["sd_scale_factor"] == 0.2


def test_the_factor_of_latents_reaches_the_autoencoder_that_decodes_files(tmp_path, monkeypatch):
    (tmp_path / "latents.npy").write_bytes(b"")
    flags = ["--latent_folder", tmp_path, "--vae_checkpoint", MODELS / "vae2d", "--sd_scale_factor", 0.2, "--mode", 1]
    monkeypatch.setattr(networks, "load_autoencoder", instead)
    with pytest.raises(Asked) as asked:
        decode_files(parse(DecodeConfig, [*map(str, flags), "--model_version", "v1"]))
    assert asked.value.args[1]["sd_scale_factor"] == 0.2
