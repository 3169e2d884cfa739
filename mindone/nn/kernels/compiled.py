"""The operators in C++ for a CPU (`csrc`), as cells with gradients, in float32.

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

_NO_BIAS = Tensor(np.zeros((1, 1, 1, 1), np.float32))
_NO_MASK = Tensor(np.ones((1, 1, 1, 1), np.bool_))


def _first(x, *_):
    return x


def _first_twice(x, *_):
    return x, x


def _first_three(x, y, z, *_):
    return x, y, z


def _number(*_: Shape) -> Shape:
    return (1,)


class Operator(ops.Custom):
    """A function of the library as an operator: its results follow from the shapes and dtypes of its inputs.

    MindSpore keeps results of ``out_shape`` for inputs of the same shape: where it depends on more, on ``kind``.
    """

    def __init__(self, name: str, out_shape: Callable = _first, out_dtype: Callable = _first, kind: str = ""):
        super().__init__(f"{compiled_library()}:{name}", out_shape=out_shape, out_dtype=out_dtype, func_type="aot")
        self.add_prim_attr("kind", kind)

    def __call__(self, *inputs: Tensor):
        """In PyNative mode, where a tensor may be a view of another one; the kernels know no strides."""
        return super().__call__(*(x.contiguous() for x in inputs))


class Kernel(nn.Cell):
    """An operator of three tensors, and operators that give their gradients, in the order of the tensors.

    Args:
        forward: gives the result, or the result and what is kept for the gradients.
        gradients: an operator and what it takes: 0 to 2 are the tensors, 3 the gradient of the result, 4 the result, 5
            what is kept.
        settings: the last inputs of all these operators, tensors as well.
    """

    def __init__(self, forward: Operator, *gradients: tuple[Operator, tuple[int, ...]], settings: tuple = ()):
        super().__init__()
        self.forward, self.settings = forward, settings
        self.gradients, self.takes = tuple(zip(*gradients))

    def construct(self, a: Tensor, b: Tensor, c: Tensor):
        return self.forward(a, b, c, *self.settings)

    def bprop(self, a: Tensor, b: Tensor, c: Tensor, out, dout):
        known = (a, b, c, dout[0], *out) if isinstance(out, tuple) else (a, b, c, dout, out)
        slopes = ()
        for i in range(len(self.gradients)):
            taken = ()
            for number in self.takes[i]:
                taken = (*taken, known[number])
            given = self.gradients[i](*taken, *self.settings)
            slopes = (*slopes, *given) if isinstance(given, tuple) else (*slopes, given)
        return slopes


def _full(shape: Shape, value: float) -> Tensor:
    return ops.FillV2()(shape, Tensor(value, ms.float32))


# --- products --------------------------------------------------------------------------------------------------------


class Linear(Kernel):
    """``x W^T + b`` of rows: (R, in), (out, in), (out,) → (R, out)."""

    def __init__(self):
        super().__init__(
            Operator("mindone_linear", lambda x, weight, _: (x[0], weight[0])),
            (Operator("mindone_linear_input_gradient", lambda weight, dy: (dy[0], weight[1])), (1, 3)),
            (Operator("mindone_linear_weight_gradient", lambda x, dy: ((dy[1], x[1]), dy[1:]), _first_twice), (0, 3)),
        )


class SmallLinear(nn.Cell):
    """The same from MindSpore's products, the gradient of the bias as well: its sums over rows are slow."""

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.BiasAdd()(ops.MatMul(transpose_b=True)(x, weight), bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dy: Tensor):
        ones = _full((1, x.shape[0]), 1.0)
        return ops.MatMul()(dy, weight), ops.MatMul(transpose_a=True)(dy, x), ops.MatMul()(ones, dy).reshape(-1)


_large_linear, _small_linear, _times_transposed = Linear(), SmallLinear(), ops.MatMul(transpose_b=True)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dtype != ms.float32:
        return plain.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if min(weight.shape) >= LARGE_WEIGHT:
        y = _large_linear(rows, weight, _full(weight.shape[:1], 0.0) if bias is None else bias)
    else:
        y = _times_transposed(rows, weight) if bias is None else _small_linear(rows, weight, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0])


