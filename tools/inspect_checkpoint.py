"""Prints what a checkpoint holds; nothing in it is run and no tensor is read."""

from __future__ import annotations

import argparse

from mindone.checkpoint import read_tensors
from mindone.checkpoint.describe import summary, table
from mindone.errors import guarded
from opensora.checkpoints import SIGNATURES


@guarded
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help=".safetensors, .bin, .pt, .pth, .ckpt, *.index.json, or a folder with one")
    parser.add_argument("--all", action="store_true", help="list every tensor with dtype and shape")
    args = parser.parse_args(argv)
    tensors = read_tensors(args.path)
    print(summary(tensors, SIGNATURES))
    if args.all:
        print(table(tensors))


if __name__ == "__main__":
    main()
