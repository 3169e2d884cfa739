"""CPU kernels in C++ (`mindone/nn/csrc`), for what MindSpore's own operators compute several times slower.

They are compiled when the package is installed, once for each kind of processor in `VARIANTS`, if there is a compiler;
the widest one that this processor knows is used. Without them everything runs as well, from MindSpore's operators
alone, only slower. `MINDONE_NATIVE=0` in the environment asks for that, `MINDONE_NATIVE=avx2` for a narrower kind.
"""

from __future__ import annotations

import functools
import importlib.machinery
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import signature

from mindone.errors import UserError
from mindone.nn import cpu

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
    wanted = os.environ.get("MINDONE_NATIVE", "")
    if wanted == "0":
        return None
    known, variants = processor_flags(), VARIANTS.get(platform.machine(), {})
    if wanted and wanted not in variants:
        raise UserError(f"MINDONE_NATIVE={wanted} is not known on this machine; use {', '.join(('0', *variants))}")
    for name, needed in variants.items():
        file = FOLDER / f"_kernels_{name}{importlib.machinery.EXTENSION_SUFFIXES[0]}"
        if needed <= known and file.is_file() and wanted in ("", name):
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


class Operator(ops.Custom):
    """A function of the library as an operator: its results follow from the shapes and dtypes of its inputs.

    MindSpore keeps results of ``out_shape`` for inputs of the same shape: where it depends on more, on ``kind``.
    """

    def __init__(self, name: str, out_shape: Callable, out_dtype: Callable, kind: str = ""):
        super().__init__(f"{library()}:{name}", out_shape=out_shape, out_dtype=out_dtype, func_type="aot")
        self.add_prim_attr("kind", kind)

    def __call__(self, *inputs: Tensor):
        """In PyNative mode, where a tensor may be a view of another one; the kernels know no strides."""
        return super().__call__(*(x.contiguous() for x in inputs))


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

        self.forward = Operator("mindone_conv", result, lambda x, *_: x, f"{stride} {padding}")
        self.of_input = Operator("mindone_conv_input_gradient", lambda x, *_: x, lambda x, *_: x)
        self.of_weight = Operator(
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


# What follows has the arguments and results of the cells of the same name in `mindone.nn.cpu`; its statistics are the
# mean (zero if there is none) and the factor of each row or group, side by side. Legend as there.


def _first(x, *_):
    return x


def _pair(x, *_):
    return x, x


def _one(*_: Shape) -> Shape:
    return (1,)


class _Activation(nn.Cell):
    def __init__(self, name: str):
        super().__init__()
        self.forward = Operator(name, _first, _first)
        self.backward = Operator(f"{name}_gradient", _first, _first)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (self.backward(x, dout),)


class Silu(_Activation):
    """``x sigmoid(x)``."""

    def __init__(self):
        super().__init__("mindone_silu")


class Gelu(_Activation):
    """GELU in its tanh form."""

    def __init__(self):
        super().__init__("mindone_gelu")


class QuickGelu(_Activation):
    """``x sigmoid(1.702 x)``."""

    def __init__(self):
        super().__init__("mindone_quick_gelu")


class Linear(nn.Cell):
    """``x W^T + b`` of rows: (R, in), (out, in), (out,) → (R, out).

    The gradient of a ``narrow`` weight is MindSpore's own product, which is faster there.
    """

    def __init__(self, narrow: bool = False):
        super().__init__()
        self.narrow = narrow
        self.forward = Operator("mindone_linear", lambda x, weight, _: (x[0], weight[0]), _first)
        self.of_input = Operator("mindone_linear_input_gradient", lambda weight, dy: (dy[0], weight[1]), _first)
        self.of_weight = Operator("mindone_linear_weight_gradient", lambda x, dy: ((dy[1], x[1]), (dy[1],)), _pair)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor):
        dx = self.of_input(weight, dout)
        if self.narrow:
            return dx, *cpu.weight_gradients(x, dout)
        return dx, *self.of_weight(x, dout)


