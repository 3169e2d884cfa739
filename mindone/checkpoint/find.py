"""Which model a path means: a run's folder, one of its checkpoints, a model folder or a file."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from mindone.checkpoint.run import MANIFEST, RunCheckpoints

logger = logging.getLogger(__name__)

# The layout of a run's folder, see `mindone.train.run_folder`.
CHECKPOINTS, MODEL, EMA = "ckpt", "model", "ema"
# What says that a folder holds a model, or an adapter of one.
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"


def find_model(path: str | Path) -> Path:
    """The model folder or file that a path stands for.

    A run's folder stands for its result ``model/`` (averaged weights if an EMA was kept), or for its newest complete
    checkpoint while there is no result yet. A checkpoint stands for its ``ema/``, or for ``model/`` where no average
    was kept. Anything else stands for itself. What was chosen is said in one line.
    """
    path = Path(path)
    if not path.is_dir() or _is_model(path):
        return path
    if (path / MANIFEST).is_file():
        return _of_checkpoint(path)
    if path.name != CHECKPOINTS and _is_model(path / MODEL):
        return _told(path, path / MODEL, "the result of the run")
    folder = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    checkpoints = RunCheckpoints(folder).all()
    return _of_checkpoint(checkpoints[-1].path, path) if checkpoints else path


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / ADAPTER_CONFIG).is_file()


def _of_checkpoint(folder: Path, asked: Path | None = None) -> Path:
    if (folder / EMA).is_dir():
        return _told(asked or folder, folder / EMA, f"averaged weights; the trained ones are in {folder / MODEL}")
    if (folder / MODEL).is_dir():
        return _told(asked or folder, folder / MODEL, "trained weights; no average was kept")
    return folder


@functools.lru_cache(maxsize=64)
def _told(asked: Path, found: Path, what: str) -> Path:
    """Says once what a path was taken for."""
    logger.info("%s: taking %s (%s)", asked, found, what)
    return found