class Convolution(Kernel):
    """(B, C, T, H, W), (O, C / groups, kt, kh, kw), (O,) → (B, O, T', H', W')."""

    def __init__(self, stride: Triple, padding: Padding, groups: int, replicate: bool):
        def result(x: Shape, weight: Shape, *_: Shape) -> Shape:
            return (x[0], weight[0], *result_size(x[2:], weight[2:], stride, padding))

        def of_weight(x: Shape, weight: Shape, *_: Shape) -> tuple[Shape, Shape]:
            return weight, weight[:1]

        numbers = (*stride, *(before for before, _ in padding), groups, int(replicate))
        super().__init__(
            Operator("mindone_conv", result, kind=f"{stride} {padding}"),
            (Operator("mindone_conv_input_gradient"), (0, 1, 3)),
            (Operator("mindone_conv_weight_gradient", of_weight, _first_twice), (0, 1, 3)),
            settings=(Tensor(np.array(numbers, np.int32)),),
        )


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
    """``softmax(scale q k^T + bias) v`` of (B, N, h, D), (B, M, h, D), (B, M, h, E); also the logarithm of each sum.

    Bias and mask (bool) have four axes, each as long as that of the scores (B, h, N, M) or 1; a single value stands for
    none. Only frozen networks have a bias: where one is differentiated, the plain form's gradients are taken.
    """

    def __init__(self, scale: float, biased: bool):
        super().__init__()
        self.scale, self.biased, self.settings = scale, biased, Tensor(scale, ms.float32)
        shapes = lambda q, k, v, *_: ((*q[:3], v[3]), (q[0], q[2], q[1]))  # noqa: E731
        self.forward = Operator("mindone_attention", shapes, _first_twice)
        self.backward = Operator("mindone_attention_gradient", _first_three, _first_three)
        self.plain, self.gradients = PlainAttention(scale), ops.GradOperation(get_all=True, sens_param=True)
        self.zeros = ops.ZerosLike()

    def construct(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor):
        return self.forward(q, k, v, bias, mask, self.settings)

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, out, dout):
        if self.biased:
            # Of copies: in PyNative mode the tensors themselves belong to the gradient that is being computed.
            q, k, v, bias = q * 1.0, k * 1.0, v * 1.0, bias * 1.0
            return *self.gradients(self.plain)(q, k, v, bias, mask, dout[0])[:4], self.zeros(mask)
        gradients = self.backward(q, k, v, bias, mask, self.settings, *out, dout[0])
        return *gradients, self.zeros(bias), self.zeros(mask)


