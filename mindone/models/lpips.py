"""LPIPS, the perceptual distance of two pictures: differences of the features of a network that was trained to see.

https://arxiv.org/abs/1801.03924, version 0.1, on VGG-16 or AlexNet. Parameter names are those of the original package.

Legend: `N` pictures, `C` channels, `H`/`W` height/width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindone import runtime
from mindone.errors import UserError
from mindone.nn import init
from mindone.nn.conv import Conv2d

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10
# The square root of exactly zero, where no unit of a stage is active, has no finite gradient.
TINY = 1e-20
WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class _Convolution:
    """One with padding and a ReLU after it; ``index`` is its place in torchvision's list of layers."""

    index: int
    kernel: int
    padding: int
    stride: int = 1


@dataclass(frozen=True)
class _Backbone:
    """Stages of convolutions; before every stage but the first one, and where ``pools`` says, pixels are pooled."""

    stages: tuple[tuple[_Convolution, ...], ...]
    channels: tuple[int, ...]
    pools: tuple[bool, ...]
    pool_size: int


def _vgg_stage(*indices: int) -> tuple[_Convolution, ...]:
    return tuple(_Convolution(index, 3, 1) for index in indices)


BACKBONES = {
    "vgg": _Backbone(
        (_vgg_stage(0, 2), _vgg_stage(5, 7), _vgg_stage(10, 12, 14), _vgg_stage(17, 19, 21), _vgg_stage(24, 26, 28)),
        (64, 128, 256, 512, 512),
        (False, True, True, True, True),
        2,
    ),
    "alex": _Backbone(
        (
            (_Convolution(0, 11, 2, stride=4),),
            (_Convolution(3, 5, 2),),
            *((_Convolution(index, 3, 1),) for index in (6, 8, 10)),
        ),
        (64, 192, 384, 256, 256),
        (False, True, True, False, False),
        3,
    ),
}


