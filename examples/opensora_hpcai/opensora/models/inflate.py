"""A causal 3D autoencoder that starts from an image autoencoder: its kernels, put into the last place in time.

So every layer treats a frame as a picture at first, and training adds what neighbouring frames tell. Where layers
stride the two networks pad differently (behind the picture, or on both sides), which moves what they see by a pixel
each; training has to mend that. Kernels of pictures in video networks: https://arxiv.org/abs/1705.07750, there spread
over time, here causal.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mindone.errors import UserError

# Layers that end in mean and log-variance, one half of the channels each, and those that begin with them.
MOMENTS_OUT = ("encoder.conv_out.", "quant_conv.")
MOMENTS_IN = ("quant_conv.",)


def inflate(image: Mapping[str, np.ndarray], video: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights for a causal 3D autoencoder.

    Args:
        image: weights of an AutoencoderKL, kernels (out, in, h, w).
        video: fresh weights of the 3D autoencoder, kernels (out, in, t, h, w), with the same names but for a ``conv.``
            at their end. It may have more latent channels: what the pictures do not have stays fresh.
    Raises:
        UserError: the image autoencoder lacks a weight, or has another shape.
    """
    return {name: _inflated(name, _of_image(name, image), fresh) for name, fresh in video.items()}


def _of_image(name: str, image: Mapping[str, np.ndarray]) -> np.ndarray:
    stem, kind = name.rsplit(".", 1)
    for candidate in (name, f"{stem.removesuffix('.conv')}.{kind}"):
        if candidate in image:
            return np.asarray(image[candidate], np.float32)
    raise UserError(f"the image autoencoder has no {name}; it needs the blocks of the 3D autoencoder")


def _inflated(name: str, picture: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    result = np.array(fresh, np.float32)
    if picture.ndim == 4:
        over_time = np.zeros((*picture.shape[:2], fresh.shape[2], *picture.shape[2:]), np.float32)
        over_time[:, :, -1] = picture
        picture = over_time
    fits = picture.ndim == result.ndim and all(a <= b for a, b in zip(picture.shape, result.shape))
    if not fits or picture.shape[2:] != result.shape[2:]:
        raise UserError(f"{name} of the image autoencoder has shape {picture.shape}, which does not fit {result.shape}")
    places = [_places(picture.shape[0], result.shape[0], name.startswith(MOMENTS_OUT))]
    if picture.ndim > 1:
        places.append(_places(picture.shape[1], result.shape[1], name.startswith(MOMENTS_IN)))
    result[np.ix_(*places)] = picture
    return result


def _places(count: int, of: int, halves: bool) -> np.ndarray:
    """Where ``count`` channels stand among ``of``: at the beginning, or at the beginning of each half."""
    if not halves:
        return np.arange(count)
    half = np.arange(count // 2)
    return np.concatenate([half, half + of // 2])
