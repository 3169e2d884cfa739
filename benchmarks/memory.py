"""How much memory a 1.1 B-parameter STDiT3 needs while it is loaded, and a checkpoint of it while it is converted.

The limit is what the parameters take once in the wanted dtype, plus the largest tensor (for a conversion: the largest
tensor plus 200 MB). Each measurement is a process of its own; its peak counts from the moment before the work.

python benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindspore import nn

MEGABYTE = 1e6
CONVERSION_ALLOWANCE = 200 * MEGABYTE


def write_checkpoint(path: Path, network: nn.Cell) -> None:
    """Small random numbers in float32 for all parameters of a network, one tensor at a time."""
    import numpy as np

    from mindone.checkpoint.safetensors_file import save_safetensors
    from mindone.checkpoint.tensors import Entry, TensorFile

    rng = np.random.default_rng(0)

    def entry(shape: tuple[int, ...]) -> Entry:
        return Entry(np.dtype(np.float32), shape, lambda: 0.02 * rng.standard_normal(shape, np.float32))

    entries = {name: entry(tuple(parameter.shape)) for name, parameter in network.parameters_and_names()}
    save_safetensors(path, TensorFile(path, entries), {"format": "pt"})


def load(path: Path, dtype: str) -> tuple[float, float]:
    """Peak growth and limit, bytes, of loading the network for sampling."""
    from mindone import runtime
    from mindone.checkpoint import read_tensors
    from opensora.networks import build_denoiser, denoiser_config, load_denoiser

    runtime.setup("CPU")
    build_denoiser(denoiser_config("STDiT3-XL/2", None, {"depth": 1, "hidden_size": 72, "num_heads": 1}))
    before = runtime.peak_memory()
    network = load_denoiser(path, denoiser_config("STDiT3-XL/2"), dtype)
    parameters = sum(parameter.nbytes for parameter in network.get_parameters())
    grown = runtime.peak_memory() - before
    return grown, parameters + max(entry.nbytes for entry in read_tensors(path).entries.values())


def converted(path: Path, target: Path) -> tuple[float, float]:
    """Peak growth and limit, bytes, of a conversion to MindSpore's format."""
    from mindone import runtime
    from mindone.checkpoint import read_tensors
    from mindone.checkpoint.convert import convert

    largest = max(entry.nbytes for entry in read_tensors(path).entries.values())
    before = runtime.peak_memory()
    convert(path, target)
    return runtime.peak_memory() - before, largest + CONVERSION_ALLOWANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        name, folder = args.part[0], Path(args.part[1])
        source = folder / "model.safetensors"
        if name == "write":
            from mindone import runtime
            from opensora.networks import build_denoiser, denoiser_config

            with runtime.lazy_parameters():
                write_checkpoint(source, build_denoiser(denoiser_config("STDiT3-XL/2")))
            return 0
        grown, limit = converted(source, folder / "model.ckpt") if name == "convert" else load(source, name)
        print(f"| {name} | {grown / MEGABYTE:,.0f} | {limit / MEGABYTE:,.0f} | **{grown / limit:.2f}** |", flush=True)
        return 0 if grown <= limit else 1
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        subprocess.run([sys.executable, __file__, "--part", "write", folder], check=True)
        print("| 1.2 B parameters | peak, MB | limit, MB | ratio |\n|---|---|---|---|", flush=True)
        parts = [[sys.executable, __file__, "--part", name, folder] for name in ("fp32", "fp16", "convert")]
        return max([subprocess.run(part).returncode for part in parts])


if __name__ == "__main__":
    sys.exit(main())
