"""Convolutions, group norm and nearest upsampling.

Legend: `B` batch, `N` images, `C` channels in, `O` channels out, `T` frames, `H`/`W` height/width,
`(kt, kh, kw)` kernel.
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Uniform, initializer

from mindone.errors import UserError
from mindone.nn.kernels import kernels
from mindone.nn.padding import Padding

Triple = tuple[int, int, int]


def nearest_upsample(x: Tensor, factors: tuple[int, ...] = (2, 2)) -> Tensor:
    """Repeats every entry of the last axes of ``x``: (..., H, W) → (..., 2H, 2W), or as the factors say."""
    lead, sizes = x.shape[: -len(factors)], x.shape[-len(factors) :]
    split, repeated, joined = (-1,), (math.prod(lead),), lead
    for size, factor in zip(sizes, factors):
        if factor == 1:
            split, repeated = (*split, size), (*repeated, size)
        else:
            split, repeated = (*split, size, 1), (*repeated, size, factor)
        joined = (*joined, size * factor)
    return ops.broadcast_to(x.reshape(split), repeated).reshape(joined)


class GroupNorm(nn.Cell):
    """Group norm over (N, C, ...) with parameters ``weight`` and ``bias`` (C,); computes in float32."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5):
        super().__init__()
        if num_channels % num_groups:
            raise UserError(f"{num_channels} channels cannot be divided into num_groups={num_groups} equal groups")
        self.weight = Parameter(initializer("ones", (num_channels,), ms.float32))
        self.bias = Parameter(initializer("zeros", (num_channels,), ms.float32))
        self.num_groups, self.eps = num_groups, eps

    def construct(self, x: Tensor) -> Tensor:
        return kernels().group_norm(x, self.weight, self.bias, self.num_groups, self.eps)


class Conv3d(nn.Cell):
    """3D convolution of (B, C, T, H, W); kernel, ``stride`` and ``padding`` are those of (time, height, width).

    ``padding`` (before, after) is zeros, or copies of the edges if ``replicate``. Parameters ``weight``
    (O, C / groups, kt, kh, kw) and ``bias`` (O,) are drawn like PyTorch's defaults: uniform in
    ±1/sqrt(C / groups * kt * kh * kw) (Kaiming-uniform with a = sqrt(5)). Products run in `compute_dtype`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: Triple = (1, 1, 1),
        padding: Padding = ((0, 0), (0, 0), (0, 0)),
        has_bias: bool = True,
        groups: int = 1,
        replicate: bool = False,
    ):
        if in_channels % groups or out_channels % groups:
            raise UserError(f"{in_channels} and {out_channels} channels cannot be divided into {groups} equal groups")
        if groups > 1 and math.prod(stride) > 1:
            raise UserError(f"a convolution in {groups} groups has to have stride 1, not {stride}")
        super().__init__()
        self.compute_dtype = ms.float32
        self.stride, self.padding, self.groups, self.replicate = stride, padding, groups, replicate
        bound = Uniform(1 / math.sqrt(in_channels // groups * math.prod(kernel_size)))
        self.weight = Parameter(initializer(bound, (out_channels, in_channels // groups, *kernel_size), ms.float32))
        self.bias = Parameter(initializer(bound, (out_channels,), ms.float32)) if has_bias else None

    def construct(self, x: Tensor) -> Tensor:
        return self.convolved(x, self.weight)

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        """With a weight of five axes."""
        dtype = self.compute_dtype
        bias = None if self.bias is None else self.bias.astype(dtype)
        rules = (self.stride, self.padding, self.groups, self.replicate)
        return kernels().convolution(x.astype(dtype), weight.astype(dtype), bias, *rules)


class Conv2d(Conv3d):
    """2D convolution of (N, C, H, W), square kernel; ``padding`` is one number or ((top, bottom), (left, right)).

    The parameter ``weight`` is (O, C, k, k).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | Padding = 0,
        has_bias: bool = True,
    ):
        around = ((padding, padding),) * 2 if isinstance(padding, int) else padding
        kernel, strides = (kernel_size, kernel_size), (1, stride, stride)
        super().__init__(in_channels, out_channels, kernel, strides, ((0, 0), *around), has_bias)

    def construct(self, x: Tensor) -> Tensor:
        return self.convolved(x.expand_dims(2), self.weight.expand_dims(2)).squeeze(2)


def space_to_channels(x: Tensor, block: Triple) -> Tensor:
    """(N, C, T, H, W) → (N, C * bt * bh * bw, T / bt, H / bh, W / bw), the place in a block fastest."""
    n, channels, frames, height, width = x.shape
    bt, bh, bw = block
    x = x.reshape(n * channels, frames // bt, bt, height // bh, bh, width // bw, bw).transpose(0, 2, 4, 6, 1, 3, 5)
    return x.reshape(n, channels * bt * bh * bw, frames // bt, height // bh, width // bw)


def channels_to_space(x: Tensor, block: Triple) -> Tensor:
    """(N, C * bt * bh * bw, T, H, W) → (N, C, T * bt, H * bh, W * bw): the inverse of `space_to_channels`."""
    n, channels, frames, height, width = x.shape
    bt, bh, bw = block
    x = x.reshape(-1, bt, bh, bw, frames, height, width).transpose(0, 4, 1, 5, 2, 6, 3)
    return x.reshape(n, channels // (bt * bh * bw), frames * bt, height * bh, width * bw)


class CausalConv3d(nn.Cell):
    """3D convolution that sees no later frame; the parameters are those of the inner ``conv``.

    ``k // 2`` around each frame, and in front of the first one ``k - stride`` frames of zeros, so T frames become
    ``T / stride``; or, if ``replicate``, ``k - 1`` copies of it, so ``1 + T`` frames become ``1 + T / stride``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: Triple = (1, 1, 1),
        has_bias: bool = True,
        replicate: bool = False,
    ):
        super().__init__()
        around = (kernel_size // 2, kernel_size // 2)
        padding = ((kernel_size - (1 if replicate else stride[0]), 0), around, around)
        kernel = (kernel_size,) * 3
        self.conv = Conv3d(in_channels, out_channels, kernel, stride, padding, has_bias, replicate=replicate)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)