class _Stage(nn.Cell):
    def __init__(self, convolutions: Sequence[_Convolution], channels: int, width: int, pool_size: int):
        super().__init__()
        self.pool = nn.MaxPool2d(pool_size, 2, pad_mode="valid") if pool_size else None
        self.layers = []
        for each in convolutions:
            layer = Conv2d(channels, width, each.kernel, each.stride, each.padding)
            self.insert_child_to_cell(str(each.index), layer)
            self.layers.append(layer)
            channels = width

    def construct(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = self.pool(x)
        for layer in self.layers:
            x = ops.relu(layer(x))
        return x


class _Features(nn.Cell):
    def __init__(self, backbone: _Backbone, channels: Sequence[int]):
        super().__init__()
        self.stages = []
        before = 3
        for number, (stage, width, pool) in enumerate(zip(backbone.stages, channels, backbone.pools), start=1):
            cell = _Stage(stage, before, width, backbone.pool_size if pool else 0)
            self.insert_child_to_cell(f"slice{number}", cell)
            self.stages.append(cell)
            before = width

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        found = ()
        for stage in self.stages:
            x = stage(x)
            found = (*found, x)
        return found


class _ScalingLayer(nn.Cell):
    def __init__(self):
        super().__init__()
        self.shift, self.scale = (
            Parameter(Tensor(np.reshape(values, (1, 3, 1, 1)), ms.float32), requires_grad=False)
            for values in (SHIFT, SCALE)
        )

    def construct(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


class _Weighted(nn.Cell):
    """A 1x1 convolution to one channel. The original drops features before it in its own training, hence the name."""

    def __init__(self, channels: int):
        super().__init__()
        self.model = nn.SequentialCell(OrderedDict([("1", Conv2d(channels, 1, 1, has_bias=False))]))

    def construct(self, x: Tensor) -> Tensor:
        return self.model(x)


class LPIPS(nn.Cell):
    """Perceptual distances of pictures; nothing of it is trained.

    Args:
        net: ``vgg``, which losses use, or ``alex``, which is usual for scores.
        channels: of the five stages, the published ones if not given.
    Raises:
        UserError: another net.
    """

    def __init__(self, net: str = "vgg", channels: Sequence[int] | None = None):
        super().__init__()
        if net not in BACKBONES:
            raise UserError(f"LPIPS has no net {net}; use one of {', '.join(BACKBONES)}")
        backbone = BACKBONES[net]
        channels = tuple(channels or backbone.channels)
        self.scaling_layer = _ScalingLayer()
        self.net = _Features(backbone, channels)
        self.lins = []
        for number, width in enumerate(channels):
            lin = _Weighted(width)
            self.insert_child_to_cell(f"lin{number}", lin)
            self.lins.append(lin)
        for name, parameter in self.parameters_and_names():
            # A compiled graph knows parameters by these names, and a loss holds those of an autoencoder beside them.
            parameter.name = f"lpips.{name}"
            parameter.requires_grad = False

    def construct(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        """Distances (N, 1, 1, 1) of pictures (N, 3, H, W) in [-1, 1]: their sum, then those of the five stages."""
        return _with_sum(tuple(found.mean((2, 3), keep_dims=True) for found in self.maps(first, second)))

    def maps(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        """Distances (N, 1, H', W') at the places of the five stages' features."""
        pairs = zip(self.net(self.scaling_layer(first)), self.net(self.scaling_layer(second)))
        found = ()
        for lin, (a, b) in zip(self.lins, pairs):
            found = (*found, lin(ops.square(_normalised(a) - _normalised(b))))
        return found

    def spatial(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        """The distance at every pixel (N, 1, H, W): the sum over the stages, then each stage's part.

        Its mean over the pixels is what Open-Sora's evaluation calls LPIPS; it differs a little from `construct`.
        """
        size = first.shape[2:]
        layers = ()
        for found in self.maps(first, second):
            layers = (*layers, ops.interpolate(found, size=size, mode="bilinear", align_corners=False))
        return _with_sum(layers)


def _with_sum(layers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    total = layers[0]
    for layer in layers[1:]:
        total = total + layer
    return (total, *layers)


def _normalised(features: Tensor) -> Tensor:
    """Of length one at every place."""
    return features / (ops.sqrt(ops.square(features).sum(1, keepdims=True) + TINY) + EPS)


def load_lpips(path: str | Path, net: str = "vgg") -> LPIPS:
    """LPIPS with the weights in a file, or in the files of a folder.

    They are those of the original package, whole (``net.slice1.0.weight``, ``lin0.model.1.weight``), or the published
    pair: torchvision's VGG-16 or AlexNet (``features.0.weight``), and the small file of the package.

    Raises:
        UserError: the weights are not there, or do not fit.
    """
    from mindone.checkpoint import load_into, read_tensors

    path = Path(path)
    files = sorted(each for each in path.iterdir() if each.suffix in WEIGHTS) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no weights of LPIPS; put VGG-16's and lin's files there")
    tensors = {}
    for file in files:
        found = read_tensors(file)
        tensors |= {_own_name(name, net): found[name] for name in found if not _is_left_out(name)}
    network = LPIPS(net)
    constants = [f"scaling_layer.{name}" for name in ("shift", "scale")]
    load_into(network, tensors, allow_missing=constants)
    return network.set_train(False)


def random_lpips(net: str = "vgg", seed: int = 0) -> LPIPS:
    """LPIPS on a network with random weights, all channels counting the same; no published number compares.

    It tells pictures apart, but not as people do: for worlds without the published weights, and for tests.
    """
    lpips = LPIPS(net)
    for name, cell in lpips.cells_and_names():
        if not isinstance(cell, Conv2d):
            continue
        weight, rng = cell.weight, runtime.stream(seed, "lpips", name)
        if name.startswith("lin"):
            init.fill(weight, np.full(weight.shape, 1 / weight.shape[1]))
            continue
        init.normal(weight, rng, float(np.sqrt(2 / np.prod(weight.shape[1:]))))
        init.zeros(cell.bias)
    return lpips


def _own_name(name: str, net: str) -> str:
    """torchvision's name of a layer → its stage and place."""
    if not name.startswith("features."):
        return name
    index, kind = name.split(".")[1:]
    for number, stage in enumerate(BACKBONES[net].stages, start=1):
        if int(index) in [each.index for each in stage]:
            return f"net.slice{number}.{index}.{kind}"
    return name


def _is_left_out(name: str) -> bool:
    """The classifier of the backbone, and the second name under which the package lists its weights."""
    return name.startswith(("classifier.", "lins."))
