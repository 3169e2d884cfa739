"""Six videos that exist as caches only, for a tiny 1.2: 5 frames of 8 x 8 pixels are 2 latent frames of 4 x 4."""

import csv
import json

import numpy as np

from mindone.checkpoint import save_model
from mindone.config import parse
from mindone.models.autoencoder_kl import AutoencoderKLConfig
from opensora.config import TrainConfig
from opensora.data.cache import LatentEntry, write_latent, write_text
from opensora.models.vae_temporal import TemporalAutoencoderConfig
from opensora.models.vae_v1_2 import VideoAutoencoder, VideoAutoencoderConfig
from opensora.training import denoiser as training

SAMPLES, TOKENS, WIDTH = 6, 8, 16
SHIFT, SCALE = (0.1, -0.2, 0.3, 0.0), (2.0, 1.0, 0.5, 1.5)


def write_cached_world(root):
    """``video_caption.csv``, ``latents``, ``text`` and the autoencoder ``vae``."""
    with open(root / "video_caption.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption"])
        writer.writerows([f"clip{i}.mp4", f"caption {i}"] for i in range(SAMPLES))
    for i in range(SAMPLES):
        rng = np.random.default_rng(i)
        mean = rng.normal(size=(2, 4, 4, 4)).astype(np.float32)
        latent = root / "latents" / f"clip{i}.npz"
        write_latent(latent, LatentEntry(mean, np.full_like(mean, 0.1), 8.0, (8, 8), 5, (8, 8)))
        embedding, mask = rng.normal(size=(TOKENS, WIDTH)), np.arange(TOKENS) < 4 + i % 3
        arrays = {"text_emb": embedding, "mask": mask, "tokens": np.zeros(TOKENS)}
        write_text(root / "text" / f"clip{i}.npz", arrays)
    image = AutoencoderKLConfig(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        layers_per_block=1,
        norm_num_groups=2,
    )
    temporal = TemporalAutoencoderConfig(filters=4, num_res_blocks=1, num_groups=2)
    config = VideoAutoencoderConfig(autoencoder_kl=image, vae_temporal=temporal, shift=SHIFT, scale=SCALE)
    save_model(root / "vae", VideoAutoencoder(config), config.to_dict())


def arguments(data, *more):
    recipe = {
        "csv_path": data / "video_caption.csv",
        "vae_latent_folder": data / "latents",
        "text_embed_folder": data / "text",
        "vae_checkpoint": data / "vae",
        "image_size": 8,
        "num_frames": 5,
        "denoiser": json.dumps({"hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": WIDTH}),
        "model_max_length": TOKENS,
        "mask_ratios": json.dumps({"image_head": 0.5}),
        "scheduler": "constant",
        "start_learning_rate": 0.01,
        "warmup_steps": 0,
        "clip_grad": True,
        "use_ema": True,
        "ema_decay": 0.9,
        "batch_size": 2,
        "num_parallel_workers": 0,
        "seed": 5,
        "device_target": "CPU",
    }
    given = [token for name, value in recipe.items() for token in (f"--{name}", str(value))]
    return [*given, *more]


def setting(data, *more):
    return training.make_setting(parse(TrainConfig, arguments(data, *more)))
