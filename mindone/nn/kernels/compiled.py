"""The operators in C++ for a CPU (`csrc`), as cells with gradients, in float32.

The statistics of norms are the mean (zero if there is none) and the factor of each row or group, side by side.

Legend: `R` rows, `D` width, `G` groups of rows that share a modulation, `B` batch, `h` heads, `N`/`M` queries/keys,
`D`/`E` size of a head's keys/values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import signature

from mindone.nn.kernels import plain
from mindone.nn.kernels.library import compiled_library
from mindone.nn.kernels.plain import Triple, cast, result_size
from mindone.nn.padding import Padding

Shape = tuple[int, ...]

LARGE_WEIGHT = 1024
"""Least width of a weight for our own product: some of MindSpore's large ones run at a third of its speed."""
MANY_ROWS, WIDE_ROWS = 2048, 256
"""So many rows of that width are for our own product as well, which adds the bias in the same pass."""

_NO_BIAS = Tensor(np.zeros((1, 1, 1, 1), np.float32))
_NO_MASK = Tensor(np.ones((1, 1, 1, 1), np.bool_))


def _like_first(x, *_):
    return x


def _like_all(*x):
    return x


def _pair(x, *_):
    return x, x


def _one(*_: Shape) -> Shape:
    return (1,)


class Operator(ops.Custom):
    """A function of the library as an operator: its results follow from the shapes and dtypes of its inputs.

    MindSpore keeps results of ``out_shape`` for inputs of the same shape: where it depends on more, on ``kind``.
    """

    def __init__(self, name: str, out_shape: Callable = _like_first, out_dtype: Callable = _like_first, kind: str = ""):
        super().__init__(f"{compiled_library()}:{name}", out_shape=out_shape, out_dtype=out_dtype, func_type="aot")
        self.add_prim_attr("kind", kind)

    def __call__(self, *inputs: Tensor):
        """In PyNative mode, where a tensor may be a view of another one; the kernels know no strides."""
        return super().__call__(*(x.contiguous() for x in inputs))


def _full(shape: Shape, value: float) -> Tensor:
    return ops.FillV2()(shape, Tensor(value, ms.float32))


# --- products --------------------------------------------------------------------------------------------------------


class Linear(nn.Cell):
    """``x W^T + b`` of rows: (R, in), (out, in), (out,) → (R, out).

    The gradient of a ``narrow`` weight is MindSpore's own product, which is faster there.
    """

    def __init__(self, narrow: bool = False):
        super().__init__()
        self.narrow = narrow
        self.forward = Operator("mindone_linear", lambda x, weight, _: (x[0], weight[0]))
        self.of_input = Operator("mindone_linear_input_gradient", lambda weight, dy: (dy[0], weight[1]))
        self.of_weight = Operator("mindone_linear_weight_gradient", lambda x, dy: ((dy[1], x[1]), (dy[1],)), _pair)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor):
        dx = self.of_input(weight, dout)
        return dx, *(_weight_gradients(x, dout) if self.narrow else self.of_weight(x, dout))


class SmallLinear(nn.Cell):
    """The same from MindSpore's products, the gradient of the bias as well: its sums over rows are slow."""

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.BiasAdd()(ops.MatMul(transpose_b=True)(x, weight), bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor):
        return ops.MatMul()(dout, weight), *_weight_gradients(x, dout)


def _weight_gradients(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    return ops.MatMul(transpose_a=True)(dy, x), ops.MatMul()(_full((1, x.shape[0]), 1.0), dy).reshape(-1)


_large_linear, _narrow_linear, _small_linear = Linear(), Linear(narrow=True), SmallLinear()
_times_transposed = ops.MatMul(transpose_b=True)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dtype != ms.float32:
        return plain.linear(x, weight, bias)
    rows, width = x.reshape(-1, x.shape[-1]), min(weight.shape)
    if width >= LARGE_WEIGHT or (rows.shape[0] >= MANY_ROWS and width >= WIDE_ROWS):
        product = _large_linear if width >= LARGE_WEIGHT else _narrow_linear
        y = product(rows, weight, _full(weight.shape[:1], 0.0) if bias is None else bias)
    else:
        y = _times_transposed(rows, weight) if bias is None else _small_linear(rows, weight, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0])


