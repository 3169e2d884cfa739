"""Ctrl+C and SIGTERM in every phase of training, embedding and sampling.

A few phases run here. ``SIGNAL_MOMENTS=20 pytest PATH_OF_THIS_FILE`` runs all of them with both signals, and 20 more at
moments that are spread over each command.
"""

import json
import os
import random
import signal

import numpy as np
import pytest
from phases import NOT_OURS, Moment, stop_at

from mindone.checkpoint import read_tensors
from mindone.data.write import write_video
from mindone.signals import exit_code
from opensora.data.cache import LatentEntry, write_latent, write_text

MOMENTS = int(os.environ.get("SIGNAL_MOMENTS", "0"))
TOKENS, WIDTH, SAMPLES = 8, 16, 4
PROMPTS = ["a red circle moves left", "a blue square moves up"]

GENERATE = {
    "import": Moment(seconds=0.5),
    "compile": Moment("denoise: +0%", 1.0),
    "step": Moment(r"denoise: +[1-9]"),
    "decode": Moment("decode: +0%", 0.5),
    "next decode": Moment("decode: +50%"),
}
EMBED = {"import": Moment(seconds=0.5), "compile": Moment("encode texts: +0%", 0.3)}
EMBED_VIDEOS = {"compile": Moment("encode videos: +0%", 0.5), "step": Moment("encode videos: +[1-9]")}
TRAIN = {
    "import": Moment(seconds=0.5),
    "compile": Moment("the first step compiles", 1.0),
    "step": Moment("step +2/"),
}
# Every update is saved, which takes longer than the update.
SAVE = {"save": Moment("step +3/")}
# A batch takes seconds to decode, an update nothing.
WAIT = {"waiting for data": Moment("step +1/", 0.5)}
PHASES = {
    "generate": GENERATE,
    "embed-text": EMBED,
    "embed-videos": EMBED_VIDEOS,
    "train": TRAIN,
    "train and save": SAVE,
    "train on videos": WAIT,
}
# Phase and signal that always run.
CHOSEN = [
    ("generate", "compile", signal.SIGINT),
    ("generate", "next decode", signal.SIGTERM),
    ("train", "compile", signal.SIGINT),
]
ALL = [(name, phase, number) for name in PHASES for phase in PHASES[name] for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Videos that exist as caches only: 5 frames of 32 x 32 pixels are 2 latent frames of 4 x 4."""
    root = tmp_path_factory.mktemp("data")
    rows = [f"clip{i}.mp4,caption {i}" for i in range(SAMPLES)]
    (root / "video_caption.csv").write_text("\n".join(["video,caption", *rows]) + "\n")
    for i in range(SAMPLES):
        mean = np.random.default_rng(i).normal(size=(2, 4, 4, 4)).astype(np.float32)
        entry = LatentEntry(mean, np.full_like(mean, 0.1), 8.0, (32, 32), 5, (32, 32))
        write_latent(root / "latents" / f"clip{i}.npz", entry)
        arrays = {"text_emb": np.ones((TOKENS, WIDTH)), "mask": np.ones(TOKENS), "tokens": np.zeros(TOKENS)}
        write_text(root / "text" / f"clip{i}.npz", arrays)
    films = ["video,caption"]
    for i in range(12):
        films.append(f"film{i}.mp4,caption 0")
        frames = np.full((200, 240, 320, 3), 20 * i, np.uint8)
        write_video(root / f"film{i}.mp4", frames, fps=24)
        write_text(root / "text" / f"film{i}.npz", arrays)
    (root / "films.csv").write_text("\n".join(films) + "\n")
    return root


def command(name, data, output):
    if name == "generate":
        flags = ["--config", "configs/tiny/opensora_v1_2_sample.yaml", "--output_path", output, "--num_frames", "5"]
        flags += ["--append_timestr", "False", "--batch_size", "1", "--sampling_steps", "6", "--captions", *PROMPTS]
        return ["scripts/inference.py", *map(str, flags)]
    if name == "embed-text":
        recipe = "configs/tiny/opensora_v1_2_embed_text.yaml"
        return ["scripts/infer_t5.py", "--config", recipe, "--output_path", str(output), "--captions", *PROMPTS]
    if name == "embed-videos":
        autoencoder = ["--model_version", "v1", "--vae_type", "VideoAutoencoderKL"]
        autoencoder += ["--vae_checkpoint", "models/tiny/vae2d", "--num_frames", "4", "--image_size", "64"]
        table = ["--csv_path", str(data / "films.csv"), "--video_folder", str(data), "--output_path", str(output)]
        return ["scripts/infer_vae.py", *autoencoder, *table, "--batch_size", "1"]
    settings = {
        "csv_path": data / "video_caption.csv",
        "vae_latent_folder": data / "latents",
        "text_embed_folder": data / "text",
        "image_size": 32,
        "num_frames": 5,
        "denoiser": json.dumps({"hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": WIDTH}),
        "model_max_length": TOKENS,
        "output_path": output,
        "scheduler": "constant",
        "warmup_steps": 0,
        "train_steps": 1000,
        "ckpt_save_steps": 1000,
        "batch_size": 2,
        "num_parallel_workers": 1,
        "device_target": "CPU",
    }
    if name == "train and save":
        settings["ckpt_save_steps"] = 1
    if name == "train on videos":
        del settings["vae_latent_folder"]
        autoencoder = {"vae_type": "OpenSora-VAE-v1.2", "vae_checkpoint": "models/tiny/vae"}
        settings |= {"csv_path": data / "films.csv", "video_folder": data, "frame_stride": 45, "batch_size": 6}
        settings |= {**autoencoder, "prefetch_size": 1}
    return ["scripts/train.py", *(word for key, value in settings.items() for word in (f"--{key}", str(value)))]


def check(ended, number, output):
    assert ended.code == exit_code(number), ended.output
    assert not NOT_OURS.search(ended.output), ended.output
    assert not ended.left
    assert not [path for path in output.rglob("*") if path.name.startswith(".tmp")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "phase", "number"), ALL if MOMENTS else CHOSEN)
def test_a_signal_in_a_phase_ends_a_command_with_its_code_and_leaves_nothing_half_done(
    data, tmp_path, name, phase, number
):
    output = tmp_path / "output"
    ended = stop_at(command(name, data, output), PHASES[name][phase], number)
    check(ended, number, output)
    if name.startswith("train") and phase != "import":
        *_, saved = sorted(output.glob("*/ckpt/step-*"))
        assert len(read_tensors(saved)) > 10
        assert "which is saved; go on with --resume True" in ended.output
    if phase == "next decode":
        (video,) = output.rglob("*.mp4")
        assert video.stat().st_size > 0


def moments():
    rng = random.Random(1)
    return [
        (name, rng.uniform(0, 15), rng.choice([signal.SIGINT, signal.SIGTERM]))
        for name in PHASES
        for _ in range(MOMENTS)
    ]


if MOMENTS:

    @pytest.mark.parametrize(("name", "seconds", "number"), moments())
    def test_a_signal_at_any_moment_ends_a_command_with_its_code(data, tmp_path, name, seconds, number):
        output = tmp_path / "output"
        ended = stop_at(command(name, data, output), Moment(seconds=seconds), number)
        if ended.code is not None:
            check(ended, number, output)
