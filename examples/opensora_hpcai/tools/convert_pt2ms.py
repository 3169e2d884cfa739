"""Converts a PyTorch checkpoint of STDiT, STDiT2, STDiT3 or PixArt for MindSpore.

Names and values stay as published (`weight` and `bias` for norms too), which is what this project's networks load; they
load the PyTorch file as well, so a conversion is needed only for other MindSpore code.
"""

from __future__ import annotations

import argparse

from mindone.checkpoint.convert import NAMES, convert
from mindone.checkpoint.tensors import FLOAT_DTYPES
from mindone.errors import guarded


@guarded
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--src", required=True, help="the .pth, .bin or .safetensors file, or a model folder")
    parser.add_argument("--target", required=True, help="the file to write: .ckpt or .safetensors")
    parser.add_argument(
        "--names", choices=NAMES, default="keep", help="mindspore: gamma and beta for norms, as the earlier port wants"
    )
    parser.add_argument("--dtype", choices=FLOAT_DTYPES, help="convert floating tensors; default: as they are")
    args = parser.parse_args(argv)
    written = convert(args.src, args.target, args.names, args.dtype)
    print(f"{args.target}: {len(written)} tensors, {written.nbytes:,} bytes")


if __name__ == "__main__":
    main()