class PlainAttention(nn.Cell):
    """The plain form with the inputs of `Attention`."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def construct(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return plain.attention(q, k, v, mask, self.scale, bias)


_attention = functools.cache(Attention)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, bias: Tensor | None) -> Tensor:
    cell = _attention(scale, bias is not None)
    bias = _NO_BIAS if bias is None else cast(bias, ms.float32)
    mask = _NO_MASK if mask is None else mask
    return cast(cell(cast(q, ms.float32), cast(k, ms.float32), cast(v, ms.float32), bias, mask)[0], q.dtype)


def attention_part(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return _attention(scale, False)(cast(q, ms.float32), cast(k, ms.float32), cast(v, ms.float32), _NO_BIAS, _NO_MASK)


class PartGradients(nn.Cell):
    """`plain.attention_part_gradients`."""

    def __init__(self, scale: float):
        super().__init__()
        self.settings = Tensor(scale, ms.float32)
        self.backward = Operator("mindone_attention_gradient", _first_three, _first_three)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sums: Tensor, d_out: Tensor):
        return self.backward(q, k, v, _NO_BIAS, _NO_MASK, self.settings, out, log_sums, d_out)


_part_gradients = functools.cache(PartGradients)


def attention_part_gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sums: Tensor, d_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = cast(q, ms.float32), cast(k, ms.float32), cast(v, ms.float32)
    return _part_gradients(scale)(q, k, v, out, log_sums, cast(d_out, ms.float32))


class Rotation(nn.Cell):
    """(B, N, h, d) and angles (N, d / 2) or (B, N, d / 2), which get no gradients."""

    def __init__(self, halves: bool):
        super().__init__()
        self.forwards, self.backwards = (Tensor(np.array([halves, sign], np.int32)) for sign in (1, -1))
        self.rotate, self.zeros = Operator("mindone_rotate"), ops.ZerosLike()

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.rotate(x, cos, sin, self.forwards)

    def bprop(self, x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, dout: Tensor):
        return self.rotate(dout, cos, sin, self.backwards), self.zeros(cos), self.zeros(sin)


_rotation = functools.cache(Rotation)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, halves: bool) -> Tensor:
    return cast(_rotation(halves)(cast(x, ms.float32), cos, sin), x.dtype)


# --- norms -----------------------------------------------------------------------------------------------------------


class Norm(Kernel):
    """Of a tensor, a gain and a shift; what is kept are the mean (zero if there is none) and the factor of each norm.

    Args:
        name: ``row_norm`` of rows (G, R, D) with (G, 1, D), settings eps and whether the mean is subtracted;
            ``channel_norm`` of the channels of (B, C, N) with (C,), whose mean is not; ``group_norm`` of (B, C, ...)
            with (C,).
        groups: number of groups of channels for ``group_norm``.
    """

    def __init__(self, name: str, *settings: float, groups: int = 0):
        shapes = {
            "row_norm": lambda x, *_: (x, (*x[:2], 2)),
            "channel_norm": lambda x, *_: (x, (x[0], x[2])),
            "group_norm": lambda x, *_: (x, (x[0], groups, 2)),
        }
        super().__init__(
            Operator(f"mindone_{name}", shapes[name], _first_twice, f"{groups} groups"),
            (
                Operator(f"mindone_{name}_gradient", lambda x, gain, *_: (x, gain, gain), lambda x, *_: (x, x, x)),
                (0, 1, 3, 5),
            ),
            settings=(Tensor(np.array(settings, np.float32)),),
        )


_norm = functools.cache(Norm)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    gain = weight.reshape(1, 1, -1)
    return _norm_of_rows(x, gain, _full(gain.shape, 0.0), _norm("row_norm", eps, 0.0))


def channel_rms_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    rows = cast(x, ms.float32).reshape(*x.shape[:2], -1)
    return cast(_norm("channel_norm", eps)(rows, weight, bias)[0].reshape(x.shape), x.dtype)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    shape = (1, 1, x.shape[-1])
    gain = _full(shape, 1.0) if weight is None else weight.reshape(shape)
    shift = _full(shape, 0.0) if bias is None else bias.reshape(shape)
    return _norm_of_rows(x, gain, shift, _norm("row_norm", eps, 1.0))


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return _norm_of_rows(x, _rows_of_groups(scale) + 1.0, _rows_of_groups(shift), _norm("row_norm", eps, 1.0))


def _norm_of_rows(x: Tensor, gain: Tensor, shift: Tensor, norm: Norm) -> Tensor:
    groups = cast(x, ms.float32).reshape(gain.shape[0], -1, x.shape[-1])
    return cast(norm(groups, gain, shift)[0].reshape(x.shape), x.dtype)


def _rows_of_groups(vectors: Tensor) -> Tensor:
    """(B, F, 1, D) → (B * F, 1, D), (B, 1, D) as it is; float32."""
    return cast(vectors, ms.float32).reshape(-1, 1, vectors.shape[-1])


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
    return cast(_norm("group_norm", eps, groups=num_groups)(cast(x, ms.float32), weight, bias)[0], x.dtype)


# --- gates and activations -------------------------------------------------------------------------------------------


class Activation(nn.Cell):
    """A function of each value."""

    def __init__(self, name: str):
        super().__init__()
        self.forward, self.backward = Operator(name), Operator(f"{name}_gradient")

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (self.backward(x, dout),)


# (G, R, D), (G, 1, D), (G, R, D) → (G, R, D); the gradient of the first one is that of the result.
_gated_sum = Kernel(
    Operator("mindone_gated_sum"),
    (_first, (3,)),
    (Operator("mindone_gated_sum_gradient", lambda gate, y, _: (gate, y), _first_twice), (1, 2, 3)),
)
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
        super().__init__(name, _number)
        self.add_prim_attr("side_effect_mem", True)


def _signature(written: str, read: str) -> tuple:
    write = signature.sig_rw.RW_WRITE
    return *(signature.make_sig(name, write) for name in written.split()), *map(signature.make_sig, read.split())


class AdamW(InPlace):
    __mindspore_signature__ = _signature("parameter exp_avg exp_avg_sq", "gradient rate beta1 beta2 eps decay scale")


class MoveTowards(InPlace):
    __mindspore_signature__ = _signature("average", "parameter rate")


_adamw, _move_towards = AdamW("mindone_adamw"), MoveTowards("mindone_move_towards")
_square_sum = Operator("mindone_square_sum", _number)


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
