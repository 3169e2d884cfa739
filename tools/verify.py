"""Verifies a run's checkpoint against its manifest, two checkpoints bit by bit, or a network against a reference run.

python tools/verify.py output/run/ckpt/step-00000500
python tools/verify.py model.pth model.safetensors
python tools/verify.py tests/golden/t5_encoder.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mindone.checkpoint import read_tensors
from mindone.checkpoint.describe import differences
from mindone.checkpoint.read import INDEX_SUFFIX
from mindone.checkpoint.run import verify_manifest
from mindone.checkpoint.selection import WEIGHTS
from mindone.errors import UserError, guarded

LISTED = 10
TOP = Path(__file__).resolve().parent.parent


@guarded
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "first", help="a folder with manifest.json, a checkpoint of any format, or a reference run (STEM.json)"
    )
    parser.add_argument("second", nargs="?", help="a checkpoint that should hold the same tensors")
    parser.add_argument("--weights", choices=WEIGHTS, default="model", help="which tensors of trainings' checkpoints")
    args = parser.parse_args(argv)
    if args.second is None and Path(args.first).suffix == ".json" and not args.first.endswith(INDEX_SUFFIX):
        return verify_reference(Path(args.first))
    if args.second is None:
        print(f"{args.first}: {verify_manifest(args.first)} files as saved")
        return 0
    first, second = (read_tensors(path, args.weights) for path in (args.first, args.second))
    found = differences(first, second)
    if found:
        more = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise UserError(f"the checkpoints differ in {len(found)} tensors: {'; '.join(found[:LISTED])}{more}")
    print(f"equal: {len(first)} tensors")
    return 0


def verify_reference(path: Path) -> int:
    """Runs the parity tests of one reference run: outputs, intermediates and gradients in both modes."""
    from mindone.testing.parity import run_case

    made, failed = run_case(path, [TOP / "tests", TOP / "examples/opensora_hpcai/tests"])
    if not made:
        raise UserError(f"no test compares with {path.stem}; docs/parity.md lists what is covered")
    print(f"{made - failed} of {made} comparisons passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