class Convolution(nn.Cell):
    """(B, C, T, H, W), (O, C / groups, kt, kh, kw), (O,) → (B, O, T', H', W')."""

    def __init__(self, stride: Triple, padding: Padding, groups: int, replicate: bool):
        super().__init__()
        numbers = (*stride, *(before for before, _ in padding), groups, int(replicate))
        self.settings = Tensor(np.array(numbers, np.int32))

        def result(x: Shape, weight: Shape, *_: Shape) -> Shape:
            return (x[0], weight[0], *result_size(x[2:], weight[2:], stride, padding))

        self.forward = Operator("mindone_conv", result, kind=f"{stride} {padding}")
        self.of_input = Operator("mindone_conv_input_gradient")
        self.of_weight = Operator("mindone_conv_weight_gradient", lambda x, weight, *_: (weight, weight[:1]), _pair)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias, self.settings)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dy: Tensor):
        return self.of_input(x, weight, dy, self.settings), *self.of_weight(x, weight, dy, self.settings)


# One cell for all of a kind: it has no parameters, and the compiler reads its source only once.
_convolution = functools.cache(Convolution)


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Triple, padding: Padding, groups: int, replicate: bool
) -> Tensor:
    bias = _full(weight.shape[:1], 0.0) if bias is None else cast(bias, ms.float32)
    cell = _convolution(stride, padding, groups, replicate)
    return cast(cell(cast(x, ms.float32), cast(weight, ms.float32), bias), x.dtype)


# --- attention -------------------------------------------------------------------------------------------------------


class Attention(nn.Cell):
    """``softmax(scale q k^T + bias) v`` of (B, h, N, D), (B, h, M, D), (B, h, M, E); also the logarithm of each sum.

    Bias and mask (bool) have four axes, each as long as that of the scores (B, h, N, M) or 1; a single value stands for
    none. A bias gets no gradient: `BiasedAttention`.
    """

    def __init__(self, tokens_first: bool):
        super().__init__()
        self.tokens_first = tokens_first

        def result(q: Shape, k: Shape, v: Shape, *_: Shape) -> tuple[Shape, Shape]:
            return (*q[:3], v[3]), ((q[0], q[2], q[1]) if tokens_first else q[:3])

        def gradients(q, k, v, *_):
            return q, k, v

        self.forward = Operator("mindone_attention", result, _pair, f"{tokens_first=}")
        self.backward = Operator("mindone_attention_gradient", gradients, gradients)
        self.zeros = ops.ZerosLike()

    def construct(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, scale: float):
        return self.forward(q, k, v, bias, mask, Tensor([scale, float(self.tokens_first)], ms.float32))

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, scale: float, out, dout):
        settings = Tensor([scale, float(self.tokens_first)], ms.float32)
        gradients = self.backward(q, k, v, bias, mask, settings, out[0], out[1], dout[0])
        return *gradients, self.zeros(bias), self.zeros(mask), scale


class BiasedAttention(nn.Cell):
    """`Attention` whose bias gets a gradient as well, from MindSpore's operators: only frozen networks have a bias."""

    def __init__(self, tokens_first: bool):
        super().__init__()
        self.tokens_first, self.attend = tokens_first, Attention(tokens_first)
        self.times_transposed, self.softmax = ops.BatchMatMul(transpose_b=True), ops.Softmax(-1)
        self.sum, self.cast, self.turn = ops.ReduceSum(keep_dims=True), ops.Cast(), ops.Transpose()

    def construct(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, scale: float):
        return self.attend(q, k, v, bias, mask, scale)

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, scale: float, out, dout):
        settings = Tensor([scale, float(self.tokens_first)], ms.float32)
        dq, dk, dv = self.attend.backward(q, k, v, bias, mask, settings, out[0], out[1], dout[0])
        q, k, v, y, dy = self._heads(q), self._heads(k), self._heads(v), self._heads(out[0]), self._heads(dout[0])
        kept = self.cast(mask, ms.float32)
        weights = self.softmax(self.times_transposed(q, k) * scale + bias + (kept - 1.0) * 1e30) * kept
        d_bias = weights * (self.times_transposed(dy, v) - self.sum(dy * y, -1))
        for axis in range(4):
            d_bias = self.sum(d_bias, axis) if bias.shape[axis] == 1 else d_bias
        return dq, dk, dv, d_bias, self.attend.zeros(mask), scale

    def _heads(self, x: Tensor) -> Tensor:
        return self.turn(x, (0, 2, 1, 3)) if self.tokens_first else x


