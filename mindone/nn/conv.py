"""Convolutions, group norm and nearest upsampling for CPU and Ascend, forward and backward.

On a CPU the compiled kernels of `mindone.nn.native` compute convolutions, or where there are none
`mindone.nn.row_conv`; there, in a depth-wise convolution over few frames the frames are the channels. Ascend gets its
own operators.

Legend: `B` batch, `N` images, `C` channels in, `O` channels out, `T` frames, `H`/`W` height/width, `L` their padded
product, `(kt, kh, kw)` kernel.
"""

from __future__ import annotations

import functools
import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Uniform, initializer
from mindspore.ops import constexpr

from mindone import runtime
from mindone.errors import UserError
from mindone.nn import cpu, native
from mindone.nn.padding import Padding, pad_edges, pad_zeros
from mindone.nn.row_conv import Triple, row_conv

# Up to this many positions of a volume its windows are picked by a product, which compiles much faster.
SMALL_VOLUME = 128
# Up to this many frames a depth-wise convolution multiplies all frames with all frames.
FEW_FRAMES = 32


def _columns(x: Tensor, kernel: int, stride: int, padding: Padding) -> Tensor:
    """The windows of ``x`` (N, C, H, W) as columns (N, C*k*k, H'*W'), in the order of a flattened weight."""
    (top, bottom), (left, right) = padding
    if (top, left) == (bottom, right):
        return ops.unfold(x, kernel, padding=(top, left), stride=stride)
    return ops.unfold(pad_zeros(x, padding), kernel, stride=stride)


def _output_size(size: int, kernel: int, stride: int, padding: tuple[int, int]) -> int:
    return (size + padding[0] + padding[1] - kernel) // stride + 1


def _keeps_size(kernel: tuple[int, ...], padding: Padding) -> bool:
    return all(before + after == k - 1 for k, (before, after) in zip(kernel, padding))


def _pad(x: Tensor, padding: Padding, replicate: bool) -> Tensor:
    return pad_edges(x, padding) if replicate else pad_zeros(x, padding)


def add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    """``bias`` (C,) added to the channels of ``x`` (N, C, ...)."""
    if bias is None:
        return x
    return ops.bias_add(x.reshape(x.shape[0], x.shape[1], -1, x.shape[-1]), bias).reshape(x.shape)


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


@functools.cache
def _group_norm(num_groups: int, eps: float) -> nn.Cell:
    """One cell for all norms of a kind: it has no parameters, and the compiler reads its source only once."""
    return (native if native.available() else cpu).GroupNorm(num_groups, eps)


