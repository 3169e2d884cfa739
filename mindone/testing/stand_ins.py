"""The stand-ins for networks that reference runs of schedulers and of training steps used."""

from __future__ import annotations

import numpy as np


def toy_prediction(x, t, y=None, frames_mask=None, learn_sigma=True):
    """(B, C or 2C, ...) float32: a simple function of latents, timestep, text (B, 1, L, D) and frames mask (B, T)."""
    rows = (-1, *[1] * (x.ndim - 1))
    text = 0 if y is None else y.reshape(len(y), -1).mean(1).reshape(rows)
    value = 0.3 * x + 0.1 * (t / 1000).reshape(rows) + 0.05 * text
    if frames_mask is not None:
        value = value + 0.02 * frames_mask.reshape(len(x), 1, -1, 1, 1)
    if learn_sigma:
        value = np.concatenate([value, 0.2 * np.sin(3 * x) - 0.1], 1)
    return value.astype(np.float32)


def guided(z, t, y_cond, y_null, scale, channels=None, frames_mask=None, learn_sigma=True):
    """`toy_prediction` with classifier-free guidance on the first ``channels`` channels (None: all of x)."""
    conditional = toy_prediction(z, t, y_cond, frames_mask, learn_sigma)
    unconditional = toy_prediction(z, t, y_null, frames_mask, learn_sigma)
    channels = channels or z.shape[1]
    mixed = unconditional + scale * (conditional - unconditional)
    return np.concatenate([mixed[:, :channels], conditional[:, channels:]], 1)


def toy_velocity(tokens, t, text, vector, guidance, condition=None):
    """The stand-in for the network: tokens (B, N, D), text (B, L, D), vector (B, D), condition (B, N, D)."""
    rows = lambda values: values.reshape(len(values), -1).mean(1)[:, None, None]  # noqa: E731
    seen = 0 if condition is None else 0.25 * condition.mean(-1, keepdims=True)
    return (0.3 * tokens + 0.1 * t + 0.2 * rows(text) + 0.1 * rows(vector) + 0.01 * guidance + seen).astype(np.float32)


def toy_encode(channels, causal, compression=4):
    """The stand-in for an autoencoder of the reference runs: means over 8x8 pixels and over groups of frames."""

    def encode(video):
        batch, _, frames, height, width = video.shape
        grey = video.mean(1).reshape(batch, frames, height // 8, 8, width // 8, 8).mean((3, 5))
        start = 1 if causal or frames == 1 else 0
        groups = [grey[:, :1]] if start else []
        groups += [grey[:, i : i + compression].mean(1, keepdims=True) for i in range(start, frames, compression)]
        latents = np.concatenate(groups, 1)
        return np.stack([latents * (c + 1) * 0.5 for c in range(channels)], 1).astype(np.float32)

    return encode
