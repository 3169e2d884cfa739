"""Networks that tell real videos from reconstructed ones, for the adversarial stage of autoencoders.

`PatchDiscriminator` is the PatchGAN of Isola et al. (https://arxiv.org/abs/1611.07004), which judges pieces of a
picture or video; `BlurredDiscriminator` judges a whole clip, as StyleGAN's does. Names and layouts are those of
Open-Sora 1.2, 1.3 and 2.0. Each has a second face, `tangent`, which the gradient penalty needs, see
`opensora.models.adversarial`.

Legend: `B` batch, `C` channels, `T` frames, `H`/`W` height/width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from mindone.adapters.dropout import SeededDropout, new_seeds
from mindone.errors import UserError
from mindone.models.sizes import require_positive
from mindone.nn.conv import Conv2d, Conv3d, GroupNorm
from mindone.nn.functional import cast
from mindone.nn.kernels import kernels
from mindone.nn.layers import Linear
from mindone.nn.padding import Padding, pad_zeros
from opensora.models.vae_frames import to_images

SLOPE = 0.2
"""Of the leaky ReLU."""
FIRST_STD = 0.02
"""Spread of fresh kernels, and of gains around 1, as in the published PatchGAN."""

Kind = Literal["2d", "3d", "3d_v1_3", "3d_v2_0", "blurred"]
KINDS: tuple[str, ...] = ("2d", "3d", "3d_v1_3", "3d_v2_0", "blurred")

# Of a patch discriminator: kernel, how many convolutions have a stride in time, whether the one before the last has no
# norm, and whether there is dropout.
_LAYOUTS = {"2d": (4, 0, False), "3d": (4, 1, False), "3d_v1_3": (3, 2, False), "3d_v2_0": (3, 2, True)}


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Which discriminator, and its size; the defaults are those of the deep-compression autoencoder's."""

    kind: Kind = "3d_v2_0"
    """``2d`` judges frames, the others videos: kernels of 4 (1.2), or of 3 (1.3; 2.0 with dropout); ``blurred``: whole
    clips"""
    channels: int = 64
    """after the first convolution"""
    layers: int = 5
    """convolutions with a stride (``blurred``: halvings)"""
    dropout: float = 0.3
    """share of the features of ``3d_v2_0`` that are left out at random in training"""
    clip: tuple[int, int, int] | None = None
    """frames, height and width of the clips of ``blurred``"""

    def __post_init__(self) -> None:
        require_positive(self, "channels", "layers")
        if self.kind not in KINDS:
            raise UserError(f"discriminator {self.kind} is not known; use one of {', '.join(KINDS)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout} has to be at least 0 and less than 1")
        if self.kind == "blurred" and not self.clip:
            raise UserError("a discriminator of whole clips has to know their size; give clip: [frames, height, width]")


