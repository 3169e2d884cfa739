"""Verifies a checkpoint of a run against its manifest, or that two checkpoints are equal bit by bit."""

from __future__ import annotations

import argparse

from mindone.checkpoint import read_tensors
from mindone.checkpoint.describe import differences
from mindone.checkpoint.run import verify_manifest
from mindone.errors import UserError, guarded

LISTED = 10


@guarded
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", help="a folder with manifest.json, or a checkpoint of any format")
    parser.add_argument("second", nargs="?", help="a checkpoint that should hold the same tensors")
    args = parser.parse_args(argv)
    if args.second is None:
        print(f"{args.first}: {verify_manifest(args.first)} files as saved")
        return
    first, second = read_tensors(args.first), read_tensors(args.second)
    found = differences(first, second)
    if found:
        more = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise UserError(f"the checkpoints differ in {len(found)} tensors: {'; '.join(found[:LISTED])}{more}")
    print(f"equal: {len(first)} tensors")


if __name__ == "__main__":
    main()
