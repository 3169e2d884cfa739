"""Converts a checkpoint: any format that can be read into .safetensors (PyTorch reads it) or .ckpt (MindSpore)."""

from __future__ import annotations

import argparse

from mindone.checkpoint.convert import NAMES, convert
from mindone.checkpoint.selection import WEIGHTS
from mindone.checkpoint.tensors import FLOAT_DTYPES
from mindone.errors import guarded


@guarded
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help=".safetensors, .bin, .pt, .pth, .ckpt, *.index.json, or a folder with one")
    parser.add_argument("target", help="the file to write: .safetensors or .ckpt")
    parser.add_argument(
        "--names",
        choices=NAMES,
        default="keep",
        help="published: undo what MindSpore and wrappers do to names; mindspore: gamma and beta for norms",
    )
    parser.add_argument("--dtype", choices=FLOAT_DTYPES, help="convert floating tensors; default: as they are")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="model",
        help="of a training's checkpoint: the trained weights, their average (ema), or every tensor of the file",
    )
    parser.add_argument("--strip", default="", metavar="PREFIX", help="take only what is behind this prefix of names")
    args = parser.parse_args(argv)
    written = convert(args.source, args.target, args.names, args.dtype, args.weights, args.strip)
    print(f"{args.target}: {len(written)} tensors, {written.nbytes:,} bytes")


if __name__ == "__main__":
    main()
