"""Ascend's operators, through the front end."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone import runtime
from mindone.nn import functional as F


class FusedKernels(nn.Cell):
    def construct(self, q, weight, cos, sin, mask):
        q = F.apply_rope_half(F.rms_norm(q, weight), cos, sin)
        return F.gelu_tanh(F.attention(q, F.apply_rope_interleaved(q, cos, sin), q, mask))


def test_ascend_graphs_use_the_fused_kernels():
    q = Tensor(np.zeros((2, 48, 3, 12)), ms.bfloat16)
    tables = [Tensor(np.zeros((48, 6)), ms.float32)] * 2
    with runtime.use_kernels("Ascend"):
        graph = runtime.compile_front_end(
            FusedKernels(), q, Tensor(np.zeros(12), ms.float32), *tables, Tensor(np.ones((2, 1, 1, 48)), ms.bool_)
        )
    assert {"FlashAttentionScore", "RmsNorm", "RotaryPositionEmbedding"} <= set(graph.operators)


class PartOfKeys(nn.Cell):
    """With a backward pass of its own, as ring attention has it."""

    def construct(self, q, k, v):
        return F.attention_part(q, k, v)

    def bprop(self, q, k, v, out, d_out):
        d_q, d_k, d_v = F.attention_part_gradients(q, k, v, out[0], out[1], d_out[0])
        return F.cast(d_q, q.dtype), F.cast(d_k, k.dtype), F.cast(d_v, v.dtype)


class PartGradients(nn.Cell):
    def __init__(self):
        super().__init__()
        self.gradients = ops.GradOperation(get_all=True)
        self.part = PartOfKeys()

    def construct(self, q, k, v):
        return self.gradients(self.part)(q, k, v)


@pytest.mark.parametrize("head_size", [12, 16])
def test_attention_to_some_keys_and_its_gradients_are_fused_for_ascend(head_size):
    q, k = (Tensor(np.zeros((2, length, 3, head_size)), ms.bfloat16) for length in (8, 5))
    with runtime.use_kernels("Ascend"):
        operators = runtime.compile_front_end(PartGradients(), q, k, k).operators
    assert {"FlashAttentionScore", "FlashAttentionScoreGrad"} <= set(operators) and "Custom" not in operators


class Rotated(nn.Cell):
    def construct(self, x, cos, sin):
        return F.apply_rope_half(x, cos, sin) + F.apply_rope_interleaved(x, cos, sin)


@pytest.mark.parametrize("shape", [(2, 3, 16, 8), (1000, 200, 1, 8), (1, 4, 2, 896)])
def test_ascend_graphs_hold_nothing_compiled_for_a_cpu_where_the_fused_rotary_operator_refuses_a_shape(shape):
    tables = [Tensor(np.zeros((shape[1], shape[3] // 2)), ms.float32)] * 2
    with runtime.use_kernels("Ascend"):
        operators = runtime.compile_front_end(Rotated(), Tensor(np.zeros(shape), ms.bfloat16), *tables).operators
    assert not {"Custom", "RotaryPositionEmbedding"} & set(operators)
