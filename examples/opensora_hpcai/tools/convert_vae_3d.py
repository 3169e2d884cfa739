"""Converts the video autoencoder of Open-Sora 1.2, from PyTorch or from older MindSpore names, to its published names.

This project's network loads the published PyTorch file as it is; a conversion is needed only for other MindSpore code.
"""

from __future__ import annotations

import argparse

from mindone.errors import guarded
from opensora.checkpoints import convert_video_autoencoder


@guarded
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--src", required=True, help="the .safetensors, .pth, .bin or .ckpt file, or a model folder")
    parser.add_argument("--target", required=True, help="the file to write: .ckpt or .safetensors")
    parser.add_argument(
        "--from_vae2d", action="store_true", help="the source is a 2D autoencoder: it becomes spatial_vae.module.*"
    )
    args = parser.parse_args(argv)
    written = convert_video_autoencoder(args.src, args.target, args.from_vae2d)
    print(f"{args.target}: {len(written)} tensors, {written.nbytes:,} bytes")


if __name__ == "__main__":
    main()
