"""What a checkpoint holds, and whether two are the same or one is as it was saved."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mindone.checkpoint import read_tensors
from mindone.checkpoint.describe import differences, summary, table
from mindone.checkpoint.read import INDEX_SUFFIX
from mindone.checkpoint.run import verify_manifest
from mindone.checkpoint.selection import WEIGHTS
from mindone.checkpoint.tensors import is_finite
from mindone.errors import UserError
from opensora.checkpoints import SIGNATURES

LISTED = 10
TESTS = (Path("tests"), Path("examples/opensora_hpcai/tests"))


def inspect(argv: Sequence[str], prog: str) -> None:
    """Prints what a checkpoint holds; nothing in it is run, and no tensor is read without --finite."""
    parser = argparse.ArgumentParser(prog, description=inspect.__doc__)
    parser.add_argument("path", help="a checkpoint of any format, a model folder, or the folder of a run or step")
    parser.add_argument("--all", action="store_true", help="list every tensor with dtype and shape")
    parser.add_argument("--finite", action="store_true", help="read every tensor and list those with NaN or infinity")
    _add_weights(parser, "of a training's checkpoint: the trained weights, their average (ema), or every tensor")
    args = parser.parse_args(argv)
    tensors = read_tensors(args.path, args.weights)
    print(summary(tensors, SIGNATURES))
    if args.all:
        print(table(tensors))
    if args.finite:
        found = [name for name, array in tensors.items() if not is_finite(array)]
        print(f"finite    {'all' if not found else f'all but {len(found)}: ' + ', '.join(found)}")


def verify(argv: Sequence[str], prog: str) -> None:
    """Verifies a run's checkpoint against its manifest, two checkpoints bit by bit, or a network against a reference.

    Raises:
        UserError: they differ, or nothing compares with the reference.
        SystemExit: with 1, a comparison with the reference fails.
    """
    parser = argparse.ArgumentParser(prog, description=(verify.__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "first", help="a folder with manifest.json, a checkpoint of any format, or a reference run (STEM.json)"
    )
    parser.add_argument("second", nargs="?", help="a checkpoint that should hold the same tensors")
    _add_weights(parser, "which tensors of trainings' checkpoints")
    args = parser.parse_args(argv)
    if args.second is None and Path(args.first).suffix == ".json" and not args.first.endswith(INDEX_SUFFIX):
        _verify_reference(Path(args.first))
    elif args.second is None:
        print(f"{args.first}: {verify_manifest(args.first)} files as saved")
    else:
        first, second = (read_tensors(path, args.weights) for path in (args.first, args.second))
        found = differences(first, second)
        if found:
            more = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
            raise UserError(f"the checkpoints differ in {len(found)} tensors: {'; '.join(found[:LISTED])}{more}")
        print(f"equal: {len(first)} tensors")


def _add_weights(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--weights", choices=WEIGHTS, default="model", help=text)


def _verify_reference(path: Path) -> None:
    """Runs the parity tests of one reference run: outputs, intermediates and gradients in both modes."""
    from mindone.testing.parity import run_case

    top = Path(__file__).resolve().parents[3]
    made, failed = run_case(path, [top / folder for folder in TESTS])
    if not made:
        raise UserError(f"no test compares with {path.stem}; docs/parity.md lists what is covered")
    print(f"{made - failed} of {made} comparisons passed")
    if failed:
        raise SystemExit(1)
