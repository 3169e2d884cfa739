"""Pictures and videos of two sizes and two lengths as caches, with a table that says what they are."""

import csv
import json

import numpy as np

from opensora.data.cache import LatentEntry, write_latent, write_text

TOKENS, WIDTH = 8, 16
# frames, height, width of the files, and how many there are
KINDS = ((1, 144, 256, 4), (1, 256, 256, 4), (60, 144, 256, 4), (60, 256, 256, 4), (110, 144, 256, 2))
SIZES = ((144, 256), (256, 256), (192, 192))


def latent_frames(frames):
    """Of 1.2's autoencoder, 5 for every 17 frames and the rest by fours; of one that works frame by frame, as many."""
    return frames // 17 * 5 + -(-(frames % 17) // 4)


def write_world(root, frame_by_frame=False, columns=True):
    """``video_caption.csv``, ``text``, and ``latents`` in several resolutions.

    Without ``columns`` the table has paths and captions alone.
    """
    rows = [kind[:3] for kind in KINDS for _ in range(kind[3])]
    with open(root / "video_caption.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption", *(["num_frames", "height", "width", "fps"] if columns else [])])
        for number, size in enumerate(rows):
            fps = [24 if size[0] > 1 else ""]
            writer.writerow([f"{number}.mp4", f"caption {number}", *([*size, *fps] if columns else [])])
    for number, (frames, height, width) in enumerate(rows):
        rng = np.random.default_rng(number)
        arrays = {"text_emb": rng.normal(size=(TOKENS, WIDTH)), "mask": np.ones(TOKENS), "tokens": np.zeros(TOKENS)}
        write_text(root / "text" / f"{number}.npz", arrays)
        for size in SIZES:
            latents = frames if frame_by_frame else latent_frames(frames)
            mean = rng.normal(size=(latents, 4, size[0] // 8, size[1] // 8)).astype(np.float32)
            entry = LatentEntry(mean, np.full_like(mean, 0.1), 24.0, (height, width), frames, size)
            write_latent(root / "latents" / f"latent_{size[0]}x{size[1]}" / f"{number}.npz", entry)


def flags(root, **settings):
    """Of a training with a tiny denoiser on that world."""
    given = {
        "csv_path": root / "video_caption.csv",
        "vae_latent_folder": root / "latents",
        "text_embed_folder": root / "text",
        "vae_checkpoint": "",
        "pretrained_model_path": "",
        "denoiser": json.dumps({"hidden_size": 24, "depth": 1, "num_heads": 2, "caption_channels": WIDTH}),
        "model_max_length": TOKENS,
        "num_parallel_workers": 0,
        "device_target": "CPU",
        **settings,
    }
    return [token for name, value in given.items() for token in (f"--{name}", str(value))]
