"""Refuses files that would make the repository heavy: prints each one above the limit and exits with code 1."""

import argparse
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="files to look at")
    parser.add_argument("--max-megabytes", type=float, default=5.0, help="largest file allowed")
    args = parser.parse_args()
    limit = args.max_megabytes * 1e6
    heavy = [path for path in args.files if path.is_file() and path.stat().st_size > limit]
    for path in heavy:
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB is more than {args.max_megabytes:g} MB")
    return 1 if heavy else 0


if __name__ == "__main__":
    raise SystemExit(main())
