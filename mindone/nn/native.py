"""CPU kernels in C++ (`mindone/nn/csrc`), for what MindSpore's own operators compute several times slower.

They are compiled when the package is installed, once for each kind of processor in `VARIANTS`, if there is a compiler;
the widest one that this processor knows is used. Without them everything runs as well, from MindSpore's operators
alone, only slower. `MINDONE_NATIVE=0` in the environment asks for that.
"""

from __future__ import annotations

import functools
import importlib.machinery
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]
Triple = tuple[int, int, int]

FOLDER = Path(__file__).parent
VARIANTS: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {
        "avx512": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
        "avx2": frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c"}),
    },
    "aarch64": {"neon": frozenset()},
}
"""The kinds of processors of an architecture, the widest first, and what /proc/cpuinfo has to list for each."""


@functools.cache
def library() -> Path | None:
    """The compiled kernels for this processor, if there are any."""
    if os.environ.get("MINDONE_NATIVE", "1") == "0":
        return None
    known = processor_flags()
    for name, needed in VARIANTS.get(platform.machine(), {}).items():
        file = FOLDER / f"_kernels_{name}{importlib.machinery.EXTENSION_SUFFIXES[0]}"
        if needed <= known and file.is_file():
            return file
    logger.info("no compiled CPU kernels for this processor: MindSpore's own operators are used, which are slower")
    return None


def processor_flags() -> frozenset[str]:
    """What the first processor can do, as Linux names it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def available() -> bool:
    """Whether there are compiled kernels for this processor."""
    return library() is not None


def operator(name: str, out_shape: Callable, out_dtype: Callable, kind: str = "") -> ops.Custom:
    """A function of the library as an operator: its results follow from the shapes and dtypes of its inputs.

    MindSpore keeps results of ``out_shape`` for inputs of the same shape: where it depends on more, on ``kind``.
    """
    custom = ops.Custom(f"{library()}:{name}", out_shape=out_shape, out_dtype=out_dtype, func_type="aot")
    return custom.add_prim_attr("kind", kind)


class Convolution(nn.Cell):
    """(B, C, T, H, W), (O, C / groups, kt, kh, kw), (O,) → (B, O, T', H', W'), all float32.

    Args:
        stride, padding: of time, height and width; (before, after) zeros, or copies of the edges if ``replicate``.
    """

    def __init__(self, stride: Triple, padding: tuple[tuple[int, int], ...], groups: int, replicate: bool):
        super().__init__()
        numbers = (*stride, *(before for before, _ in padding), groups, int(replicate))
        self.settings = Tensor(np.array(numbers, np.int32))

        def result(x: Shape, weight: Shape, bias: Shape, settings: Shape) -> Shape:
            sizes = zip(x[2:], weight[2:], stride, padding)
            return (x[0], weight[0], *((n + sum(around) - k) // s + 1 for n, k, s, around in sizes))

        self.forward = operator("mindone_conv", result, lambda x, *_: x, f"{stride} {padding}")
        self.of_input = operator("mindone_conv_input_gradient", lambda x, *_: x, lambda x, *_: x)
        self.of_weight = operator(
            "mindone_conv_weight_gradient", lambda x, weight, *_: (weight, weight[:1]), lambda x, *_: (x, x)
        )

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias, self.settings)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d_weight, d_bias = self.of_weight(x, weight, dy, self.settings)
        return self.of_input(x, weight, dy, self.settings), d_weight, d_bias


@functools.cache
def convolution(
    stride: Triple, padding: tuple[tuple[int, int], ...], groups: int = 1, replicate: bool = False
) -> Convolution | None:
    """One cell for all convolutions of a kind: it has no parameters, and the compiler reads its source only once."""
    return Convolution(stride, padding, groups, replicate) if available() else None
