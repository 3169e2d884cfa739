"""The operators that differ between devices: one list, three implementations, and one choice between them.

`plain` is short and right, from operators that MindSpore has on every device; `mindone.nn.functional` documents them.
`compiled` has the same in C++ for a CPU, as far as that is faster. `ascend` has what MindSpore offers for Ascend in
one piece, and the plain form where that refuses a shape; nothing that is compiled for a CPU may be in its graphs.
"""

from __future__ import annotations

from types import ModuleType

from mindone import runtime
from mindone.nn.kernels import ascend
from mindone.nn.kernels.library import compiled_library

if compiled_library() is None:
    from mindone.nn.kernels import plain as on_cpu
else:
    from mindone.nn.kernels import compiled as on_cpu

OPERATORS = (
    "linear",
    "attention",
    "attention_part",
    "attention_part_gradients",
    "rotate",
    "rms_norm",
    "channel_rms_norm",
    "layer_norm",
    "modulated_norm",
    "group_norm",
    "gated_sum",
    "silu",
    "gelu_tanh",
    "quick_gelu",
    "convolution",
    "square_sum",
    "adamw",
    "move_towards",
)
"""Functions of each implementation, with the same arguments and results."""


def kernels() -> ModuleType:
    """The implementation for the device that this process has, or compiles a graph for (`runtime.use_kernels`).

    In a compiled graph the choice is made once, when the graph is compiled.
    """
    return ascend if runtime.kernels() == "Ascend" else on_cpu
