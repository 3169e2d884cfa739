"""Embeddings of timesteps, positions and patches.

All tables are computed in float32, whatever the network's precision: bfloat16 would round positions and angles.

Legend: `B` batch, `C` channels, `T` frames, `H`/`W` height/width, `S = H*W` tokens of a frame, `D` width.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import constexpr

from mindone.nn import functional as F
from mindone.nn.conv import Conv3d
from mindone.nn.layers import Linear, SiLU


def sinusoid(values: Tensor, size: int = 256, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of ``values * max_period^(-k / (size/2))``: (B,) → (B, size) float32."""
    angles = F.cast(values, ms.float32).reshape(-1, 1) * _sinusoid_frequencies(size // 2, max_period)
    return ops.concat((ops.cos(angles), ops.sin(angles)), -1)


@constexpr
def _sinusoid_frequencies(half: int, max_period: float) -> Tensor:
    """(half,) float32, with exponents rounded to float32 as in the originals: values in the thousands show it.

    PyTorch's exponential rounds two of the 128 published frequencies up although they are closer to the number below.
    The error is half a unit in the last place, but an angle of thousands turns it into 2e-4.
    """
    exponents = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    if (half, max_period) == (128, 10000.0):
        frequencies[[12, 106]] = np.nextafter(frequencies[[12, 106]], np.float32(1))
    return Tensor(frequencies)


def rotary_table(frequencies: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of ``position * frequency`` for positions 0..length-1: (d/2,) → two (length, d/2), float32."""
    positions = Tensor(np.arange(length, dtype=np.float32)[:, None])
    angles = positions * F.cast(frequencies, ms.float32)
    return ops.cos(angles), ops.sin(angles)


def position_table_2d(height: int, width: int, size: int, scale: Tensor, base_size: int) -> Tensor:
    """Sine-cosine embedding of a grid (PixArt's, with Open-Sora's resolution scale) → (height * width, size) float32.

    A coordinate is ``index / scale * base_size / n`` along an axis of ``n`` tokens; a token's vector is
    ``[sin w, cos w, sin h, cos h]``, each of ``size / 4`` frequencies ``10000^(-2k / (size/2))``.

    Args:
        scale: (), pixel size of the picture over the size that counts as 1.
        base_size: tokens per side of a square picture with as many tokens.
    """
    by_height, by_width = (_axis_table(n, size // 2, scale, base_size) for n in (height, width))
    return _grid_table(by_height, by_width)


def index_table_2d(height: int, width: int, size: int, scale: float = 1.0, base_size: int | None = None) -> Tensor:
    """As `position_table_2d`, computed in float64; without ``base_size`` the coordinate is ``index / scale``."""
    scales = [scale if base_size is None else scale * n / base_size for n in (height, width)]
    return _grid_table(*(index_table_1d(n, size // 2, each) for n, each in zip((height, width), scales)))


def index_table_1d(length: int, size: int, scale: float = 1.0) -> Tensor:
    """``[sin, cos]`` of ``index / scale * 10000^(-2k / size)`` → (length, size) float32, computed in float64."""
    return Tensor(sine_cosine(np.arange(length) / scale, size).astype(np.float32))


def sine_cosine(places: np.ndarray, size: int) -> np.ndarray:
    """``[sin, cos]`` of ``place * 10000^(-2k / size)`` for places (N,) → (N, size) float64."""
    angles = places[:, None] * _axis_frequencies(size)
    return np.concatenate((np.sin(angles), np.cos(angles)), -1)


def _grid_table(by_height: Tensor, by_width: Tensor) -> Tensor:
    """Tables of both axes, (H, D/2) and (W, D/2), the width's channels first → (H * W, D)."""
    (height, half), width = by_height.shape, by_width.shape[0]
    by_width = ops.broadcast_to(by_width[None], (height, width, half))
    by_height = ops.broadcast_to(by_height[:, None], (height, width, half))
    return ops.concat((by_width, by_height), -1).reshape(height * width, 2 * half)


def _axis_table(length: int, size: int, scale: Tensor, base_size: int) -> Tensor:
    per_unit = np.arange(length)[:, None] * (base_size / length) * _axis_frequencies(size)
    angles = Tensor(per_unit.astype(np.float32)) / scale
    return ops.concat((ops.sin(angles), ops.cos(angles)), -1)


def _axis_frequencies(size: int) -> np.ndarray:
    return 10000.0 ** (-np.arange(0, size, 2, dtype=np.float64) / size)


class TimestepEmbedder(nn.Cell):
    """A scalar per sample, such as a timestep or a frame rate, to a vector: (B,) → (B, D).

    The sinusoid is computed from the float32 value. Parameters ``mlp.0`` and ``mlp.2``, with SiLU between.
    """

    def __init__(self, width: int, frequencies: int = 256):
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.SequentialCell(Linear(frequencies, width), SiLU(), Linear(width, width))

    def construct(self, values: Tensor) -> Tensor:
        return self.mlp(sinusoid(values, self.frequencies))


class RotaryEmbedding(nn.Cell):
    """Rotary tables of a head size; ``freqs`` (d/2,) is stored with the weights and not trained."""

    def __init__(self, head_size: int, theta: float = 10000.0):
        super().__init__()
        frequencies = theta ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)
        self.freqs = Parameter(Tensor(frequencies.astype(np.float32)), requires_grad=False)

    def construct(self, length: int) -> tuple[Tensor, Tensor]:
        return rotary_table(self.freqs, length)


class AxesRotaryEmbedding(nn.Cell):
    """Rotary tables of tokens with coordinates along several axes, each of which owns a part of the head's channels.

    The angle of pair ``k`` of an axis with ``size`` channels is ``coordinate * theta^(-2k / size)``.
    """

    def __init__(self, axes_sizes: tuple[int, ...], theta: float = 10000.0):
        super().__init__()
        exponents = [-np.arange(0, size, 2, dtype=np.float64) / size for size in axes_sizes]
        self.frequencies = tuple(Tensor((float(theta) ** powers).astype(np.float32)) for powers in exponents)

    def construct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (B, N, axes) → cosine and sine (B, N, d/2) float32; (N, d/2) if B is 1."""
        ids = F.cast(ids[0] if ids.shape[0] == 1 else ids, ms.float32)
        angles = ()
        for axis in range(len(self.frequencies)):
            angles += (ids[..., axis : axis + 1] * self.frequencies[axis],)
        angles = ops.concat(angles, -1)
        return ops.cos(angles), ops.sin(angles)


class PatchEmbed3D(nn.Cell):
    """Latents to tokens: (B, C, T, H, W) → (B, T', S', D), zeros added at the end of T, H, W up to whole patches.

    ``proj.weight`` (D, C, pt, ph, pw) is a convolution kernel as wide as its stride, so it is one matrix product.
    """

    def __init__(self, patch_size: tuple[int, int, int], in_channels: int, width: int):
        super().__init__()
        self.patch_size = tuple(patch_size)
        self.proj = Conv3d(in_channels, width, self.patch_size, self.patch_size)

    def grid(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Number of patches along T, H, W for latents of a size, counting incomplete ones."""
        return tuple(-(-n // p) for n, p in zip(size, self.patch_size))

    def construct(self, x: Tensor) -> Tensor:
        batch, channels, frames, height, width = x.shape
        t, h, w = self.patch_size
        rest = (-width % w, -height % h, -frames % t)
        if rest != (0, 0, 0):
            x = ops.pad(x, (0, rest[0], 0, rest[1], 0, rest[2]))
        nt, nh, nw = -(-frames // t), -(-height // h), -(-width // w)
        patches = x.reshape(batch, channels, nt, t, nh, h, nw, w).transpose(0, 2, 4, 6, 1, 3, 5, 7)
        dtype, outs = self.proj.compute_dtype, self.proj.weight.shape[0]
        weight, bias = F.cast(self.proj.weight, dtype).reshape(outs, -1), F.cast(self.proj.bias, dtype)
        return F.linear(F.cast(patches, dtype).reshape(batch, nt, nh * nw, channels * t * h * w), weight, bias)
