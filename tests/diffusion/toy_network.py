"""The stand-ins for a network that the reference runs of the schedulers used."""

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