_attention, _token_attention = Attention(False), Attention(True)
_biased_attention, _biased_token_attention = BiasedAttention(False), BiasedAttention(True)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    bias: Tensor | None,
    tokens_first: bool = False,
) -> Tensor:
    if bias is None:
        attend, bias = _token_attention if tokens_first else _attention, _NO_BIAS
    else:
        attend, bias = _biased_token_attention if tokens_first else _biased_attention, cast(bias, ms.float32)
    mask = _NO_MASK if mask is None else mask
    out = attend(cast(q, ms.float32), cast(k, ms.float32), cast(v, ms.float32), bias, mask, scale)[0]
    return cast(out, q.dtype)


class Rotation(nn.Cell):
    """(B, h, N, d), or with ``tokens_first`` (B, N, h, d), and angles (N, d / 2) or (B, N, d / 2) without gradients."""

    def __init__(self, halves: bool, tokens_first: bool):
        super().__init__()
        self.forwards, self.backwards = (Tensor(np.array([halves, sign, tokens_first], np.int32)) for sign in (1, -1))
        self.rotate, self.zeros = Operator("mindone_rotate"), ops.ZerosLike()

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.rotate(x, cos, sin, self.forwards)

    def bprop(self, x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, dout: Tensor):
        return self.rotate(dout, cos, sin, self.backwards), self.zeros(cos), self.zeros(sin)


_rotation = functools.cache(Rotation)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, halves: bool) -> Tensor:
    return cast(_rotation(halves, False)(cast(x, ms.float32), cos, sin), x.dtype)


def rotary_attention(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, halves: bool) -> Tensor:
    turn = _rotation(halves, True)
    q, k = turn(cast(q, ms.float32), cos, sin), turn(cast(k, ms.float32), cos, sin)
    return cast(attention(q, k, v, None, q.shape[-1] ** -0.5, None, True), v.dtype)


# --- norms -----------------------------------------------------------------------------------------------------------


class RmsNorm(nn.Cell):
    """Of rows (R, D) with (D,); also statistics (R, 2)."""

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
    """Of channels (B, C, N) with (C,) and (C,); also the factors (B, N)."""

    def __init__(self):
        super().__init__()
        self.forward = Operator("mindone_channel_norm", lambda x, *_: (x, (x[0], x[2])), _pair)
        self.backward = Operator("mindone_channel_norm_gradient", lambda x, *_: (x, (2, x[1])), _pair)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return self.forward(x, weight, bias, Tensor(eps, ms.float32))

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float, out, dout):
        dx, sums = self.backward(x, weight, out[1], dout[0])
        return dx, sums[0], sums[1], eps


class LayerNorm(nn.Cell):
    """Of rows (G, R, D) with gain and shift (G, 1, D); also statistics (G, R, 2)."""

    def __init__(self):
        super().__init__()
        self.forward = Operator("mindone_layer_norm", lambda x, *_: (x, (*x[:2], 2)), _pair)
        self.backward = Operator("mindone_layer_norm_gradient", lambda x, *_: (x, (x[0], 2, x[2])), _pair)

    def construct(self, x: Tensor, gain: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return self.forward(x, gain, shift, Tensor(eps, ms.float32))

    def bprop(self, x: Tensor, gain: Tensor, shift: Tensor, eps: float, out, dout):
        dx, sums = self.backward(x, gain, out[1], dout[0])
        return dx, sums[:, :1], sums[:, 1:], eps


class GroupNorm(nn.Cell):
    """Of (B, C, ...) with (C,) and (C,); also statistics (B, groups, 2)."""

    def __init__(self, num_groups: int, eps: float):
        super().__init__()
        self.settings = Tensor(np.float32(eps)), Tensor(np.int32(num_groups))
        shapes = lambda x, *_: (x, (x[0], num_groups, 2))  # noqa: E731
        self.forward = Operator("mindone_group_norm", shapes, _pair, f"{num_groups} groups")
        self.backward = Operator(
            "mindone_group_norm_gradient", lambda x, weight, *_: (x, weight, weight), lambda x, *_: (x, x, x)
        )

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x, weight, bias, *self.settings)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out, dout):
        return self.backward(x, weight, out[1], dout[0])


_rms_norm, _channel_rms_norm, _layer_norm = RmsNorm(), ChannelRmsNorm(), LayerNorm()
_group_norm = functools.cache(GroupNorm)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    rows = cast(x, ms.float32).reshape(-1, x.shape[-1])
    return cast(_rms_norm(rows, weight, eps)[0].reshape(x.shape), x.dtype)


