"""Where generated files go: run folders, names that never overwrite, and the JSON beside each result."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def free_stem(folder: Path, stem: str) -> str:
    """``stem``, or ``stem-2``, ``stem-3``... if the folder already has a file of that stem."""
    taken = {path.name if path.is_dir() else path.stem for path in folder.iterdir()} if folder.is_dir() else set()
    candidates = (stem if count == 1 else f"{stem}-{count}" for count in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    import mindspore

    import mindone

    return {
        "mindone": mindone.__version__,
        "mindspore": mindspore.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def plain(value: object) -> object:
    """Dataclasses, paths, tuples and numpy numbers as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Writes readable JSON beside its place and renames it into it."""
    from mindone.checkpoint.atomic import atomic_write

    text = json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def write_clip(folder: Path, stem: str, frames: np.ndarray, save_format: str, fps: float) -> Path:
    """Writes (T, H, W, 3) uint8 frames as ``stem.mp4``, ``.gif`` or ``.png``, and returns the path.

    A single frame is always a png. Several as png become the numbered pictures of a folder ``stem``.
    """
    from mindone.data import write

    save_format = "png" if len(frames) == 1 else save_format
    path = folder / f"{stem}.{save_format}"
    if save_format == "png":
        return write.write_png(path, frames)
    writer = write.write_gif if save_format == "gif" else write.write_video
    return writer(path, frames, fps)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a ``.npy`` file beside its place and renames it into it."""
    from mindone.checkpoint.atomic import atomic_write

    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)
