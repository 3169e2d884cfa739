"""Every training recipe of autoencoders, with small networks on small videos."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_vae import TWO_PARTS, arguments

from mindone.config import parse
from mindone.data.write import write_video
from mindone.testing import golden
from opensora.config import TrainVaeConfig
from opensora.networks import load_autoencoder
from opensora.training import autoencoder as training

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "vae" / "train").glob("*.yaml"))
FRAMES, SIDE, STEPS = 5, 16, 6
# One of either kind of network is compiled, with all that is trained in it; a few updates take less time than that.
COMPILED = ("stage3", "video_dc_ae_disc")
STAGES = {
    "width_list": [8, 32],
    "depth_list": [1, 1],
    "block_type": ["ResBlock", "EViTS5_GLU"],
    "temporal": [True, False],
}
DEEP = {
    "latent_channels": 4,
    "time_compression_ratio": 2,
    "spatial_compression_ratio": 2,
    "encoder": STAGES,
    "decoder": STAGES,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table of two videos of moving gradients."""
    root = tmp_path_factory.mktemp("videos")
    ramp = np.linspace(40, 220, SIDE).astype(np.uint8)
    for i in range(2):
        frames = np.stack([np.roll(ramp, i + t) for t in range(FRAMES)])[:, None, :, None]
        write_video(
            root / f"clip{i}.mp4", np.ascontiguousarray(np.broadcast_to(frames, (FRAMES, SIDE, SIDE, 3))), fps=8
        )
    (root / "videos.csv").write_text("video\nclip0.mp4\nclip1.mp4\n")
    return root


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_an_autoencoder_whose_loss_falls(recipe, data, tmp_path):
    deep = "dc_ae" in recipe.stem
    values = {
        "vae": json.dumps(DEEP if deep else TWO_PARTS),
        "pretrained_model_path": "",
        "vae2d_checkpoint": "",
        "perceptual_loss_weight": 0,
        "lpips_checkpoint": "",
        "mixed_image_ratio": 0,
        "micro_frame_size": FRAMES,
        "train_steps": STEPS,
        "mode": 0 if recipe.stem in COMPILED else 1,
        "start_learning_rate": 0.01,
        "output_path": tmp_path,
        "seed": 1,
    }
    if "disc" in recipe.stem:
        values["discriminator"] = json.dumps({"kind": "3d_v2_0", "channels": 4, "layers": 2, "dropout": 0.3})
    argv = ["--config", str(recipe), *arguments(data, SIDE, 4 if deep else FRAMES, **values)]
    config = parse(TrainVaeConfig, argv)
    folder = training.train(config)
    with open(tmp_path / "result.log", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file, delimiter="\t")]
    assert len(losses) == STEPS and min(losses[-2:]) < losses[0]
    golden.use_mode("pynative")  # one call is not worth a compilation
    video = np.zeros((1, 3, config.data.num_frames, SIDE, SIDE), np.float32)
    autoencoder = load_autoencoder(folder)
    assert autoencoder.decode(autoencoder.encode(video), config.data.num_frames).shape == video.shape
