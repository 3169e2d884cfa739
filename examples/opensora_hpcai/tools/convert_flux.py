"""Converts MMDiT weights between the layouts of Flux and of Open-Sora 2.0, exactly and one tensor at a time.

Both load as they are; a conversion is needed to go on training Flux weights as Open-Sora 2.0.
"""

from __future__ import annotations

import argparse

from mindone.checkpoint.tensors import FLOAT_DTYPES
from mindone.errors import guarded
from opensora.models.flux_weights import LAYOUTS, convert_flux


@guarded
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--src", required=True, help="the .safetensors, .pth, .bin or .ckpt file, or a model folder")
    parser.add_argument("--target", required=True, help="the file to write: .safetensors or .ckpt")
    parser.add_argument("--src_layout", choices=LAYOUTS, default="flux", help="what the source is; default: flux")
    parser.add_argument("--layout", choices=LAYOUTS, default="open-sora", help="what to write; default: open-sora")
    parser.add_argument("--dtype", choices=FLOAT_DTYPES, help="convert floating tensors; default: as they are")
    args = parser.parse_args(argv)
    written = convert_flux(args.src, args.target, args.src_layout, args.layout, args.dtype)
    print(f"{args.target}: {len(written)} tensors, {written.nbytes:,} bytes")


if __name__ == "__main__":
    main()
