"""Device, mode, precision, seeds and ranks: the one place that touches MindSpore's global state.

Everything else asks this module, so differences between MindSpore releases and between an Ascend NPU and a CPU are
settled here once. MindSpore itself is imported inside the functions: it takes seconds, and data workers, ``--help``
and the checkpoint tools do not need it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import resource
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mindone.errors import UserError

logger = logging.getLogger(__name__)

DeviceName = Literal["auto", "CPU", "Ascend"]
GRAPH_MODE, PYNATIVE_MODE = 0, 1
DTYPES = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Runtime:
    """What was set up: the device (CPU or Ascend), graph mode or PyNative, this process's rank and their number."""

    device: str = "CPU"
    graph: bool = True
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


_current = Runtime()
_kernels: str | None = None
_said: set[str] = set()


def current() -> Runtime:
    """The runtime of this process; a CPU, graph mode and one rank until `setup` says otherwise."""
    return _current


def setup(
    device_target: DeviceName = "auto",
    graph: bool = True,
    use_parallel: bool = False,
    max_device_memory: str | None = None,
    jit_level: str | None = None,
) -> Runtime:
    """Selects device and mode, joins the other ranks if asked to, and returns what was chosen.

    Args:
        device_target: ``auto`` takes an Ascend NPU if MindSpore sees one, else the CPU.
        graph: graph mode (fast) or PyNative (debugging).
        use_parallel: join the other ranks that a launcher started, `mindone.parallel.launch` or ``msrun``.
        max_device_memory: a limit such as ``"59GB"``; Ascend only.
        jit_level: ``O0``, ``O1`` or ``O2``; Ascend only.
    Raises:
        UserError: the device is not there, ``use_parallel`` without a launcher, or one of several ranks without it.
    """
    global _current
    ms = quiet_mindspore()
    device = _choose_device(ms, device_target)
    ms.set_context(mode=ms.GRAPH_MODE if graph else ms.PYNATIVE_MODE)
    if device == "Ascend":
        if max_device_memory:
            ms.runtime.set_memory(max_size=max_device_memory)
        if jit_level:
            ms.set_context(jit_config={"jit_level": jit_level})
    elif not graph:
        # The threads that would run operators behind Python's back wait for each other by spinning.
        ms.runtime.launch_blocking()
    if launched_ranks() > 1 and not use_parallel:
        raise UserError(
            f"this is one of {launched_ranks()} processes that a launcher started, and each would do all of the work; "
            "give --use_parallel True to share it"
        )
    rank, world_size = _join_ranks(ms) if use_parallel else (0, 1)
    _current = Runtime(device, graph, rank, world_size)
    return _current


