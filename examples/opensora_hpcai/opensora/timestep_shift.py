"""How the size of a video shifts the timesteps of rectified flow: the rule that Open-Sora 1.2 was trained with."""

from __future__ import annotations

import numpy as np

REFERENCE_AREA = 512.0 * 512.0
FRAMES_PER_CHUNK, LATENTS_PER_CHUNK = 17, 5


def size_ratio(height, width, num_frames) -> np.ndarray:
    """The r of `mindone.diffusion.rectified_flow.timestep_transform`, float32 of the broadcast shape.

    ``r = sqrt(height * width / 512^2) * sqrt(latent frames)``, where the latent frames are 1 for an image and
    ``num_frames // 17 * 5`` for a video, whatever the autoencoder really makes of it. A video shorter than 17 frames
    would get r = 0 and with it t' = 0 throughout; it counts as one latent frame here.

    Args:
        height, width, num_frames: in pixels and video frames, scalars or (B,).
    """
    area = np.asarray(height, np.float32) * np.asarray(width, np.float32)
    latent_frames = np.maximum(np.asarray(num_frames) // FRAMES_PER_CHUNK * LATENTS_PER_CHUNK, 1).astype(np.float32)
    return np.sqrt(area / np.float32(REFERENCE_AREA)) * np.sqrt(latent_frames)
