"""Fetches a model folder from a hub with Hugging Face's interface, checked, resumable, as safetensors.

``HF_ENDPOINT`` names another hub, ``HF_TOKEN`` an account, ``HF_HUB_OFFLINE=1`` allows no network: only what is there
already is used. Certificates are always verified.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from mindone.checkpoint.atomic import atomic_write, sha256
from mindone.checkpoint.convert import convert
from mindone.checkpoint.files import read_json
from mindone.errors import UserError

TORCH_SUFFIXES = (".bin", ".pth", ".pt")
WEIGHT_SUFFIXES = (".safetensors", *TORCH_SUFFIXES, ".ckpt", ".h5", ".msgpack", ".onnx")
# What trainers leave beside the weights; it is neither fetched nor converted.
_TRAINING_STATE = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state)")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its path in it, bytes, and SHA-256 (None for small files)."""

    name: str
    size: int
    sha256: str | None


def fetch_model(
    model_id: str,
    target: str | Path,
    revision: str | None = None,
    include: str = "*",
    say: Callable[[str], None] = print,
) -> Path:
    """Downloads a model into ``target`` and converts PyTorch files that have no safetensors twin.

    A stopped download goes on where it was. The revision is settled to a commit first, so all files belong together.
    Files of which the repository publishes the SHA-256 are compared with it.

    Args:
        model_id: ``owner/name`` in the hub.
        revision: a branch, tag or commit; the main branch if not given.
        include: only files whose path fits this pattern, such as ``vae/*``.
        say: is told each line of progress.
    Raises:
        UserError: no such model, no network, a damaged file, or (offline) nothing there yet.
    """
    if not _REPOSITORY.fullmatch(model_id):
        raise UserError(f"{model_id} is not a model of a hub; write owner/name, such as DeepFloyd/t5-v1_1-xxl")
    target = Path(target)
    if is_offline():
        _from_this_machine(model_id, target)
    else:
        _download(model_id, target, revision, include, say)
    return convert_folder(target, say)


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def wanted(files: list[RemoteFile], include: str = "*") -> list[RemoteFile]:
    """What a model needs: everything small, and weights in one format, safetensors where the folder has them."""
    files = [file for file in files if fnmatchcase(file.name, include)]
    safe = {str(PurePosixPath(file.name).parent) for file in files if file.name.endswith(".safetensors")}

    def needed(file: RemoteFile) -> bool:
        path = PurePosixPath(file.name)
        if path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"):
            return True
        is_torch = path.suffix in TORCH_SUFFIXES or path.name.endswith(".bin.index.json")
        if is_torch and _TRAINING_STATE.match(path.name):
            return False
        return str(path.parent) not in safe if is_torch else path.suffix not in WEIGHT_SUFFIXES

    return [file for file in files if needed(file)]


def _download(model_id: str, target: Path, revision: str | None, include: str, say: Callable[[str], None]) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        info = HfApi(endpoint=endpoint).model_info(model_id, revision=revision, files_metadata=True)
    except Exception as error:  # The hub's library passes on the exceptions of its HTTP library, which changes.
        raise _unreachable(model_id, error) from error
    siblings = info.siblings or []
    files = wanted([RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None) for s in siblings], include)
    if not files:
        raise UserError(f"{model_id} has no file that fits include={include}; look at its list of files in the hub")
    total = sum(file.size for file in files)
    say(f"{model_id} at revision {info.sha}: {len(files)} files, {total:,} bytes, into {target}")
    for file in files:
        try:
            path = hf_hub_download(model_id, file.name, revision=info.sha, local_dir=str(target), endpoint=endpoint)
        except Exception as error:
            raise _unreachable(model_id, error) from error
        say(f"{_checked(Path(path), file)}  {file.name}")


def _unreachable(model_id: str, error: Exception) -> UserError:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(
        f"cannot fetch {model_id}: {reason.strip().rstrip('.')}; check the name and the network (HF_ENDPOINT names "
        "another hub, HF_TOKEN an account) and repeat: what has arrived is kept"
    )


def _checked(path: Path, file: RemoteFile) -> str:
    """The SHA-256 of a downloaded file; one that is not as published is removed."""
    found = sha256(path)
    if file.sha256 not in (None, found):
        path.unlink()
        raise UserError(f"{path} arrived damaged (SHA-256 {found}, published {file.sha256}) and was removed; repeat")
    return found


def _from_this_machine(model_id: str, target: Path) -> None:
    if any(path.suffix in WEIGHT_SUFFIXES for path in target.rglob("*")):
        return
    raise UserError(f"HF_HUB_OFFLINE is set and {target} has no weights of {model_id} yet; unset it to download them")


def convert_folder(folder: Path, say: Callable[[str], None] = print) -> Path:
    """Writes a ``.safetensors`` beside every PyTorch file that has none, shards with their index too.

    ``pytorch_model.bin`` becomes ``model.safetensors``; other files keep their stem. The originals stay.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix not in TORCH_SUFFIXES or ".cache" in path.relative_to(folder).parts:
            continue
        if _TRAINING_STATE.match(path.name):
            continue
        twin = path.with_name(_safe_name(path.name))
        if twin.exists():
            continue
        written = convert(path, twin)
        say(f"{twin.relative_to(folder)}: {len(written)} tensors from {path.name}")
    for index in sorted(folder.rglob("*.bin.index.json")):
        twin = index.with_name(_safe_name(index.name.removesuffix(".index.json")) + ".index.json")
        if not twin.exists():
            _convert_index(index, twin)
    return folder


def _safe_name(name: str) -> str:
    stem = PurePosixPath(name).stem
    return re.sub(r"^pytorch_model", "model", stem) + ".safetensors"


def _convert_index(index: Path, twin: Path) -> None:
    content = read_json(index, "index of shards")
    try:
        content["weight_map"] = {name: _safe_name(shard) for name, shard in content["weight_map"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not a readable index of shards ({error!r}); download it again") from error
    with atomic_write(twin) as file:
        file.write(json.dumps(content, indent=2).encode("utf-8"))