class LeakyReLU(nn.Cell):
    """``x`` where that is positive, else ``0.2 x``."""

    def construct(self, x: Tensor) -> Tensor:
        return ops.where(x > 0, x, SLOPE * x)

    def tangent(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        return ops.where(x > 0, x, SLOPE * x), ops.where(x > 0, dx, SLOPE * dx)


class BatchNorm(nn.Cell):
    """Batch norm of (B, C, ...), in float32.

    In training the statistics are those of the batch, and the running ones, by which it works otherwise, follow them.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(initializer("ones", (channels,), ms.float32))
        self.bias = Parameter(initializer("zeros", (channels,), ms.float32))
        self.running_mean = Parameter(initializer("zeros", (channels,), ms.float32), requires_grad=False)
        self.running_var = Parameter(initializer("ones", (channels,), ms.float32), requires_grad=False)
        self.num_batches_tracked = Parameter(Tensor(0, ms.int64), requires_grad=False)

    def construct(self, x: Tensor, remember: bool = True) -> Tensor:
        rows = cast(x, ms.float32).reshape(*x.shape[:2], -1)
        mean, var = self._moments(rows)
        if self.training and remember:
            rows = ops.depend(rows, self._follow(mean, var, rows.shape[0] * rows.shape[2]))
        factor = self.weight.reshape(1, -1, 1) * ops.rsqrt(var + self.eps)
        return cast(((rows - mean) * factor + self.bias.reshape(1, -1, 1)).reshape(x.shape), x.dtype)

    def tangent(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        rows, slopes = x.reshape(*x.shape[:2], -1), dx.reshape(*x.shape[:2], -1)
        gain, shift = self.weight.reshape(1, -1, 1), self.bias.reshape(1, -1, 1)
        if self.training:
            normal, slopes = _normal_tangent(rows, slopes, (0, 2), self.eps)
        else:
            mean, var = self._moments(rows)
            factor = ops.rsqrt(var + self.eps)
            normal, slopes = (rows - mean) * factor, slopes * factor
        return (normal * gain + shift).reshape(x.shape), (slopes * gain).reshape(x.shape)

    def _moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.running_mean.reshape(1, -1, 1), self.running_var.reshape(1, -1, 1)
        mean = rows.mean((0, 2), keep_dims=True)
        return mean, ops.square(rows - mean).mean((0, 2), keep_dims=True)

    def _follow(self, mean: Tensor, var: Tensor, count: int) -> Tensor:
        unbiased = ops.stop_gradient(var).reshape(-1) * (count / max(1, count - 1))
        mean = ops.stop_gradient(mean).reshape(-1)
        first = ops.assign(self.running_mean, self.running_mean + self.momentum * (mean - self.running_mean))
        second = ops.assign(self.running_var, self.running_var + self.momentum * (unbiased - self.running_var))
        third = ops.assign_add(self.num_batches_tracked, Tensor(1, ms.int64))
        return first.sum() + second.sum() + third.astype(ms.float32)


def _normal_tangent(rows: Tensor, slopes: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
    """Rows of mean 0 and variance 1 over some axes, and how they change along ``slopes``."""
    centred = rows - rows.mean(axes, keep_dims=True)
    factor = ops.rsqrt(ops.square(centred).mean(axes, keep_dims=True) + eps)
    normal = centred * factor
    along = normal * (normal * slopes).mean(axes, keep_dims=True)
    return normal, (slopes - slopes.mean(axes, keep_dims=True) - along) * factor


def _convolution_tangent(convolution: nn.Cell, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """A convolution or linear is as its own derivative, without the bias."""
    y = convolution(x)
    none = convolution(ops.zeros_like(dx))
    return y, convolution(dx) - none


class PatchDiscriminator(nn.Cell):
    """Logits of overlapping pieces of pictures (B, 3, H, W), folded from videos if there are frames, or of videos.

    Strided convolutions with ``channels * 2^n`` (8 at most) channels, each but the first with batch norm, then one
    without a stride, and one to a single channel.

    Attributes:
        seeds: of dropout, to be set before every pass in training; None without dropout.
    """

    def __init__(self, config: DiscriminatorConfig, in_channels: int = 3):
        super().__init__()
        self.config = config
        kernel, _, dropout = _LAYOUTS[config.kind]
        self.seeds = new_seeds() if dropout and config.dropout else None
        flat = config.kind == "2d"
        widths = [config.channels * min(2**n, 8) for n in range(config.layers + 1)]
        layers: list[nn.Cell] = []
        for number, (width, strides) in enumerate(zip([*widths, 1], _strides(config))):
            before = in_channels if number == 0 else widths[number - 1]
            edge = number in (0, config.layers + 1)
            layers.append(_convolution(before, width, kernel, strides, flat, edge))
            if not edge:
                layers.append(BatchNorm(width))
            if number <= config.layers:
                layers.append(LeakyReLU())
            if dropout and 0 < number <= config.layers:
                layers.append(SeededDropout(config.dropout, number, self.seeds) if config.dropout else nn.Identity())
        self.main = nn.SequentialCell(layers)
        self._norms = tuple(isinstance(layer, BatchNorm) for layer in layers)
        self._convolutions = tuple(isinstance(layer, Conv3d) for layer in layers)
        self._dropouts = tuple(isinstance(layer, SeededDropout | nn.Identity) for layer in layers)
        for layer in layers:
            _draw(layer)

    def construct(self, x: Tensor, remember: bool = True) -> Tensor:
        """Logits (B, 1, ...) float32; without ``remember`` running statistics stay as they are."""
        x = to_images(x) if self.config.kind == "2d" and x.ndim == 5 else x
        for i in range(len(self._norms)):
            x = self.main[i](x, remember) if self._norms[i] else self.main[i](x)
        return cast(x, ms.float32)

    def tangent(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and how they change along ``dx``; nothing is left out at random."""
        if self.config.kind == "2d" and x.ndim == 5:
            x, dx = to_images(x), to_images(dx)
        for i in range(len(self._norms)):
            if self._convolutions[i]:
                x, dx = _convolution_tangent(self.main[i], x, dx)
            elif not self._dropouts[i]:
                x, dx = self.main[i].tangent(x, dx)
        return x, dx


def _strides(config: DiscriminatorConfig) -> list[tuple[int, int, int]]:
    """Of each convolution of a patch discriminator in time, height and width."""
    _, in_time, _ = _LAYOUTS[config.kind]
    strided = [(2 if number < in_time else 1, 2, 2) for number in range(config.layers)]
    return [*strided, (1, 1, 1), (1, 1, 1)]


def _convolution(
    before: int, after: int, kernel: int, strides: tuple[int, int, int], flat: bool, has_bias: bool
) -> Conv3d:
    if flat:
        return Conv2d(before, after, kernel, strides[2], 1, has_bias)
    around: Padding = ((1, 1),) * 3
    return Conv3d(before, after, (kernel,) * 3, strides, around, has_bias)


def _draw(layer: nn.Cell) -> None:
    if isinstance(layer, Conv3d):
        layer.weight.set_data(initializer(Normal(FIRST_STD), layer.weight.shape, ms.float32))
    elif isinstance(layer, BatchNorm):
        layer.weight.set_data(initializer(Normal(FIRST_STD, 1.0), layer.weight.shape, ms.float32))


class Blur(nn.Cell):
    """Halves frames, height and width after a blur by 1, 2, 1 along each; edges are reflected."""

    def __init__(self, channels: int):
        super().__init__()
        line = np.array([1, 2, 1], np.float32)
        kernel = line[:, None, None] * line[:, None] * line
        kernel = np.broadcast_to(kernel / kernel.sum(), (channels, 1, 3, 3, 3))
        self.filt = Parameter(Tensor(np.ascontiguousarray(kernel)), requires_grad=False)

    def construct(self, x: Tensor) -> Tensor:
        x = ops.concat((x[:, :, 1:2], x, x[:, :, -2:-1]), 2)
        x = ops.concat((x[:, :, :, 1:2], x, x[:, :, :, -2:-1]), 3)
        x = ops.concat((x[..., 1:2], x, x[..., -2:-1]), 4)
        x = kernels().convolution(x, self.filt, None, (1, 1, 1), ((0, 0),) * 3, x.shape[1], False)
        for axis in (2, 3, 4):
            x = _every_second(x, axis)
        return x


def _every_second(x: Tensor, axis: int) -> Tensor:
    """By reshaping: the gradient of a slice with a step is wrong on a CPU for five axes."""
    count = (x.shape[axis] + 1) // 2
    x = pad_zeros(x, ((0, x.shape[axis] % 2), *((0, 0),) * (x.ndim - axis - 1)))
    pairs = x.reshape(math.prod(x.shape[:axis]) * count, 2, -1)
    return pairs[:, 0].reshape(*x.shape[:axis], count, *x.shape[axis + 1 :])


def _group_norm_tangent(norm: GroupNorm, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    rows, slopes = x.reshape(x.shape[0], norm.num_groups, -1), dx.reshape(x.shape[0], norm.num_groups, -1)
    normal, slopes = _normal_tangent(rows, slopes, (2,), norm.eps)
    per_channel = (1, -1) + (1,) * (x.ndim - 2)
    gain = norm.weight.reshape(per_channel)
    y = normal.reshape(x.shape) * gain + norm.bias.reshape(per_channel)
    return y, slopes.reshape(x.shape) * gain


class _BlurredBlock(nn.Cell):
    """Two convolutions with a halving between them, and a shortcut around both."""

    def __init__(self, before: int, after: int, groups: int = 32):
        super().__init__()
        around: Padding = ((1, 1),) * 3
        self.conv1 = Conv3d(before, before, (3, 3, 3), padding=around)
        self.norm1 = GroupNorm(groups, before)
        self.blur = Blur(before)
        self.conv2 = Conv3d(before, after, (1, 1, 1), has_bias=False)
        self.conv3 = Conv3d(before, after, (3, 3, 3), padding=around)
        self.norm2 = GroupNorm(groups, after)
        self.act = LeakyReLU()

    def construct(self, x: Tensor) -> Tensor:
        h = self.blur(self.act(self.norm1(self.conv1(x))))
        h = self.act(self.norm2(self.conv3(h)))
        return (self.conv2(self.blur(x)) + h) * math.sqrt(0.5)

    def tangent(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        h, dh = self.act.tangent(*_group_norm_tangent(self.norm1, *_convolution_tangent(self.conv1, x, dx)))
        h, dh = self.blur(h), self.blur(dh)
        h, dh = self.act.tangent(*_group_norm_tangent(self.norm2, *_convolution_tangent(self.conv3, h, dh)))
        shortcut, along = _convolution_tangent(self.conv2, self.blur(x), self.blur(dx))
        return (shortcut + h) * math.sqrt(0.5), (along + dh) * math.sqrt(0.5)


class BlurredDiscriminator(nn.Cell):
    """One logit (B, 1) for a clip (B, 3, T, H, W) of the size that the config says."""

    def __init__(
        self,
        config: DiscriminatorConfig,
        in_channels: int = 3,
        channel_multipliers: tuple[int, ...] | None = None,
        num_groups: int = 32,
    ):
        super().__init__()
        self.config, self.seeds = config, None
        multipliers = channel_multipliers or tuple(min(2**n, 4) for n in range(1, config.layers + 1))
        around: Padding = ((1, 1),) * 3
        width, blocks, size = config.channels, [], list(config.clip or ())
        self.conv1 = Conv3d(in_channels, width, (3, 3, 3), padding=around)
        for multiplier in multipliers:
            blocks.append(_BlurredBlock(width, config.channels * multiplier))
            width, size = config.channels * multiplier, [math.ceil(side / 2) for side in size]
        self.res_block_list = nn.CellList(blocks)
        self.conv2 = Conv3d(width, width, (3, 3, 3), padding=around)
        self.norm1 = GroupNorm(num_groups, width)
        self.linear1 = Linear(width * math.prod(size), width)
        self.linear2 = Linear(width, 1)
        self.act = LeakyReLU()

    def construct(self, x: Tensor, remember: bool = True) -> Tensor:
        """``remember`` has no meaning: there are no running statistics."""
        x = self.act(self.conv1(x))
        for block in self.res_block_list:
            x = block(x)
        x = self.act(self.norm1(self.conv2(x)))
        return cast(self.linear2(self.act(self.linear1(x.reshape(x.shape[0], -1)))), ms.float32)

    def tangent(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and how they change along ``dx``."""
        x, dx = self.act.tangent(*_convolution_tangent(self.conv1, x, dx))
        for block in self.res_block_list:
            x, dx = block.tangent(x, dx)
        x, dx = self.act.tangent(*_group_norm_tangent(self.norm1, *_convolution_tangent(self.conv2, x, dx)))
        x, dx = _convolution_tangent(self.linear1, x.reshape(x.shape[0], -1), dx.reshape(x.shape[0], -1))
        return _convolution_tangent(self.linear2, *self.act.tangent(x, dx))


Discriminator = PatchDiscriminator | BlurredDiscriminator


def require_size(config: DiscriminatorConfig, size: tuple[int, int, int]) -> None:
    """Refuses a discriminator that has nothing to say about videos of (frames, height, width).

    Raises:
        UserError: no logit would be left of them, or they are not the clips that it was made for.
    """
    shown = "x".join(map(str, size))
    if config.kind == "blurred":
        if tuple(config.clip) != size:
            raise UserError(f"a blurred discriminator judges clips of one size, not of {shown} as well")
        return
    kernel, _, _ = _LAYOUTS[config.kind]
    for strides in _strides(config):
        size = tuple((length + 2 - kernel) // stride + 1 for length, stride in zip(size, strides))
        if min(size[1:] if config.kind == "2d" else size) < 1:
            raise UserError(
                f"a discriminator {config.kind} of {config.layers} layers has no logits for videos of {shown}; "
                "use fewer layers, another kind, or longer or larger videos"
            )


def build_discriminator(config: DiscriminatorConfig) -> Discriminator:
    """The network of a config, with fresh weights."""
    return BlurredDiscriminator(config) if config.kind == "blurred" else PatchDiscriminator(config)
