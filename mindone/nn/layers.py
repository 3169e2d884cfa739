"""Layers with the published parameter names ``weight`` and ``bias``.

Cells that carry matrices multiply in their ``compute_dtype`` (float32 unless `mindone.nn.set_compute_dtype` says
otherwise) and return it; parameters stay float32. Norms compute in float32 whatever the input's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, Uniform, initializer

from mindone.nn import functional as F


class Linear(nn.Cell):
    """``x W^T + b`` on the last axis; ``weight`` (out, in) and ``bias`` (out,) uniform in ±1/sqrt(in).

    Attributes:
        adapter: a cell whose result for ``x`` is added, see `mindone.adapters`; None if there is none.
        spread: a cell that multiplies by a ``weight`` that is spread over ranks, see `mindone.parallel.zero`; None if
            it is whole.
    """

    def __init__(self, in_features: int, out_features: int, has_bias: bool = True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.compute_dtype = ms.float32
        bound = Uniform(1 / math.sqrt(in_features))
        self.weight = Parameter(initializer(bound, (out_features, in_features), ms.float32))
        self.bias = Parameter(initializer(bound, (out_features,), ms.float32)) if has_bias else None
        self.adapter: nn.Cell | None = None
        self.spread: nn.Cell | None = None

    def construct(self, x: Tensor) -> Tensor:
        dtype = self.compute_dtype
        bias = None if self.bias is None else F.cast(self.bias, dtype)
        if self.spread is None:
            out = F.linear(F.cast(x, dtype), F.cast(self.weight, dtype), bias)
        else:
            out = self.spread(F.cast(x, dtype), self.weight)
            out = out if bias is None else out + bias
        return out if self.adapter is None else out + self.adapter(x)


class Embedding(nn.Cell):
    """Rows of ``weight`` (count, width) by integer ids: (...) → (..., width) in `compute_dtype`.

    Attributes:
        table: the name of the parameter that `mindone.parallel.zero` may spread over ranks.
        spread: a cell that finds rows of such a ``weight``; None if it is whole.
    """

    table = "weight"

    def __init__(self, count: int, width: int):
        super().__init__()
        self.compute_dtype = ms.float32
        self.weight = Parameter(initializer(Normal(1.0), (count, width), ms.float32))
        self.spread: nn.Cell | None = None

    def construct(self, ids: Tensor) -> Tensor:
        rows = ops.gather(self.weight, ids, 0) if self.spread is None else self.spread(ids, self.weight)
        return F.cast(rows, self.compute_dtype)


class LayerNorm(nn.Cell):
    """Layer norm over the last axis; without ``affine`` it has no parameters."""

    def __init__(self, width: int, eps: float = 1e-6, affine: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = Parameter(initializer("ones", (width,), ms.float32)) if affine else None
        self.bias = Parameter(initializer("zeros", (width,), ms.float32)) if affine else None

    def construct(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(nn.Cell):
    """RMS norm over the last axis."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = Parameter(initializer("ones", (width,), ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight, self.eps)


class ChannelRMSNorm(nn.Cell):
    """RMS norm over the channels of (B, C, ...), with a bias."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = Parameter(initializer("ones", (channels,), ms.float32))
        self.bias = Parameter(initializer("zeros", (channels,), ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        return F.channel_rms_norm(x, self.weight, self.bias, self.eps)


class SiLU(nn.Cell):
    """``x * sigmoid(x)``."""

    def construct(self, x: Tensor) -> Tensor:
        return F.silu(x)


class GELU(nn.Cell):
    """GELU in its tanh form."""

    def construct(self, x: Tensor) -> Tensor:
        return F.gelu_tanh(x)


class Mlp(nn.Cell):
    """``fc2(act(fc1(x)))``; the activation is GELU in its tanh form unless another is given."""

    def __init__(
        self, in_features: int, hidden: int, out_features: int, activation: Callable[..., Tensor] = F.gelu_tanh
    ):
        super().__init__()
        self.fc1 = Linear(in_features, hidden)
        self.fc2 = Linear(hidden, out_features)
        self.activation = activation

    def construct(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))
