"""Which library of operators compiled from `csrc` fits this processor, if there is any.

They are compiled when the package is installed, once for each kind of processor in `VARIANTS`, if there is a compiler;
the widest one that this processor knows is taken. `MINDONE_NATIVE=0` in the environment asks for none,
`MINDONE_NATIVE=avx2` for a narrower kind.
"""

from __future__ import annotations

import functools
import importlib.machinery
import logging
import os
import platform
from pathlib import Path

from mindone.errors import UserError

logger = logging.getLogger(__name__)

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
def compiled_library() -> Path | None:
    """The compiled operators for this processor, if there are any."""
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
    logger.info("no compiled operators for this processor: MindSpore's own are used, which are slower")
    return None


def processor_flags() -> frozenset[str]:
    """What the first processor can do, as Linux names it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
