"""`read_tensors`: finds out what a checkpoint is and opens it, without running anything that is written in it."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

from mindone.checkpoint.ckpt_file import read_ckpt
from mindone.checkpoint.files import read_json, refuse_stand_in
from mindone.checkpoint.find import find_model
from mindone.checkpoint.run import check_saved_size
from mindone.checkpoint.safetensors_file import read_safetensors
from mindone.checkpoint.selection import Selection, check_choice, left_in_words, select_flat
from mindone.checkpoint.slices import SLICES, read_slices
from mindone.checkpoint.tensors import Entry, TensorFile, one_line
from mindone.checkpoint.torch_file import read_torch_legacy, read_torch_zip
from mindone.errors import UserError

logger = logging.getLogger(__name__)

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
# Files that say which trainer left a folder of shards that only its own tool can merge, and that tool.
SHARDED = {
    "*.distcp": "a checkpoint of torch.distributed; merge it: python -m torch.distributed.checkpoint.format_utils",
    "zero_to_fp32.py": "a checkpoint of DeepSpeed; merge it: python zero_to_fp32.py . OUTPUT",
    "*zero_pp_rank_*": "the shards of DeepSpeed's ranks; merge them: python zero_to_fp32.py in the folder above",
}


def read_tensors(path: str | Path, weights: str = "model") -> TensorFile:
    """Opens a checkpoint of any known format as a lazy mapping from names to arrays.

    Known are safetensors, the ``.bin``/``.pt``/``.pth`` files of PyTorch (zip and older format), the ``.ckpt`` files of
    MindSpore, shards with an ``*.index.json``, folders that hold one of these, and runs (see `find_model`). The content
    decides, not the suffix. What a trainer saved beside the weights is left out, and one line says so.

    Args:
        weights: ``model`` takes the trained weights, ``ema`` their average, ``all`` every tensor under its full name.
    Raises:
        UserError: nothing there, an unknown format, a file that is damaged, cut, or wants to run code, or no average.
    """
    check_choice(weights)
    path = find_model(path)
    if (path / SLICES).is_file():
        return read_slices(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}; give an existing file or a model folder")
    if path.name.endswith(INDEX_SUFFIX):
        return _selected(_read_index(path), Selection({}), weights, counters=False)
    return _selected(*_open(path, weights), weights, counters=path.suffix != ".safetensors")


def _selected(tensors: TensorFile, nested: Selection, weights: str, counters: bool) -> TensorFile:
    """Leaves out what one mapping holds beside the weights, and says what was left."""
    sizes = {name: entry.size for name, entry in tensors.entries.items()}
    flat = select_flat(sizes, "model" if nested.is_average and weights == "ema" else weights, counters)
    is_average, left = nested.is_average or flat.is_average, [*flat.left, *nested.left]
    if weights == "ema" and not is_average:
        raise UserError(f"{tensors.path} holds no averaged weights; leave weights=ema out to take the trained ones")
    if left or (is_average and weights != "ema"):
        what = ("averaged weights" if is_average else "weights") + (
            f" in {one_line(nested.place)}" if nested.place else ""
        )
        rest = f"; left out: {left_in_words(left)}" if left else ", as there are no others"
        hint = (
            "; weights=ema (of the tools: --weights ema) takes the averaged ones"
            if nested.has_average or flat.has_average
            else ""
        )
        logger.warning("%s: taking the %s%s%s", tensors.path, what, rest, hint)
    entries = {name: tensors.entries[stored] for name, stored in flat.leaves.items()}
    return TensorFile(tensors.path, entries, tensors.metadata, tensors.is_complete)


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
    for pattern, what in SHARDED.items():
        if next(folder.glob(pattern), None):
            raise UserError(f"{folder} is {what}")
    raise UserError(f"{folder} holds no checkpoint (such as {FOLDER_NAMES[0]}); name the file or another folder")


def _open(path: Path, weights: str) -> tuple[TensorFile, Selection]:
    """The tensors of one file, and what was chosen among nested containers, which only PyTorch's files have."""
    refuse_stand_in(path)
    check_saved_size(path)
    with open(path, "rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return read_safetensors(path), Selection({})
    if start.startswith(b"PK\x03\x04"):
        return read_torch_zip(path, weights)
    if start.startswith(b"\x80"):
        return read_torch_legacy(path, weights)
    if path.suffix == ".ckpt":
        return read_ckpt(path), Selection({})
    raise UserError(f"{path} is not a checkpoint of a known format (safetensors, PyTorch, MindSpore)")


def _read_index(path: Path) -> TensorFile:
    """Shards listed in an index: ``{"weight_map": {tensor: file}}``; every tensor must be where the index says."""
    names = _weight_map(path)
    shards = {shard: _open(_shard(path, shard), "all")[0] for shard in dict.fromkeys(names.values())}
    entries: dict[str, Entry] = {}
    for name, shard in names.items():
        if name not in shards[shard]:
            raise UserError(f"{path} says that {one_line(name)} is in {shard}, but it is not; download the shard again")
        entries[name] = shards[shard].entries[name]
    metadata = {key: text for shard in shards.values() for key, text in shard.metadata.items()}
    return TensorFile(path, entries, metadata)


def _weight_map(path: Path) -> dict[str, str]:
    names = read_json(path, "index of shards").get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(shard, str) for shard in names.values()):
        raise UserError(
            f"{path} is not a readable index of shards (its weight_map has to map names of tensors to names of files); "
            "download it again"
        )
    return names


def _shard(index: Path, name: str) -> Path:
    if PurePosixPath(name).name != name or "\\" in name or name in ("", ".", ".."):
        raise UserError(f"{index} names the shard {one_line(name)!r}; shards have to be in the folder of their index")
    path = index.parent / name
    if "\0" in name or len(name) > 255 or not path.is_file():
        raise UserError(f"{index} names the shard {one_line(name)}, which is not in its folder; download it too")
    return path
