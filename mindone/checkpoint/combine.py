"""A training checkpoint of slices made whole, or a checkpoint cut into the slices of another number of ranks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mindone.checkpoint.files import read_json
from mindone.checkpoint.find import ADAPTER_CONFIG, CONFIG
from mindone.checkpoint.load import ADAPTER_LAYOUT, MODEL_LAYOUT, save_tensors
from mindone.checkpoint.run import MANIFEST, RunCheckpoint, RunCheckpoints, Writer, verify_manifest
from mindone.checkpoint.safetensors_file import read_safetensors, save_safetensors
from mindone.checkpoint.slices import SLICES, Cut, cut_for, index_slices, part, read_slices, write_slices
from mindone.checkpoint.tensors import Entry, TensorFile
from mindone.errors import UserError

CONFIGS = {CONFIG: MODEL_LAYOUT, ADAPTER_CONFIG: ADAPTER_LAYOUT}
"""Files that say that a folder holds a model, and how its files are called."""


def combine(source: str | Path, target: str | Path, ranks: int = 0) -> RunCheckpoint:
    """Writes a training checkpoint anew, with all its arrays whole or in slices, and returns the new one.

    Args:
        source: a checkpoint, ``.../ckpt/step-*``; its files are compared with their SHA-256 first.
        target: the folder that the new one is put into, as ``step-*``, such as the ``ckpt`` of another run.
        ranks: how many slices every array is cut into; 0 makes them whole.
    Raises:
        UserError: the source is no complete checkpoint, or one of its files has changed; nothing is written then.
    """
    source, target = Path(source), Path(target)
    if ranks < 0:
        raise UserError(f"ranks={ranks} has to be 0 (whole arrays) or more")
    if target.resolve() == source.resolve().parent:
        raise UserError(f"{target} is the folder of the checkpoint itself; give another one")
    verify_manifest(source)
    manifest = read_json(source / MANIFEST, "manifest")
    writers: dict[str, Writer] = {}
    for path in sorted(source.iterdir()):
        if path.name == MANIFEST:
            continue
        name, writer = _rewritten(path, ranks)
        writers[name] = writer
    return RunCheckpoints(target, keep_last=0).save(manifest["step"], writers, manifest["metadata"])


def _rewritten(path: Path, ranks: int) -> tuple[str, Writer]:
    """The name and the writer of what is at ``path``."""
    if (path / SLICES).is_file():
        tensors, group = read_slices(path), path.name
    elif path.is_dir() and (weights := _weights(path)):
        tensors, group = read_safetensors(weights), path.name
    elif path.suffix == ".safetensors":
        tensors, group = read_safetensors(path), path.stem
    else:
        return path.name, partial(_copy, path)
    config = next((path / name for name in CONFIGS if (path / name).is_file()), None)
    if ranks:
        return group, partial(_write_slices, tensors, config, ranks)
    if config:
        return group, partial(_write_model, tensors, config)
    return f"{group}.safetensors", lambda place: save_safetensors(place, tensors, tensors.metadata)


def _weights(folder: Path) -> Path | None:
    found = (folder / layout.weights for layout in CONFIGS.values())
    return next((path for path in found if path.is_file()), None)


def _copy(source: Path, place: Path) -> None:
    shutil.copytree(source, place) if source.is_dir() else shutil.copyfile(source, place)


def _write_model(tensors: TensorFile, config: Path, place: Path) -> None:
    save_tensors(place, tensors, read_json(config, "config"), CONFIGS[config.name], tensors.metadata)


def _write_slices(tensors: TensorFile, config: Path | None, ranks: int, place: Path) -> None:
    for rank in range(ranks):
        cuts = {name: cut_for(entry.shape, ranks, rank) for name, entry in tensors.entries.items()}
        held: Mapping[str, Entry] = {name: _part(entry, cuts[name]) for name, entry in tensors.entries.items()}
        write_slices(place, TensorFile(tensors.path, held, tensors.metadata), cuts, rank, ranks)
    index_slices(place)
    if config:
        shutil.copyfile(config, place / config.name)


def _part(entry: Entry, cut: Cut) -> Entry:
    return Entry(entry.dtype, (cut.size,), lambda: part(entry, cut))
