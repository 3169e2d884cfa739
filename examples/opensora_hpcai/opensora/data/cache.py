"""Embedding caches: text embeddings and autoencoder latents as ``.npz`` files, in the forms that are in circulation.

Text, one file per caption. Beside a table of videos the file mirrors the video's path (``a/b.mp4`` has ``a/b.npz``) and
its arrays have no batch dimension: ``text_emb`` (L, D) float32, ``mask`` (L,) uint8, ``tokens`` (L,) int32. For a list
of prompts the file is ``{i:03d}-{first ten words}.npz`` and they have one: (1, L, D), (1, L), (1, L). Both forms are
read; older files have no ``tokens``.

Latents, one file per video: ``latent_mean`` and ``latent_std`` (T', C, h, w) float32, before any scaling; ``fps`` of
the frames that were encoded; ``ori_size`` (height, width) of the file; and, new, ``num_frames`` and ``size``
(height, width) of what was encoded. Files without a standard deviation count as having none.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mindone.checkpoint.atomic import atomic_write
from mindone.data.errors import BadSample
from mindone.data.write import slug
from mindone.errors import UserError

TEXT_KEYS = ("text_emb", "mask")
LATENT_KEYS = ("latent_mean",)
RESOLUTION_FOLDER = re.compile(r"latent_(\d+)x(\d+)")


@dataclass(frozen=True)
class TextEntry:
    """One caption: text_emb (L, D) float32, mask (L,) uint8 with 1 = valid, tokens (L,) int32 or None."""

    text_emb: np.ndarray
    mask: np.ndarray
    tokens: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return self.text_emb.nbytes + self.mask.nbytes


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

    @property
    def nbytes(self) -> int:
        return self.mean.nbytes + self.std.nbytes


# --- names -----------------------------------------------------------------------------------------------------------


def cache_path(folder: str | Path, relative: str) -> Path:
    """The cache file of a video in a table."""
    return Path(folder) / PurePosixPath(relative).with_suffix(".npz")


def prompt_path(folder: str | Path, index: int, prompt: str) -> Path:
    """The cache file of the prompt number ``index`` of a list."""
    return Path(folder) / f"{index:03d}-{slug(prompt)}.npz"


def latent_folders(folder: str | Path) -> list[Path]:
    """The subfolders ``latent_{h}x{w}`` of a cache in several resolutions, or the folder itself."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"vae_latent_folder={folder} is not a folder; make it with scripts/infer_vae.py")
    found = [path for path in folder.iterdir() if path.is_dir() and RESOLUTION_FOLDER.fullmatch(path.name)]
    return sorted(found) or [folder]


def prompt_files(folder: str | Path) -> list[Path]:
    """The text caches in a folder made from a list of prompts, in the list's order."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"text_embed_folder={folder} is not a folder; make it with scripts/infer_t5.py")
    files = sorted(folder.glob("*.npz"), key=lambda path: (_number(path), path.name))
    if not files:
        raise UserError(f"text_embed_folder={folder} has no .npz files; make them with scripts/infer_t5.py")
    return files


def _number(path: Path) -> int:
    match = re.match(r"\d+", path.name)
    return int(match.group()) if match else 0


# --- text ------------------------------------------------------------------------------------------------------------


def write_text(
    path: str | Path, text_emb: np.ndarray, mask: np.ndarray, tokens: np.ndarray, batch_dim: bool = False
) -> None:
    """Writes one caption's (L, D), (L,), (L,); with ``batch_dim`` as a prompt's (1, L, D), (1, L), (1, L)."""
    arrays = {"text_emb": np.asarray(text_emb, np.float32), "mask": np.asarray(mask, np.uint8), "tokens": tokens}
    arrays = {key: np.asarray(array)[None] if batch_dim else np.asarray(array) for key, array in arrays.items()}
    _write(path, arrays)


def read_text(path: str | Path) -> TextEntry:
    """Reads either form.

    Raises:
        BadSample: missing, damaged, or not a text cache.
    """
    arrays = _read(path, TEXT_KEYS, "a text embedding cache")
    text_emb, mask, tokens = arrays["text_emb"], arrays["mask"], arrays.get("tokens")
    if text_emb.ndim == 3 and len(text_emb) == 1:
        text_emb = text_emb[0]
    if text_emb.ndim != 2 or mask.size != len(text_emb) or (tokens is not None and tokens.size != len(text_emb)):
        raise BadSample(f"{path}: text_emb of shape {text_emb.shape} does not fit mask of shape {mask.shape}")
    tokens = None if tokens is None else tokens.reshape(-1).astype(np.int32)
    return TextEntry(text_emb.astype(np.float32, copy=False), mask.reshape(-1).astype(np.uint8), tokens)


# --- latents ---------------------------------------------------------------------------------------------------------


def write_latent(path: str | Path, entry: LatentEntry, save_distribution: bool = True) -> None:
    """Writes one video's latents; without ``save_distribution`` the mean alone."""
    arrays = {
        "latent_mean": entry.mean.astype(np.float32, copy=False),
        "fps": np.float32(entry.fps),
        "ori_size": np.asarray(entry.ori_size, np.int32),
    }
    if save_distribution:
        arrays["latent_std"] = entry.std.astype(np.float32, copy=False)
    if entry.num_frames is not None:
        arrays["num_frames"] = np.int32(entry.num_frames)
    if entry.size is not None:
        arrays["size"] = np.asarray(entry.size, np.int32)
    _write(path, arrays)


def read_latent(path: str | Path) -> LatentEntry:
    """Reads one video's latents.

    Raises:
        BadSample: missing, damaged, not a latent cache, or with numbers that are not finite.
    """
    arrays = _read(path, LATENT_KEYS, "a latent cache")
    mean = arrays["latent_mean"].astype(np.float32, copy=False)
    std = arrays.get("latent_std")
    std = np.zeros_like(mean) if std is None else std.astype(np.float32, copy=False)
    if mean.ndim != 4 or std.shape != mean.shape:
        raise BadSample(f"{path}: latent_mean {mean.shape} and latent_std {std.shape} are not both (T, C, h, w)")
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise BadSample(f"{path} has latents that are not finite numbers")
    fps = float(arrays["fps"]) if "fps" in arrays else 0.0
    num_frames = int(arrays["num_frames"]) if "num_frames" in arrays else None
    return LatentEntry(mean, std, fps, _pair(arrays.get("ori_size")) or (0, 0), num_frames, _pair(arrays.get("size")))


def _pair(array: np.ndarray | None) -> tuple[int, int] | None:
    return None if array is None or array.size != 2 else (int(array.flat[0]), int(array.flat[1]))


# --- files -----------------------------------------------------------------------------------------------------------


def is_complete(path: str | Path, keys: Sequence[str]) -> bool:
    """Whether a cache file is there and has these arrays; it is looked up in its directory only, so this is cheap."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
    return all(f"{key}.npy" in names for key in keys)


def _write(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def _read(path: str | Path, keys: Sequence[str], what: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError as error:
        raise BadSample(f"{path} is missing") from error
    except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadSample(f"{path} is damaged or not an npz file ({reason})") from error
    lacking = [key for key in keys if key not in arrays]
    if lacking:
        raise BadSample(f"{path} is not {what}: it lacks {', '.join(lacking)}")
    return arrays
