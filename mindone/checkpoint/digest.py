"""Digests that tell the weights of one model from those of another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mindone.errors import UserError

# Of a large weights file a digest takes blocks that are spread evenly: other weights differ everywhere.
BLOCK = 1 << 16
BLOCKS = 128
SUFFIXES = (".json", ".model", ".txt", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def weights_digest(path: str | Path) -> str:
    """A digest of a model: of the config, tokenizer and weights in its folder, or of a file and the config beside it.

    It takes little time for files of any size, and their names do not matter.

    Raises:
        UserError: a file cannot be read.
    """
    path = Path(path)
    files = [path, path.parent / "config.json"] if path.is_file() else list(path.iterdir())
    wanted = [file for file in files if file == path or file.suffix in SUFFIXES]
    try:
        parts = sorted(_file_digest(file) for file in wanted if file.is_file() and not file.name.startswith("."))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def _file_digest(path: Path) -> bytes:
    size = path.stat().st_size
    whole = size <= BLOCK * BLOCKS
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        for block in range(BLOCKS):
            if not whole:
                file.seek((size - BLOCK) * block // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.digest()