def channel_rms_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    rows = cast(x, ms.float32).reshape(*x.shape[:2], -1)
    return cast(_channel_rms_norm(rows, weight, bias, eps)[0].reshape(x.shape), x.dtype)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    shape = (1, 1, x.shape[-1])
    gain = _full(shape, 1.0) if weight is None else weight.reshape(shape)
    shift = _full(shape, 0.0) if bias is None else bias.reshape(shape)
    return _norm_of_groups(x, gain, shift, eps)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return _norm_of_groups(x, _rows_of_groups(scale) + 1.0, _rows_of_groups(shift), eps)


def _norm_of_groups(x: Tensor, gain: Tensor, shift: Tensor, eps: float) -> Tensor:
    groups = cast(x, ms.float32).reshape(gain.shape[0], -1, x.shape[-1])
    return cast(_layer_norm(groups, gain, shift, eps)[0].reshape(x.shape), x.dtype)


def _rows_of_groups(vectors: Tensor) -> Tensor:
    """(B, F, 1, D) → (B * F, 1, D), (B, 1, D) as it is; float32."""
    return cast(vectors, ms.float32).reshape(-1, 1, vectors.shape[-1])


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
    return cast(_group_norm(num_groups, eps)(cast(x, ms.float32), weight, bias)[0], x.dtype)


# --- gates and activations -------------------------------------------------------------------------------------------


class GatedSum(nn.Cell):
    """(G, R, D), (G, 1, D), (G, R, D) → (G, R, D)."""

    def __init__(self):
        super().__init__()
        self.forward = Operator("mindone_gated_sum")
        self.backward = Operator("mindone_gated_sum_gradient", lambda gate, y, _: (gate, y), _pair)

    def construct(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        return self.forward(x, gate, y)

    def bprop(self, x: Tensor, gate: Tensor, y: Tensor, out: Tensor, dout: Tensor):
        return dout, *self.backward(gate, y, dout)


class Activation(nn.Cell):
    """A function of each value."""

    def __init__(self, name: str):
        super().__init__()
        self.forward, self.backward = Operator(name), Operator(f"{name}_gradient")

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (self.backward(x, dout),)


_gated_sum = GatedSum()
_silu, _gelu_tanh, _quick_gelu = map(Activation, ("mindone_silu", "mindone_gelu", "mindone_quick_gelu"))


def gated_sum(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    if x.dtype != ms.float32:
        return plain.gated_sum(x, gate, y)
    gate = _rows_of_groups(gate)
    shape = (gate.shape[0], -1, x.shape[-1])
    return _gated_sum(x.reshape(shape), gate, y.reshape(shape)).reshape(x.shape)


def silu(x: Tensor) -> Tensor:
    return cast(_silu(cast(x, ms.float32)), x.dtype)


def gelu_tanh(x: Tensor) -> Tensor:
    return cast(_gelu_tanh(cast(x, ms.float32)), x.dtype)


def quick_gelu(x: Tensor) -> Tensor:
    return cast(_quick_gelu(cast(x, ms.float32)), x.dtype)


# --- training updates ------------------------------------------------------------------------------------------------
# Without types: PyNative mode would hold all custom operators to those of the first one.


class InPlace(Operator):
    """Writes to some of its inputs; its result has no meaning."""

    def __init__(self, name: str):
        super().__init__(name, _one)
        self.add_prim_attr("side_effect_mem", True)


def _signature(written: str, read: str) -> tuple:
    write = signature.sig_rw.RW_WRITE
    return *(signature.make_sig(name, write) for name in written.split()), *map(signature.make_sig, read.split())


class AdamW(InPlace):
    __mindspore_signature__ = _signature("parameter exp_avg exp_avg_sq", "gradient rate beta1 beta2 eps decay scale")


class MoveTowards(InPlace):
    __mindspore_signature__ = _signature("average", "parameter rate")


_adamw, _move_towards = AdamW("mindone_adamw"), MoveTowards("mindone_move_towards")
_square_sum = Operator("mindone_square_sum", _one)


def square_sum(x):
    return _square_sum(x).reshape(()) if x.dtype == ms.float32 else plain.square_sum(x)


def adamw(parameter, exp_avg, exp_avg_sq, gradient, rate, beta1, beta2, eps, decay, scale):
    if parameter.dtype != ms.float32:
        return plain.adamw(parameter, exp_avg, exp_avg_sq, gradient, rate, beta1, beta2, eps, decay, scale)
    return _adamw(parameter, exp_avg, exp_avg_sq, gradient, rate, beta1, beta2, eps, decay, scale)


def move_towards(average, parameter, rate):
    if parameter.dtype != ms.float32:
        return plain.move_towards(average, parameter, rate)
    return _move_towards(average, parameter, rate)
