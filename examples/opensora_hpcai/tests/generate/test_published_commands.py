"""The published commands that make videos with 1.0 to 1.2, with tiny networks in the place of the real ones."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from mindone.data.video import read_video
from opensora.cli import open_door

RECIPES = Path(__file__).parents[2] / "configs"
V1, V1_1, V1_2 = (f"{RECIPES}/{name}/inference" for name in ("opensora", "opensora-v1-1", "opensora-v1-2"))
# What makes any recipe small. Ours is the place of weights, the size, and the number of steps.
SMALL = (
    "--model_max_length 8 --sampling_steps 2 --mode 1 --device_target CPU --dtype fp32 --vae_dtype fp32 --seed 7 "
    "--append_timestr False --output_path {out} --t5_model_name_or_path {models}/t5"
)
TINY_1 = "--ckpt_path {models}/v1 --vae_checkpoint {models}/vae-v1 --image_size 8 --num_frames 4"
TINY_1_1 = "--ckpt_path {models}/v1.1 --vae_checkpoint {models}/vae-v1.1 --image_size 8 8 --num_frames 8"
TINY_1_2 = "--ckpt_path {models}/v1.2 --vae_checkpoint {models}/vae-v1.2 --image_size 8 8 --num_frames 34"
CAPTION = "--captions 'a red circle moves left'"
# A recipe and the settings after it → frames, height and width of each video, and how many there are.
COMMANDS = [
    (f"--config {V1}/stdit_256x256x16.yaml {TINY_1}", (4, 8, 8), 2),
    (f"--config {V1}/stdit_512x512x16.yaml {TINY_1}", (4, 8, 8), None),
    (f"--config {V1}/stdit_512x512x64.yaml {TINY_1}", (4, 8, 8), None),
    (f"--config {V1}/stdit_256x256x16.yaml {TINY_1} --prompt_path {{prompts}}", (4, 8, 8), 2),
    (f"--config {V1}/stdit_256x256x16.yaml {TINY_1} {CAPTION} --sampling ddim", (4, 8, 8), 1),
    (f"--config {V1}/stdit_256x256x16.yaml {TINY_1} {CAPTION} --num_samples 3", (4, 8, 8), 3),
    (f"--config {V1_1}/sample_t2v.yaml {TINY_1_1} {CAPTION}", (8, 8, 8), 1),
    (f"--config {V1_1}/sample_iv2v.yaml {TINY_1_1} {CAPTION} --reference_path {{material}}/a.png", (8, 8, 8), 1),
    (f"--config {V1_1}/t2v_fit.yaml {TINY_1_1} {CAPTION} --max_image_size 64", (8, 8, 8), 1),
    (f"--config {V1_1}/sample_t2v.yaml {TINY_1_1} {CAPTION} --loop 2 --condition_frame_length 2", (14, 8, 8), 1),
    (f"--config {V1_2}/sample_t2v.yaml {TINY_1_2} {CAPTION}", (34, 8, 8), 1),
    (f"--config {V1_2}/sample_iv2v.yaml {TINY_1_2} {CAPTION} --reference_path {{material}}/a.png", (34, 8, 8), 1),
    (f"--config {V1_2}/sample_t2v.yaml {TINY_1_2} {CAPTION} --loop 2 --condition_frame_length 17", (51, 8, 8), 1),
    (
        f"--config {V1_2}/sample_iv2v.yaml {TINY_1_2} {CAPTION} --reference_path {{material}}/a.mp4 "
        "--mask_strategy '0,0,-5,0,5'",
        (34, 8, 8),
        1,
    ),
]


@pytest.fixture
def run(folders, material, tmp_path):
    """Runs a command line with its folders filled in; the videos go to ``samples``."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle moves left\na blue circle\n")
    places = {"models": folders, "material": material, "prompts": prompts, "tmp": tmp_path}

    def run(command, door="generate", small=True, out=tmp_path / "samples"):
        command = f"{command} {SMALL}" if small else command
        return open_door(door, shlex.split(command.format(**places, out=out)), "inference.py")

    return run


NAMES = [f"{Path(row[0].split()[1]).stem}-{row[0].split()[-1].strip(chr(39))}" for row in COMMANDS]


@pytest.mark.parametrize("command, shape, count", COMMANDS, ids=NAMES)
def test_a_published_command_makes_its_videos(run, tmp_path, command, shape, count):
    run(command)
    videos = sorted((tmp_path / "samples").glob("*.mp4"))
    assert len(videos) == count if count else videos
    assert {read_video(path).shape for path in videos} == {(*shape, 3)}


def test_text_latents_and_pixels_in_three_published_commands_make_the_video_of_one(run, tmp_path):
    recipe = f"--config {V1_1}/sample_t2v.yaml {TINY_1_1}"
    (whole,) = run(f"{recipe} {CAPTION} --save_latent True")
    encoder = "--t5_model_name_or_path {models}/t5 --model_max_length 8 --device_target CPU --mode 1"
    run(f"{CAPTION} --output_path {{tmp}}/text {encoder}", "embed-text", small=False)
    (apart,) = run(
        f"{recipe} {CAPTION} --text_embed_folder {{tmp}}/text --use_vae_decode False --save_latent True",
        out=tmp_path / "apart",
    )
    np.testing.assert_allclose(apart.latents, whole.latents, rtol=1e-5, atol=1e-5)
    latents = next((tmp_path / "apart").rglob("*.npy")).parent
    decoder = "--vae_checkpoint {models}/vae-v1.1 --model_version v1.1 --fps 8 --device_target CPU --mode 1"
    run(f"--latent_folder {latents} --output_path {{tmp}}/videos {decoder}", "decode", small=False)
    (video,) = (tmp_path / "videos").rglob("*.mp4")
    (once,) = (tmp_path / "samples").glob("*.mp4")
    # Pixels may round the other way where frames are decoded in other pieces, and compression spreads that.
    assert np.abs(read_video(video).astype(int) - read_video(once)).mean() < 1
