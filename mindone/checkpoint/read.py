"""`read_tensors`: finds out what a checkpoint is and opens it, without running anything that is written in it."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from mindone.checkpoint.ckpt_file import read_ckpt
from mindone.checkpoint.safetensors_file import read_safetensors
from mindone.checkpoint.tensors import Entry, TensorFile
from mindone.checkpoint.torch_file import read_torch_legacy, read_torch_zip
from mindone.errors import UserError

INDEX_SUFFIX = ".index.json"
# What a model folder may hold, the preferred first.
FOLDER_NAMES = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin.index.json",
)
SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")


def read_tensors(path: str | Path) -> TensorFile:
    """Opens a checkpoint of any known format as a lazy mapping from names to arrays.

    Known are safetensors, the ``.bin``/``.pt``/``.pth`` files of PyTorch (zip and older format), the ``.ckpt`` files of
    MindSpore, shards with an ``*.index.json``, and folders that hold one of these. The content decides, not the suffix.

    Raises:
        UserError: nothing there, an unknown format, or a file that is damaged, cut, or wants to run code.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}; give an existing file or a model folder")
    return _read_index(path) if path.name.endswith(INDEX_SUFFIX) else _read_file(path)


def _in_folder(folder: Path) -> Path:
    for name in FOLDER_NAMES:
        if (folder / name).is_file():
            return folder / name
    for suffix in SUFFIXES:
        found = sorted(file for file in folder.glob(f"*{suffix}") if not file.name.startswith("."))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found[:5])
            raise UserError(f"{folder} holds several checkpoints ({names}); name one of them")
    raise UserError(f"{folder} holds no checkpoint (such as {FOLDER_NAMES[0]}); name the file or another folder")


def _read_file(path: Path) -> TensorFile:
    with open(path, "rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return read_safetensors(path)
    if start.startswith(b"PK\x03\x04"):
        return read_torch_zip(path)
    if start.startswith(b"\x80"):
        return read_torch_legacy(path)
    if path.suffix == ".ckpt":
        return read_ckpt(path)
    raise UserError(f"{path} is not a checkpoint of a known format (safetensors, PyTorch, MindSpore)")


def _read_index(path: Path) -> TensorFile:
    """Shards listed in an index: ``{"weight_map": {tensor: file}}``; every tensor must be where the index says."""
    names = _weight_map(path)
    shards = {shard: _read_file(_shard(path, shard)) for shard in dict.fromkeys(names.values())}
    entries: dict[str, Entry] = {}
    for name, shard in names.items():
        if name not in shards[shard]:
            raise UserError(f"{path} says that {name} is in {shard}, but it is not; download the shard again")
        entries[name] = shards[shard].entries[name]
    return TensorFile(path, entries)


def _weight_map(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = content["weight_map"]
        if not all(isinstance(shard, str) for shard in names.values()):
            raise TypeError("weight_map has to map names of tensors to names of files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a readable index of shards ({error!r}); download it again") from error
    return names


def _shard(index: Path, name: str) -> Path:
    if PurePosixPath(name).name != name or "\\" in name or name in ("", ".", ".."):
        raise UserError(f"{index} names the shard {name!r}; shards have to be in the folder of their index")
    path = index.parent / name
    if not path.is_file():
        raise UserError(f"{index} names the shard {name}, which is not in its folder; download it too")
    return path
