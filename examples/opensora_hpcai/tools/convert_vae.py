"""Converts a 2D autoencoder (SD-VAE, SDXL-VAE), from PyTorch or from older MindSpore names, to its published names.

Both generations of names are read (query/key/value and to_q/to_k/to_v), those of latent-diffusion files too. This
project's network loads all of them as they are; a conversion is needed only for other code.
"""

from __future__ import annotations

import argparse

from mindone.checkpoint.convert import convert_autoencoder
from mindone.errors import guarded


@guarded
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--src", required=True, help="the .safetensors, .pth, .bin or .ckpt file, or a model folder")
    parser.add_argument("--target", required=True, help="the file to write: .ckpt or .safetensors")
    args = parser.parse_args(argv)
    written = convert_autoencoder(args.src, args.target)
    print(f"{args.target}: {len(written)} tensors, {written.nbytes:,} bytes")


if __name__ == "__main__":
    main()
