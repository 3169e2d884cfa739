"""Prints what a checkpoint holds; nothing in it is run, and no tensor is read without --finite."""

from __future__ import annotations

import argparse
import logging

from mindone.checkpoint import read_tensors
from mindone.checkpoint.describe import summary, table
from mindone.checkpoint.selection import WEIGHTS
from mindone.checkpoint.tensors import is_finite
from mindone.errors import guarded
from opensora.checkpoints import SIGNATURES


@guarded
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="a checkpoint of any format, a model folder, or the folder of a run or step")
    parser.add_argument("--all", action="store_true", help="list every tensor with dtype and shape")
    parser.add_argument("--finite", action="store_true", help="read every tensor and list those with NaN or infinity")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="model",
        help="of a training's checkpoint: the trained weights, their average (ema), or every tensor of the file",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    tensors = read_tensors(args.path, args.weights)
    print(summary(tensors, SIGNATURES))
    if args.all:
        print(table(tensors))
    if args.finite:
        found = [name for name, array in tensors.items() if not is_finite(array)]
        print(f"finite    {'all' if not found else f'all but {len(found)}: ' + ', '.join(found)}")


if __name__ == "__main__":
    main()
