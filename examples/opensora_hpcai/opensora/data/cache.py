"""Embedding caches: text embeddings and autoencoder latents as ``.npz`` files, in the forms that are in circulation.

Text, one file per caption. Beside a table of videos the file mirrors the video's path (``a/b.mp4`` has ``a/b.npz``) and
its arrays have no batch dimension: ``text_emb`` (L, D) float32, ``mask`` (L,) uint8, ``tokens`` (L,) int32. For a list
of prompts the file is ``{i:03d}-{first ten words}.npz`` and they have one: (1, L, D), (1, L), (1, L). Both forms are
read; older files have no ``tokens``. The scripts of 2.0 write ``.npy`` instead, one folder per encoder: (L, D) of T5,
padding included, and (D',) of CLIP, each maybe with a first dimension of 1. Two such folders, ``t5;clip``, are read as
one cache, in which all tokens are valid.

Latents, one file per video: ``latent_mean`` and ``latent_std`` (T', C, h, w) float32, before any scaling; ``fps`` of
the frames that were encoded; ``ori_size`` (height, width) of the file; and, new, ``num_frames`` and ``size``
(height, width) of what was encoded. Files without a standard deviation count as having none. What conditions give may
stand beside them, encoded by itself: ``head_1_mean`` and ``head_1_std`` (1, C, h, w) of the first frame,
``tail_9_mean`` (9, C, h, w) of the last 33 frames.

Both may have an array ``made_from``: bytes of a JSON object that says what the file was made from: the text as it was
given (``text``) and as it was encoded (``encoded``), or the video; the settings; and a digest of the weights. Readers
that do not know it leave it out, and files without it are as good as before.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import shutil
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mindone.checkpoint.atomic import UNFINISHED, atomic_write
from mindone.data.arrays import npz_names, read_npy, read_npz
from mindone.data.errors import BadSample
from mindone.data.table import VideoRow
from mindone.data.write import slug
from mindone.errors import UserError

logger = logging.getLogger(__name__)

TEXT_KEYS = ("text_emb", "mask")
LATENT_KEYS = ("latent_mean",)
RECORD = "made_from"
RESOLUTION_FOLDER = re.compile(r"latent_(\d+)x(\d+)")


@dataclass(frozen=True)
class TextEntry:
    """One caption: text_emb (L, D) float32, mask (L,) uint8 with 1 = valid, tokens (L,) int32 or None.

    ``text`` is the caption as it was given, and ``encoded`` what the encoder saw; None in files that do not tell.
    """

    text_emb: np.ndarray
    mask: np.ndarray
    tokens: np.ndarray | None = None
    pooled: np.ndarray | None = None
    """(D',) float32, a second encoder's vector of the whole text (2.0)"""
    text: str | None = None
    encoded: str | None = None

    @property
    def nbytes(self) -> int:
        return self.text_emb.nbytes + self.mask.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


@dataclass(frozen=True)
class TextPair:
    """The ``.npy`` files of one prompt, of T5 and of CLIP."""

    t5: Path
    clip: Path

    @property
    def stem(self) -> str:
        return self.t5.stem

    def __str__(self) -> str:
        return f"{self.t5} with {self.clip}"


@dataclass(frozen=True)
class LatentEntry:
    """One video: mean and std (T', C, h, w) float32, unscaled; fps, file size, and frames and size encoded.

    ``num_frames`` and ``size`` are None in files that do not tell.
    """

    mean: np.ndarray
    std: np.ndarray
    fps: float
    ori_size: tuple[int, int]
    num_frames: int | None = None
    size: tuple[int, int] | None = None
    ends: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """mean and std of what conditions give, by `opensora.conditions.visual.End.name`"""

    @property
    def nbytes(self) -> int:
        arrays = (self.mean, self.std, *(part for end in self.ends.values() for part in end))
        return sum(array.nbytes for array in arrays)


# --- names -----------------------------------------------------------------------------------------------------------


def cache_path(folder: str | Path, relative: str) -> Path:
    """The cache file of a video in a table."""
    return Path(folder) / PurePosixPath(relative).with_suffix(".npz")


def prompt_path(folder: str | Path, index: int, prompt: str) -> Path:
    """The cache file of the prompt number ``index`` of a list."""
    return Path(folder) / f"{index:03d}-{slug(prompt)}.npz"


def require_distinct(rows: Sequence[VideoRow], csv_path: str | Path) -> None:
    """Refuses two videos whose cache files would be the same one, such as ``x/clip.mp4`` and ``x/clip.mov``.

    Names that differ in case or in the form of accents only are reported: some file systems take them for one.

    Raises:
        UserError: names the two rows.
    """
    owners: dict[str, VideoRow] = {}
    alike: dict[str, VideoRow] = {}
    pairs = []
    for row in rows:
        stem = os.path.splitext(row.relative)[0]
        owner = owners.setdefault(stem, row)
        if owner.relative != row.relative:
            raise UserError(
                f"{csv_path}, lines {owner.line} and {row.line}: {owner.relative} and {row.relative} would share the "
                f"cache file {stem}.npz; rename one of the videos"
            )
        other = alike.setdefault(unicodedata.normalize("NFC", stem).casefold(), owner)
        if other is not owner and owner is row:
            pairs.append(f"{other.relative} in line {other.line} and {row.relative} in line {row.line}")
    if pairs:
        logger.warning(
            "%s: %d names differ from another in case or accents only, such as %s; a file system that does not tell "
            "them apart gives both one cache file",
            csv_path,
            len(pairs),
            pairs[0],
        )


def latent_folders(folder: str | Path) -> list[Path]:
    """The subfolders ``latent_{h}x{w}`` of a cache in several resolutions, or the folder itself."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"vae_latent_folder={folder} is not a folder; make it with scripts/infer_vae.py")
    found = [path for path in folder.iterdir() if path.is_dir() and RESOLUTION_FOLDER.fullmatch(path.name)]
    return sorted(found) or [folder]


def folder_of_size(folders: Sequence[Path], height: int, width: int, compression: int) -> Path | None:
    """The one of `latent_folders` with latents of a size, or of what an autoencoder rounds it down to."""
    rounded = tuple(side // compression * compression for side in (height, width))
    names = [f"latent_{height}x{width}", f"latent_{rounded[0]}x{rounded[1]}"]
    return next((folder for name in names for folder in folders if folder.name == name), None)


def prompt_files(folder: str | Path) -> list[Path] | list[TextPair]:
    """The text caches in a folder made from a list of prompts, in the list's order; or in two, ``t5;clip``.

    Raises:
        UserError: no such folder, nothing in it, or not the same number of files in both.
    """
    if ";" in str(folder):
        return _pairs(*str(folder).split(";", 1))
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"text_embed_folder={folder} is not a folder; make it with scripts/infer_t5.py")
    found = (path for path in folder.glob("*.npz") if not path.name.startswith(UNFINISHED))
    files = sorted(found, key=lambda path: (_number(path), path.name))
    if not files:
        raise UserError(f"text_embed_folder={folder} has no .npz files; make them with scripts/infer_t5.py")
    return files


def _pairs(*folders: str) -> list[TextPair]:
    """The files of both folders in the order of their names, which is how the scripts of 2.0 put them together."""
    files = [sorted(path for path in Path(folder).rglob("*.npy") if path.is_file()) for folder in folders]
    files = [[path for path in found if not path.name.startswith(UNFINISHED)] for found in files]
    for folder, found in zip(folders, files):
        if not found:
            raise UserError(f"{folder} is not a folder with .npy files; make them with scripts/v2.0/text_embedding.py")
    if len(files[0]) != len(files[1]):
        raise UserError(
            f"{folders[0]} has {len(files[0])} embeddings and {folders[1]} {len(files[1])}; encode the same prompts"
        )
    pairs = [TextPair(*both) for both in zip(*files)]
    unlike = [pair for pair in pairs if pair.t5.name != pair.clip.name]
    if unlike:
        logger.warning("%s is used with %s; do they belong together?", unlike[0].t5, unlike[0].clip)
    return pairs


def _number(path: Path) -> int:
    match = re.match(r"\d+", path.name)
    return int(match.group()) if match else 0


# --- text ------------------------------------------------------------------------------------------------------------


def write_text(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    batch_dim: bool = False,
    made_from: Mapping[str, Any] | None = None,
) -> None:
    """Writes one caption's ``text_emb`` (L, D), ``mask`` (L,), ``tokens`` (L,) and, if there is one, ``pooled`` (D',).

    With ``batch_dim`` they get a first dimension of 1, as a prompt's have.
    """
    dtypes = {"text_emb": np.float32, "mask": np.uint8, "tokens": np.int32, "pooled": np.float32}
    arrays = {key: np.asarray(array, dtypes[key])[None if batch_dim else ...] for key, array in arrays.items()}
    _write(path, arrays, made_from)


def read_text(path: str | Path | TextPair) -> TextEntry:
    """Reads any of the forms.

    Raises:
        BadSample: missing, damaged, not a text cache, or with values that no encoder gives.
    """
    if isinstance(path, TextPair):
        return _read_pair(path)
    arrays = _read(path, TEXT_KEYS, ("tokens", "pooled", RECORD), "a text embedding cache")
    text_emb, mask, tokens = arrays["text_emb"], arrays["mask"], arrays.get("tokens")
    if text_emb.ndim == 3 and len(text_emb) == 1:
        text_emb = text_emb[0]
    if text_emb.ndim != 2 or text_emb.size == 0:
        raise BadSample(f"{path}: text_emb has the shape {arrays['text_emb'].shape}, not (tokens, width)")
    for name, array in (("mask", mask), ("tokens", tokens)):
        if array is not None and array.size != len(text_emb):
            raise BadSample(f"{path}: text_emb of shape {text_emb.shape} does not fit {name} of shape {array.shape}")
    if not ((mask == 0) | (mask == 1)).all() or not mask.any():
        raise BadSample(f"{path}: mask has to be of zeros and ones, with one for every token; there is at least one")
    if tokens is not None and (tokens.dtype.kind not in "iu" or (tokens < 0).any() or (tokens >= 1 << 31).any()):
        raise BadSample(f"{path}: tokens are not ids of tokens")
    record = _record(path, arrays) or {}
    return TextEntry(
        _float32(path, "text_emb", text_emb),
        mask.reshape(-1).astype(np.uint8),
        None if tokens is None else tokens.reshape(-1).astype(np.int32),
        _float32(path, "pooled", arrays["pooled"]).reshape(-1) if "pooled" in arrays else None,
        record.get("text"),
        record.get("encoded"),
    )


def _read_pair(files: TextPair) -> TextEntry:
    found = []
    for path, ndim, what in ((files.t5, 2, "T5 embeddings (tokens, width)"), (files.clip, 1, "a vector of CLIP")):
        array = read_npy(path)
        if array.ndim == ndim + 1 and len(array) == 1:
            array = array[0]
        if array.ndim != ndim or array.size == 0:
            raise BadSample(f"{path} has the shape {array.shape}; it has to be {what}")
        found.append(_float32(path, "it", array))
    text_emb, pooled = found
    return TextEntry(text_emb, np.ones(len(text_emb), np.uint8), pooled=pooled)


def require_same_text(path: str | Path, entry: TextEntry, *forms: str) -> None:
    """Refuses a cache that was made from another text than it is used for.

    Args:
        entry: what `read_text` gave for ``path``; one that does not tell its text is accepted.
        forms: the prompt as it was asked for and, where it is known, as it would be encoded; one has to be the same.
    Raises:
        UserError: names both texts.
    """
    made_from = {text for text in (entry.text, entry.encoded) if text is not None}
    if made_from and made_from.isdisjoint(forms):
        raise UserError(
            f"{path} was made from {_short(entry.text or entry.encoded)}, not from {_short(forms[0])}; give the "
            "prompts that the cache was made from, in their order, or make the cache anew"
        )


# --- latents ---------------------------------------------------------------------------------------------------------


def write_latent(
    path: str | Path, entry: LatentEntry, save_distribution: bool = True, made_from: Mapping[str, Any] | None = None
) -> None:
    """Writes one video's latents; without ``save_distribution`` the mean alone."""
    arrays = {
        "fps": np.float32(entry.fps),
        "ori_size": np.asarray(entry.ori_size, np.int32),
    }
    for name, (mean, std) in {"latent": (entry.mean, entry.std), **entry.ends}.items():
        arrays[f"{name}_mean"] = mean.astype(np.float32, copy=False)
        if save_distribution:
            arrays[f"{name}_std"] = std.astype(np.float32, copy=False)
    if entry.num_frames is not None:
        arrays["num_frames"] = np.int32(entry.num_frames)
    if entry.size is not None:
        arrays["size"] = np.asarray(entry.size, np.int32)
    _write(path, arrays, made_from)


def read_latent(path: str | Path, ends: Sequence[str] = ()) -> LatentEntry:
    """Reads one video's latents.

    Args:
        ends: names of what conditions give that the file has to have.
    Raises:
        BadSample: missing, damaged, not a latent cache, or with values that no video gives.
        UserError: it lacks what conditions give.
    """
    of_ends = tuple(f"{name}_{part}" for name in ends for part in ("mean", "std"))
    arrays = _read(
        path, LATENT_KEYS, ("latent_std", "fps", "ori_size", "num_frames", "size", *of_ends), "a latent cache"
    )
    mean, std = _distribution(path, arrays, "latent")
    lacking = [name for name in ends if f"{name}_mean" not in arrays]
    if lacking:
        raise UserError(
            f"{path} lacks {', '.join(lacking)}, which condition_config needs; cache the latents again with "
            "--condition_kinds and the kinds of condition_config"
        )
    (fps,) = _values(path, arrays, "fps", 1, 0, whole=False) or (0.0,)
    (num_frames,) = _values(path, arrays, "num_frames", 1, 1) or (None,)
    ori_size = _values(path, arrays, "ori_size", 2, 0) or (0, 0)
    given = {name: _distribution(path, arrays, name) for name in ends}
    return LatentEntry(mean, std, fps, ori_size, num_frames, _values(path, arrays, "size", 2, 1), given)


def _distribution(path: str | Path, arrays: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (T', C, h, w) float32; without the latter it is zero."""
    mean, std = arrays[f"{name}_mean"], arrays.get(f"{name}_std")
    if mean.ndim != 4 or mean.size == 0 or (std is not None and std.shape != mean.shape):
        raise BadSample(
            f"{path}: {name}_mean {mean.shape} and {name}_std {np.shape(std)} are not both (T, C, h, w)"
            if std is not None
            else f"{path}: {name}_mean {mean.shape} is not (T, C, h, w)"
        )
    mean = _float32(path, f"{name}_mean", mean)
    std = np.zeros_like(mean) if std is None else _float32(path, f"{name}_std", std)
    if std.min() < 0:
        raise BadSample(f"{path}: {name}_std has negative numbers")
    return mean, std


# --- values ----------------------------------------------------------------------------------------------------------


def _float32(path: str | Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        raise BadSample(f"{path}: {name} is of {array.dtype}, not of floats")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise BadSample(f"{path}: {name} has numbers that are not finite")
    return array


def _values(
    path: str | Path, arrays: Mapping[str, np.ndarray], name: str, count: int, least: int, whole: bool = True
) -> tuple | None:
    """The ``count`` numbers of an entry, each at least ``least``; None if there is no such entry."""
    if name not in arrays:
        return None
    values = arrays[name].reshape(-1).tolist()
    if len(values) != count or not all(least <= value < 1 << 31 and (not whole or value % 1 == 0) for value in values):
        kind = "whole number" if whole else "number"
        raise BadSample(
            f"{path}: {name}={str(values)[:60]} has to be {count} {kind}{'s' if count > 1 else ''} from {least} on"
        )
    return tuple(map(int if whole else float, values))


def _short(text: str) -> str:
    return repr(textwrap.shorten(text, 60, placeholder="..."))


# --- what a file was made from ---------------------------------------------------------------------------------------


def read_record(path: str | Path) -> dict[str, Any] | None:
    """What a cache file says it was made from; None if it does not say.

    Raises:
        BadSample: missing or damaged.
    """
    return _record(path, read_npz(path, (RECORD,)))


def difference(record: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """In which of the wanted settings a record differs, in words; None if it says nothing else than them.

    Of a text only the form that is encoded counts.
    """
    for name, value in wanted.items():
        if name in record and record[name] != value and name != "text":
            return f"{name} was {_short(str(record[name]))} and is {_short(str(value))} now"
    return None


def _record(path: str | Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    if RECORD not in arrays:
        return None
    try:
        record = json.loads(arrays[RECORD].tobytes())
        if not all(isinstance(record.get(name, ""), str) for name in ("text", "encoded")):
            raise ValueError("a text is no text")
    except (ValueError, AttributeError, RecursionError) as error:
        raise BadSample(f"{path}: {RECORD} does not say in JSON what the file was made from") from error
    return record


# --- files -----------------------------------------------------------------------------------------------------------


def is_complete(path: str | Path, keys: Sequence[str]) -> bool:
    """Whether a cache file is there and has these arrays; it is looked up in its directory only, so this is cheap."""
    return npz_names(path) >= set(keys)


def _write(path: str | Path, arrays: dict[str, np.ndarray], made_from: Mapping[str, Any] | None) -> None:
    if made_from is not None:
        arrays[RECORD] = np.frombuffer(json.dumps(made_from).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, **arrays)
    try:
        with atomic_write(path) as file:
            file.write(content.getbuffer())
    except UserError as error:
        if getattr(error.__cause__, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
            raise
        folder = next(folder for folder in Path(path).absolute().parents if folder.exists())
        free = shutil.disk_usage(folder).free
        raise UserError(
            f"cannot write {path}: it takes {content.tell() / 1e6:.3f} MB, and {free / 1e6:.3f} MB are free; free some "
            "space and repeat: complete files are kept"
        ) from error


def _read(path: str | Path, keys: Sequence[str], optional: Sequence[str], what: str) -> dict[str, np.ndarray]:
    arrays = read_npz(path, (*keys, *optional))
    lacking = [key for key in keys if key not in arrays]
    if lacking:
        raise BadSample(f"{path} is not {what}: it lacks {', '.join(lacking)}")
    return arrays
