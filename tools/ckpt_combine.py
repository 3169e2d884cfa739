"""Makes a training checkpoint of slices (--zero_stage) whole, or cuts one into the slices of another number of ranks.

python tools/ckpt_combine.py --src output/run/ckpt/step-00000500 --dest output/whole/ckpt
python tools/ckpt_combine.py --src output/run/ckpt/step-00000500 --dest output/eight/ckpt --ranks 8

A training goes on from any of them on any number of ranks; this is for other tools, and for copying one file.
"""

from __future__ import annotations

import argparse

from mindone.checkpoint.combine import combine
from mindone.errors import guarded


@guarded
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", required=True, help="a checkpoint, .../ckpt/step-*")
    parser.add_argument("--dest", required=True, help="the folder to put the new checkpoint into")
    parser.add_argument("--ranks", type=int, default=0, help="slices of every array; 0, the default: whole arrays")
    args = parser.parse_args(argv)
    made = combine(args.src, args.dest, args.ranks)
    print(f"{made.path}: step {made.step}, {'whole' if not args.ranks else f'in slices of {args.ranks} ranks'}")


if __name__ == "__main__":
    main()
