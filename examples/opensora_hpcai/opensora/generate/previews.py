"""Small pictures of latents while they are made, by a fixed linear map to colours; nothing is decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindone.data.write import write_png

FRAMES = 4
SIDE = 128


def latents_to_rgb(latents: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of latents (C, T, H, W): the first three channels, brought to the range of colours."""
    shown = latents[:3] if len(latents) >= 3 else np.repeat(latents[:1], 3, axis=0)
    centre = shown.mean(axis=(1, 2, 3), keepdims=True)
    spread = shown.std(axis=(1, 2, 3), keepdims=True)
    values = 127.5 + 50 * (shown - centre) / np.maximum(spread, 1e-6)
    return np.clip(np.round(values), 0, 255).astype(np.uint8).transpose(1, 2, 3, 0)


def write_preview(folder: Path, stem: str, step: int, latents: np.ndarray) -> Path:
    """``STEM-stepNNN.png``: some frames of latents (C, T, H, W) beside each other."""
    frames = latents_to_rgb(latents)
    chosen = frames[np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)]
    scale = max(1, SIDE // chosen.shape[1])
    row = np.concatenate(list(chosen.repeat(scale, axis=1).repeat(scale, axis=2)), axis=1)
    return write_png(folder / f"{stem}-step{step:03d}.png", row[None])
