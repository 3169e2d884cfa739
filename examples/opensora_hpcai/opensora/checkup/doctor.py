"""``opensora doctor``: is this machine ready, and what to do where it is not."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

import mindone
from mindone import runtime
from mindone.errors import UserError
from mindone.nn.kernels.library import compiled_library
from opensora.checkup.findings import Report
from opensora.generate.forecast import size

PYTHONS = ((3, 10), (3, 12))
# Bytes free below which a disk is worth a word: checkpoints of 1.2 are 20 GB each, with optimizer.
LITTLE_SPACE = 50e9
DISTRIBUTION = "mindone"
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def doctor(argv: Sequence[str], prog: str) -> None:
    """Looks at machine, packages, device, compiled operators, disk and hub, and says what to do about each.

    Raises:
        UserError: something is missing that commands need.
    """
    argparse.ArgumentParser(prog, description=(doctor.__doc__ or "").partition("\n")[0]).parse_args(argv)
    report = Report()
    report.check("machine", machine)
    report.check("python", python)
    for text in packages(report):
        report.add("ok", "packages", text)
    report.check("device", device)
    kernels(report)
    disks(report)
    hub(report)
    report.require_right("this machine")


def machine() -> str:
    """Processor, cores and memory.

    Raises:
        UserError: a kind of processor that there are no packages for.
    """
    kind, cores = platform.machine(), len(os.sched_getaffinity(0))
    if kind not in ("x86_64", "aarch64") or sys.platform != "linux":
        raise UserError(f"{sys.platform} on {kind} is not supported; use Linux on x86_64 or aarch64")
    return f"Linux on {kind}, {cores} cores, {size(memory_available())} of memory available"


def memory_available() -> float:
    """Bytes that processes may still use, within the limits of their cgroup."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    found = int(lines["MemAvailable"].split()[0]) * 1024.0
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.is_file() and limit.read_text().strip().isdigit():
        found = min(found, float(limit.read_text()) - float(used.read_text()))
    return found


def python() -> str:
    """The version of Python.

    Raises:
        UserError: MindSpore has none for it.
    """
    first, last = PYTHONS
    found = platform.python_version()
    if not first <= sys.version_info[:2] <= last:
        raise UserError(f"Python {found} has no MindSpore; make an environment with Python 3.10, 3.11 or 3.12")
    return f"{found} at {sys.executable}"


def packages(report: Report) -> Iterator[str]:
    """The packages that are needed and there; what is missing or of another version goes to the report."""
    found = []
    for requirement in importlib.metadata.requires(DISTRIBUTION) or () if _is_installed(DISTRIBUTION) else ():
        if "extra ==" in requirement:
            continue
        name = _NAME.match(requirement)[0]
        if not _is_installed(name):
            report.add("wrong", "packages", f"{name} is not installed; pip install '{requirement.partition(';')[0]}'")
        elif not _satisfies(requirement, importlib.metadata.version(name)):
            version = importlib.metadata.version(name)
            report.add("wrong", "packages", f"{name} {version} is not supported; pip install '{requirement}'")
        else:
            found.append(f"{name} {importlib.metadata.version(name)}")
    if not found:
        report.add("note", "packages", "mindone is not installed as a package; pip install -e . says what is needed")
        found = [f"mindone {mindone.__version__}"]
    yield ", ".join(found)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _satisfies(requirement: str, version: str) -> bool:
    if importlib.util.find_spec("packaging") is None:
        return True
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
    return not applies or wanted.specifier.contains(version, prereleases=True)


def device() -> str:
    """What commands run on.

    Raises:
        UserError: MindSpore cannot be imported, or does not compute.
    """
    try:
        chosen = runtime.setup().device
        import mindspore as ms

        total = float((ms.Tensor([1.0, 2.0]) + 1).sum().asnumpy())
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"MindSpore does not work here ({str(error).splitlines()[0]}); install the one for this machine, and on "
            "Ascend CANN and its set_env.sh"
        ) from error
    if total != 5.0:
        raise UserError(f"MindSpore computes 1 + 1 + 2 + 1 = {total:g}; install it again")
    npus = len(runtime.npu_files())
    more = f", {npus} NPUs" if npus else ", no Ascend NPU here"
    return f"{chosen}{more}, MindSpore {ms.__version__}"


def kernels(report: Report) -> None:
    """The compiled operators for a CPU."""
    if runtime.current().device != "CPU":
        report.add("ok", "operators", "those of the NPU")
        return
    library = compiled_library()
    if library:
        report.add("ok", "operators", f"compiled ones in {library.name}")
    else:
        report.add(
            "note",
            "operators",
            "no compiled ones: MindSpore's own run several times slower; with a C++ compiler (g++), pip install -e . "
            "builds them",
        )


def disks(report: Report) -> None:
    """Space where results and temporary files go."""
    for what, folder in (("disk", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        if not os.access(folder, os.W_OK):
            report.add("wrong", what, f"{folder} cannot be written; go to another folder, or set TMPDIR")
        elif free < LITTLE_SPACE and what == "disk":
            report.add(
                "note", what, f"{size(free)} free in {folder}; give output_path on a larger disk for real models"
            )
        else:
            report.add("ok", what, f"{size(free)} free in {folder}")


def hub(report: Report) -> None:
    """Where models are downloaded from; nothing is asked of the network."""
    endpoint = os.environ.get("HF_ENDPOINT", "")
    parts = urllib.parse.urlsplit(endpoint)
    if endpoint and (parts.scheme not in ("http", "https") or not parts.netloc):
        report.add("wrong", "hub", f"HF_ENDPOINT={endpoint} is no address; use e.g. https://hf-mirror.com, or unset it")
    elif os.environ.get("HF_HUB_OFFLINE") == "1":
        report.add("note", "hub", "HF_HUB_OFFLINE=1: nothing is downloaded; unset it to fetch models")
    elif endpoint:
        report.add("ok", "hub", f"models come from {endpoint} (HF_ENDPOINT)")
    else:
        report.add(
            "ok", "hub", "models come from huggingface.co; set HF_ENDPOINT for a mirror where that is not reached"
        )
