"""Writes clips of the toy world as mp4 files with a ``video_caption.csv``.

python tools/make_toy_dataset.py --output datasets/toy --num_clips 3000
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mindone.config import FilePath, parse, require_at_least
from mindone.errors import UserError, guarded
from opensora.data.toy import write_dataset


@dataclass
class ToyDataset:
    """Settings of make_toy_dataset.py."""

    output: FilePath = ""
    """folder to write into"""
    num_clips: int = 3000
    """how many clips"""
    split: Literal["train", "unseen", "all"] = "train"
    """which combinations: train leaves out the twelve that only a test may show"""
    seed: int = 0
    """the same seed gives the same clips"""
    num_frames: int = 17
    """frames of a clip"""
    image_size: int = 64
    """height and width in pixels"""
    fps: float = 8
    """frames per second written into the files"""
    overwrite: bool = False
    """write into a folder that has files already"""

    def check(self) -> None:
        require_at_least(self, num_clips=1, num_frames=2, image_size=32)
        if not self.output:
            raise UserError("no folder to write into; give one with --output DIR")


@guarded
def main(argv: list[str] | None = None) -> None:
    config = parse(ToyDataset, argv, prog="make_toy_dataset.py", description=__doc__.splitlines()[0])
    folder = Path(config.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not config.overwrite:
        raise UserError(f"output={folder} is not empty; give another folder, or --overwrite True")
    table = write_dataset(
        folder, config.num_clips, config.split, config.seed, config.num_frames, config.image_size, config.fps
    )
    print(f"{config.num_clips} clips, listed in {table}")


if __name__ == "__main__":
    main()