class LayerNorm(nn.Cell):
    """``(x - mean) / sqrt(var + eps) * gain + shift``: (G, R, D), (G, 1, D), (G, 1, D); also statistics (G, R, 2)."""

    def __init__(self):
        super().__init__()
        self.forward = Operator("mindone_layer_norm", lambda x, *_: (x, (*x[:2], 2)), _pair)
        self.backward = Operator("mindone_layer_norm_gradient", lambda x, *_: (x, (x[0], 2, x[2])), _pair)

    def construct(self, x: Tensor, gain: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return self.forward(x, gain, shift, Tensor(eps, ms.float32))

    def bprop(self, x: Tensor, gain: Tensor, shift: Tensor, eps: float, out, dout):
        dx, sums = self.backward(x, gain, out[1], dout[0])
        return dx, sums[:, :1], sums[:, 1:], eps


class RmsNorm(nn.Cell):
    """``x / sqrt(mean(x^2) + eps) * weight`` of rows (R, D) and (D,); also statistics (R, 2)."""

    def __init__(self):
        super().__init__()
        self.forward = Operator("mindone_rms_norm", lambda x, *_: (x, (x[0], 2)), _pair)
        self.backward = Operator("mindone_rms_norm_gradient", lambda x, *_: (x, (2, x[1])), _pair)

    def construct(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return self.forward(x, weight, Tensor(eps, ms.float32))

    def bprop(self, x: Tensor, weight: Tensor, eps: float, out, dout):
        dx, sums = self.backward(x, weight, out[1], dout[0])
        return dx, sums[0], eps


class ChannelRmsNorm(nn.Cell):
    """``x / sqrt(mean(x^2) + eps) * weight + bias`` over the channels of (B, C, N); also the factors (B, N)."""

    def __init__(self):
        super().__init__()
        self.forward = Operator("mindone_channel_norm", lambda x, *_: (x, (x[0], x[2])), _pair)
        self.backward = Operator("mindone_channel_norm_gradient", lambda x, *_: (x, (2, x[1])), _pair)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return self.forward(x, weight, bias, Tensor(eps, ms.float32))

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float, out, dout):
        dx, sums = self.backward(x, weight, out[1], dout[0])
        return dx, sums[0], sums[1], eps


class GroupNorm(nn.Cell):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` of (N, C, ...); also statistics (N, G, 2)."""

    def __init__(self, num_groups: int, eps: float):
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.settings = Tensor(np.float32(eps)), Tensor(np.int32(num_groups))
        self.forward = Operator(
            "mindone_group_norm", lambda x, *_: (x, (x[0], num_groups, 2)), _pair, f"{num_groups} groups"
        )
        self.backward = Operator(
            "mindone_group_norm_gradient", lambda x, weight, *_: (x, weight, weight), lambda x, *_: (x, x, x)
        )

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x, weight, bias, *self.settings)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out, dout):
        return self.backward(x, weight, out[1], dout[0])


class Attention(nn.Cell):
    """``softmax(scale q k^T + bias) v`` of (B, h, N, D), (B, h, M, D), (B, h, M, E); also the logarithm of each sum.

    Where the mask is False a key is left out; a query without any gets zeros. Bias and mask (bool) have four axes, each
    as long as that of the scores (B, h, N, M) or 1. They get no gradient.

    Args:
        tokens_first: of (B, N, h, D) and so on.
    """

    def __init__(self, tokens_first: bool = False):
        super().__init__()
        self.tokens_first = float(tokens_first)

        def result(q: Shape, k: Shape, v: Shape, *_: Shape) -> tuple[Shape, Shape]:
            sums = (q[0], q[2], q[1]) if tokens_first else q[:3]
            return (*q[:3], v[3]), sums

        self.forward = Operator("mindone_attention", result, _pair, f"{tokens_first=}")
        self.backward = Operator(
            "mindone_attention_gradient", lambda q, k, v, *_: (q, k, v), lambda q, k, v, *_: (q, k, v)
        )
        self.zeros = ops.ZerosLike()

    def construct(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        return self.forward(q, k, v, bias, mask, Tensor([scale, self.tokens_first], ms.float32))

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, scale: float, out, dout):
        settings = Tensor([scale, self.tokens_first], ms.float32)
        dq, dk, dv = self.backward(q, k, v, bias, mask, settings, out[0], out[1], dout[0])
        return dq, dk, dv, self.zeros(bias), self.zeros(mask), scale


class GatedSum(nn.Cell):
    """``x + gate * y``: (G, R, D), (G, 1, D), (G, R, D) → (G, R, D)."""

    def __init__(self):
        super().__init__()
        self.forward = Operator("mindone_gated_sum", _first, _first)
        self.backward = Operator("mindone_gated_sum_gradient", lambda gate, y, _: (gate, y), _pair)

    def construct(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        return self.forward(x, gate, y)

    def bprop(self, x: Tensor, gate: Tensor, y: Tensor, out: Tensor, dout: Tensor):
        d_gate, dy = self.backward(gate, y, dout)
        return dout, d_gate, dy


class Rotation(nn.Cell):
    """Rotates pairs of the last axis of (B, h, N, d) by angles (N, d / 2) or (B, N, d / 2): neighbours, or ``halves``.

    With ``tokens_first`` of (B, N, h, d). The angles get no gradient.
    """

    def __init__(self, halves: bool, tokens_first: bool = False):
        super().__init__()
        self.forwards, self.backwards = (Tensor(np.array([halves, sign, tokens_first], np.int32)) for sign in (1, -1))
        self.rotate = Operator("mindone_rotate", _first, _first)
        self.zeros = ops.ZerosLike()

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.rotate(x, cos, sin, self.forwards)

    def bprop(self, x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, dout: Tensor):
        return self.rotate(dout, cos, sin, self.backwards), self.zeros(cos), self.zeros(sin)


# Without types: PyNative mode would hold all custom operators to those of the first one.


def _written(name: str):
    return signature.make_sig(name, signature.sig_rw.RW_WRITE)


class AdamWUpdate(Operator):
    """In place, in one pass over a parameter and its moments; `mindone.train.optim.AdamW` tells the formula.

    ``(parameter, exp_avg, exp_avg_sq, gradient, rate, beta1, beta2, eps, decay, scale)``, all float32, gives a number
    without a meaning. With ``scale`` 0 a gradient that is not finite counts as zero.
    """

    __mindspore_signature__ = (
        *map(_written, ("parameter", "exp_avg", "exp_avg_sq")),
        *map(signature.make_sig, ("gradient", "rate", "beta1", "beta2", "eps", "decay", "scale")),
    )

    def __init__(self):
        super().__init__("mindone_adamw", _one, _first)
        self.add_prim_attr("side_effect_mem", True)


class MoveTowards(Operator):
    """``average += rate * (parameter - average)`` in place: (average, parameter, rate); its result has no meaning."""

    __mindspore_signature__ = (_written("average"), signature.make_sig("parameter"), signature.make_sig("rate"))

    def __init__(self):
        super().__init__("mindone_move_towards", _one, _first)
        self.add_prim_attr("side_effect_mem", True)


class SquareSum(Operator):
    """The sum of the squares of a tensor, (1,)."""

    def __init__(self):
        super().__init__("mindone_square_sum", _one, _first)
