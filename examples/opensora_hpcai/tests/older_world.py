"""Six videos that exist as caches of an image autoencoder, with captions and classes, and encoders of a few words."""

import csv

import numpy as np

from opensora.data.cache import LatentEntry, write_latent
from opensora.toy.tiny_clip import write_tiny_clip
from opensora.toy.tiny_t5 import write_tiny_t5

SAMPLES, FRAMES, SIDE = 6, 2, 4
CAPTIONS = ["a red circle moves left", "a blue square moves up", "a green circle stands still"]


def write_older_world(root, channels=4, compression=8):
    """``videos.csv``, ``latents``, ``clip`` and ``t5``; a latent is what its caption says, and little noise."""
    with open(root / "videos.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption", "label"])
        writer.writerows([f"clip{i}.mp4", CAPTIONS[i % 3], i % 3] for i in range(SAMPLES))
    pixels = SIDE * compression
    for i in range(SAMPLES):
        mean = np.random.default_rng(i % 3).normal(size=(1, channels, 1, 1)) / 0.18215
        mean = np.broadcast_to(mean, (FRAMES, channels, SIDE, SIDE)).astype(np.float32)
        entry = LatentEntry(mean, np.full_like(mean, 0.1), 8.0, (pixels, pixels), FRAMES, (pixels, pixels))
        write_latent(root / "latents" / f"clip{i}.npz", entry)
    write_tiny_clip(root / "clip")
    write_tiny_t5(root / "t5")


def losses(folder):
    """Of every update of a run."""
    return [float(line.split("\t")[1]) for line in (folder / "result.log").read_text().splitlines()[1:]]