def quiet_mindspore():
    """Imports MindSpore with its start-up chatter held back, and returns the module."""
    os.environ.setdefault("GLOG_v", "3")
    # After an error of its own MindSpore writes graphs for its developers, by default into the current folder.
    os.environ.setdefault("MS_OM_PATH", str(Path(tempfile.gettempdir()) / f"mindspore-{os.getuid()}"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mindspore as ms
    return ms


def _choose_device(ms, target: str) -> str:
    if target not in ("auto", "CPU", "Ascend"):
        raise UserError(f"device_target={target} is not known; use auto, CPU or Ascend")
    if target == "Ascend" or (target == "auto" and npu_files()):
        try:
            ms.set_device("Ascend")
            return "Ascend"
        except (RuntimeError, ValueError, TypeError) as error:
            if target == "Ascend":
                raise UserError(
                    "device_target=Ascend, but MindSpore finds no Ascend NPU here; use device_target=CPU or auto"
                ) from error
    if ms.get_context("device_target") != "CPU":
        ms.set_device("CPU")
    return "CPU"


def npu_files() -> list[Path]:
    """The device files of NPUs: asked for an NPU that is not there, MindSpore fills the screen with warnings."""
    return list(Path("/dev").glob("davinci[0-9]*"))


def launched_ranks() -> int:
    """How many worker processes the launcher announced; 1 without one."""
    return int(os.environ.get("MS_WORKER_NUM", "1")) if "MS_ROLE" in os.environ else 1


def _join_ranks(ms) -> tuple[int, int]:
    from mindspore.communication import get_group_size, get_rank, init

    if "MS_ROLE" not in os.environ and "RANK_TABLE_FILE" not in os.environ:
        raise UserError(
            "use_parallel=True needs a launcher; start the script by python -m mindone.parallel.launch --nproc N"
        )
    init("mccl" if ms.get_context("device_target") == "CPU" else "hccl")
    rank, world_size = get_rank(), get_group_size()
    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.STAND_ALONE, device_num=world_size, global_rank=rank, gradients_mean=True
    )
    return rank, world_size


# --- precision -------------------------------------------------------------------------------------------------------


def compute_dtype(name: str):
    """The MindSpore dtype in which matrix products run for ``fp32``, ``fp16`` or ``bf16``.

    A CPU has no bfloat16 arithmetic: there ``bf16`` runs in float32, and says so once.
    """
    ms = quiet_mindspore()
    if name not in DTYPES:
        raise UserError(f"dtype={name} is not known; use one of {', '.join(DTYPES)}")
    if name == "bf16" and kernels() == "CPU":
        say_once("dtype bf16: a CPU has no bfloat16 arithmetic, so this runs in float32")
        name = "fp32"
    return {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}[name]


def say_once(message: str) -> None:
    """Logs a notice at most once per process, on the main rank."""
    if message not in _said:
        _said.add(message)
        if _current.is_main:
            logger.warning(message)


# --- kernels ---------------------------------------------------------------------------------------------------------


def kernels() -> str:
    """Whose kernels `mindone.nn.functional` selects: ``CPU`` or ``Ascend``; the device's own unless overridden."""
    return _kernels or _current.device


@contextlib.contextmanager
def use_kernels(target: Literal["CPU", "Ascend"]) -> Iterator[None]:
    """Selects another device's kernels, for compiling an Ascend graph through the front end on this machine."""
    global _kernels
    before, _kernels = _kernels, target
    try:
        yield
    finally:
        _kernels = before


def lazy_parameters():
    """A context in which parameters have shape and dtype but no memory, until a checkpoint fills them."""
    quiet_mindspore()
    from mindspore.nn.utils import no_init_parameters

    return no_init_parameters()


# --- randomness ------------------------------------------------------------------------------------------------------


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A named random stream: the same seed and names give the same numbers on every rank and every machine.

    ``stream(seed, "noise", step, position)`` belongs to one sample, so a result does not depend on the batch or on
    the number of ranks it was drawn in.
    """
    keys = [zlib.crc32(name.encode()) if isinstance(name, str) else int(name) for name in names]
    return np.random.default_rng(np.random.SeedSequence([int(seed), *keys]))


def random_seed() -> int:
    """A fresh seed below 2**31 for a run that was given none; it is printed and saved, so the run can be repeated."""
    return int(np.random.SeedSequence().generate_state(1)[0] & 0x7FFFFFFF)


# --- memory ----------------------------------------------------------------------------------------------------------


def peak_memory() -> int:
    """The largest resident memory that this process has had so far, in bytes; that of a device is not in it."""
    # What getrusage says begins with the memory of the process that started this one.
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- graphs for a device that is not here ----------------------------------------------------------------------------


@dataclass(frozen=True)
class FrontEndGraph:
    """What MindSpore's front end made of a cell."""

    operators: Mapping[str, int]
    """how often each occurs"""
    sent: Mapping[str, tuple[int, ...]]
    """by collective, the bytes of each result: of an AllGather the whole, of a ReduceScatter one rank's slice"""


COLLECTIVES = ("AllReduce", "AllGather", "ReduceScatter", "AlltoAllV")
_BYTES = {1: 4, 6: 4, 7: 8, 10: 2, 11: 8, 16: 2}
"""of a number, by its type in MindIR: float32, int32, int64, float16, float64, bfloat16"""


def compile_front_end(cell, *inputs) -> FrontEndGraph:
    """Runs a cell through MindSpore's front end only.

    Parsing, type and shape inference and automatic differentiation take place as for a real run, but no kernel is
    selected and no parameter needs memory, so an Ascend graph at its published size compiles on any machine.

    Raises:
        RuntimeError, TypeError, ValueError: what the front end found wrong.
    """
    quiet_mindspore()
    from mindspore.common.api import _cell_graph_executor as executor
    from mindspore.train.mind_ir_pb2 import ModelProto

    # What follows a compilation would fill the parameters, optimizer moments included.
    object.__setattr__(cell, "init_parameters_data", lambda **_: {})
    graph_id, _ = executor.compile(cell, *inputs, phase="export", do_convert=False)
    model = ModelProto()
    model.ParseFromString(executor._get_func_graph_proto(cell, graph_id, "mind_ir"))
    operators: dict[str, int] = {}
    sent: dict[str, tuple[int, ...]] = {}
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            name = node.op_type.split("::")[-1].split(":")[0]
            operators[name] = operators.get(name, 0) + 1
            if name in COLLECTIVES:
                results = [result for each in node.attribute if each.name == "shape" for result in each.tensors]
                size = sum(math.prod(result.dims) * _BYTES[result.data_type] for result in results)
                sent[name] = (*sent.get(name, ()), size)
    return FrontEndGraph(operators, sent)