class GroupNorm(nn.Cell):
    """Group norm over (N, C, ...) with parameters ``weight`` and ``bias`` (C,); computes in float32."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5):
        super().__init__()
        if num_channels % num_groups:
            raise UserError(f"{num_channels} channels cannot be divided into num_groups={num_groups} equal groups")
        self.weight = Parameter(initializer("ones", (num_channels,), ms.float32))
        self.bias = Parameter(initializer("zeros", (num_channels,), ms.float32))
        self.num_groups = num_groups
        self.norm = _group_norm(num_groups, eps)

    def construct(self, x: Tensor) -> Tensor:
        if runtime.kernels() == "Ascend":
            y = ops.group_norm(x.astype(ms.float32), self.num_groups, self.weight, self.bias, self.norm.eps)
        else:
            y = self.norm(x.astype(ms.float32), self.weight, self.bias)[0]
        return y.astype(x.dtype)


class _Conv(nn.Cell):
    """Parameters of a convolution: ``weight`` (O, C, *kernel) and ``bias`` (O,), drawn like PyTorch's defaults.

    Both are uniform in ±1/sqrt(C * prod(kernel)) (Kaiming-uniform with a = sqrt(5)). Products run in `compute_dtype`;
    the compiled kernels, which are the ``native`` cell of a subclass or None, in float32.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, ...], has_bias: bool):
        super().__init__()
        self.compute_dtype = ms.float32
        bound = Uniform(1 / math.sqrt(in_channels * math.prod(kernel)))
        self.weight = Parameter(initializer(bound, (out_channels, in_channels, *kernel), ms.float32))
        self.bias = Parameter(initializer(bound, (out_channels,), ms.float32)) if has_bias else None

    def _by_native_kernel(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, C, T, H, W), (O, C / groups, kt, kh, kw), (O,) → (B, O, T', H', W') by the ``native`` cell."""
        bias = cpu.full(weight.shape[:1], 0.0) if bias is None else bias.astype(ms.float32)
        return self.native(x.astype(ms.float32), weight.astype(ms.float32), bias).astype(x.dtype)

    def _in_compute_dtype(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        bias = None if self.bias is None else self.bias.astype(self.compute_dtype)
        return x.astype(self.compute_dtype), self.weight.astype(self.compute_dtype), bias


class _ByRows(nn.Cell):
    """A convolution by `row_conv`: (B, C, T, H, W), (O, C / groups, kt, kh, kw) → (B, O, T', H', W').

    Rows are gathered at a stride; along the width the places of a stride become channels.
    """

    def __init__(self, kernel: Triple, stride: Triple, padding: Padding, groups: int = 1, replicate: bool = False):
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.groups, self.replicate = groups, replicate
        self.keeps_size = math.prod(stride) == 1 and not replicate and _keeps_size(kernel, padding)
        self.block = (1, 1, stride[2])
        taps = (*kernel[:2], -(-kernel[2] // stride[2]))
        before = tuple(before for before, _ in padding) if self.keeps_size else (0, 0, 0)
        self.conv = row_conv(taps, before, self.keeps_size, groups, stride[:2])

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.keeps_size:
            whole = _whole_strides(x.shape[2:], self.kernel, self.block, self.padding)
            x = _pad(x, whole, self.replicate)
        if self.stride[2] > 1:
            weight = pad_zeros(weight, ((0, -self.kernel[2] % self.stride[2]),))
            x, weight = space_to_channels(x, self.block), space_to_channels(weight, self.block)
        batch = x.shape[0]
        y = self.conv(x.reshape(batch * self.groups, -1, *x.shape[2:]), weight)
        return y.reshape(batch, -1, *y.shape[2:])


class Conv2d(_Conv):
    """2D convolution of (N, C, H, W), square kernel; ``padding`` is one number or ((top, bottom), (left, right))."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | Padding = 0,
        has_bias: bool = True,
    ):
        super().__init__(in_channels, out_channels, (kernel_size, kernel_size), has_bias)
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = ((padding, padding),) * 2 if isinstance(padding, int) else padding
        kernel, strides, around = (1, kernel_size, kernel_size), (1, stride, stride), ((0, 0), *self.padding)
        self.native = native.convolution(strides, around)
        fits = kernel_size > 1 and stride in (1, kernel_size - 1)
        self.by_rows = _ByRows(kernel, strides, around) if fits else None

    def construct(self, x: Tensor) -> Tensor:
        x, weight, bias = self._in_compute_dtype(x)
        if runtime.kernels() == "Ascend":
            return add_bias(ops.conv2d(pad_zeros(x, self.padding), weight, stride=self.stride), bias)
        if self.native is not None:
            return self._by_native_kernel(x.expand_dims(2), weight.expand_dims(2), bias).squeeze(2)
        return add_bias(self._on_cpu(x, weight), bias)

    def _on_cpu(self, x: Tensor, weight: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        if self.by_rows is not None:
            return self.by_rows(x.expand_dims(2), weight.expand_dims(2)).squeeze(2)
        h = _output_size(height, self.kernel_size, self.stride, self.padding[0])
        w = _output_size(width, self.kernel_size, self.stride, self.padding[1])
        if self.kernel_size == self.stride == 1 and (h, w) == (height, width):
            columns = x.reshape(n, channels, -1)
        else:
            columns = _columns(x, self.kernel_size, self.stride, self.padding)
        return ops.matmul(weight.reshape(weight.shape[0], -1), columns).reshape(n, -1, h, w)


class Conv3d(_Conv):
    """3D convolution of (B, C, T, H, W); kernel, ``stride`` and ``padding`` are those of (time, height, width).

    ``padding`` (before, after) is zeros, or copies of the edges if ``replicate``. A strided kernel has one tap more
    than its stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple = (1, 1, 1),
        padding: Padding = ((0, 0), (0, 0), (0, 0)),
        has_bias: bool = True,
        groups: int = 1,
        replicate: bool = False,
    ):
        if in_channels % groups or out_channels % groups:
            raise UserError(f"{in_channels} and {out_channels} channels cannot be divided into {groups} equal groups")
        if any(s > 1 and k != s + 1 for k, s in zip(kernel_size, stride)):
            raise UserError(f"kernel_size={kernel_size} does not fit stride={stride}; a strided kernel is one longer")
        if groups > 1 and math.prod(stride) > 1:
            raise UserError(f"a convolution in {groups} groups has to have stride 1, not {stride}")
        super().__init__(in_channels // groups, out_channels, kernel_size, has_bias)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.groups, self.replicate = groups, replicate
        self.pointwise = math.prod(kernel_size) == math.prod(stride) == 1 and not any(map(sum, padding))
        self.native = native.convolution(stride, padding, groups, replicate)
        self.by_rows = _ByRows(kernel_size, stride, padding, groups, replicate)
        self.depthwise = groups > 1 and groups == in_channels == out_channels and self.by_rows.keeps_size
        # In space alone, for a depth-wise convolution whose channels are the frames.
        self.in_space = row_conv((1, *kernel_size[1:]), (0, padding[1][0], padding[2][0]), True, groups)

    def construct(self, x: Tensor) -> Tensor:
        x, weight, bias = self._in_compute_dtype(x)
        if self.native is not None and runtime.kernels() == "CPU":
            return self._by_native_kernel(x, weight, bias)
        if self.pointwise:
            return add_bias(self._by_product(x, weight), bias)
        if runtime.kernels() == "Ascend":
            return add_bias(self._on_ascend(_pad(x, self.padding, self.replicate), weight), bias)
        return add_bias(self._on_cpu(x, weight), bias)

    def _by_product(self, x: Tensor, weight: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        matrices = weight.reshape(1, self.groups, -1, channels // self.groups)
        y = ops.matmul(matrices, x.reshape(batch, self.groups, channels // self.groups, -1))
        return y.reshape(batch, -1, *x.shape[2:])

    def _on_ascend(self, x: Tensor, weight: Tensor) -> Tensor:
        """Its 3D operator knows no groups: with those, one 2D convolution of all frames for every tap in time."""
        if self.groups == 1:
            return ops.conv3d(x, weight, stride=self.stride)
        frames = x.shape[2] - self.kernel_size[0] + 1
        total = 0.0
        for tap in range(self.kernel_size[0]):
            part = x[:, :, tap : tap + frames].transpose(0, 2, 1, 3, 4).reshape(-1, x.shape[1], *x.shape[3:])
            total = total + ops.conv2d(part, weight[:, :, tap], groups=self.groups)
        return total.reshape(x.shape[0], frames, *total.shape[1:]).transpose(0, 2, 1, 3, 4)

    def _on_cpu(self, x: Tensor, weight: Tensor) -> Tensor:
        size = x.shape[2:]
        if self.groups == 1 and size[0] * size[1] * size[2] <= SMALL_VOLUME:
            return self._by_windows(x, weight)
        if self.depthwise and size[0] <= FEW_FRAMES:
            return self._by_channels(x, weight)
        return self.by_rows(x, weight)

    def _by_channels(self, x: Tensor, weight: Tensor) -> Tensor:
        """A depth-wise convolution as one in space for each channel, from all frames to all frames."""
        batch, channels, frames, height, width = x.shape
        picks = _frame_picks(frames, self.kernel_size[0], self.padding[0][0])
        between = ops.matmul(picks.astype(weight.dtype), weight.reshape(channels, self.kernel_size[0], -1))
        between = between.reshape(channels * frames, frames, 1, *self.kernel_size[1:])
        return self.in_space(x.reshape(batch * channels, frames, 1, height, width), between).reshape(x.shape)

    def _by_windows(self, x: Tensor, weight: Tensor) -> Tensor:
        """The windows of a small volume as columns, picked by a matrix of ones and zeros, and one product."""
        picks, size = _window_picks(x.shape[2:], self.kernel_size, self.stride, self.padding, self.replicate)
        batch, channels = x.shape[:2]
        columns = ops.matmul(x.reshape(batch * channels, -1), picks.astype(x.dtype))
        columns = columns.reshape(batch, channels * math.prod(self.kernel_size), -1)
        return ops.matmul(weight.reshape(weight.shape[0], -1), columns).reshape(batch, -1, *size)


@constexpr
def _window_picks(
    size: Triple, kernel: Triple, stride: Triple, padding: Padding, replicate: bool
) -> tuple[Tensor, Triple]:
    """Which positions the windows see: (positions, taps * windows) of ones and zeros; and the windows of each axis.

    A window that reaches beyond an edge sees nothing there, or the edge again if ``replicate``.
    """
    picks, windows = np.ones((1, 1, 1), np.float32), ()
    for n, k, s, (before, after) in zip(size, kernel, stride, padding):
        count = (n + before + after - k) // s + 1
        seen = np.arange(count)[None] * s + np.arange(k)[:, None] - before
        seen = np.clip(seen, 0, n - 1) if replicate else seen
        axis = (np.arange(n)[:, None, None] == seen).astype(np.float32)
        picks = np.einsum("pkw,qlv->pqklwv", picks, axis)
        picks = picks.reshape(picks.shape[0] * n, -1, picks.shape[4] * count)
        windows = (*windows, count)
    return Tensor(picks.reshape(len(picks), -1)), windows


@constexpr
def _frame_picks(frames: int, taps: int, before: int) -> Tensor:
    """Which tap leads from a frame to a frame: (T * T, taps) of ones and zeros."""
    tap = np.arange(frames)[None] - np.arange(frames)[:, None] + before
    return Tensor((tap.reshape(-1, 1) == np.arange(taps)).astype(np.float32))


@constexpr
def _whole_strides(size: Triple, kernel: Triple, stride: Triple, padding: Padding) -> Padding:
    """``padding``, with as much more at the end as windows of whole strides reach beyond it."""
    whole = []
    for n, k, s, (before, after) in zip(size, kernel, stride, padding):
        windows = (n + before + after - k) // s + 1
        whole.append((before, s * (windows - 1 - (-k // s)) - n - before))
    return tuple(whole)


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
