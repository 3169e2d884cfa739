"""LoRA files in the namings of peft, diffusers, ComfyUI and kohya: read from any of them, written in each.

The linear at path ``M`` has two matrices, ``down`` = A (rank, in) and ``up`` = B (out, rank), and a scale ``s``:

======== ===================================================== =====================================================
format   names                                                 scale
======== ===================================================== =====================================================
peft     ``base_model.model.M.lora_A.weight``, ``lora_B``      alpha / r of ``adapter_config.json``
diffusers ``transformer.M.lora_A.weight``, ``lora_B``          the header's ``lora_adapter_metadata``, 1 without it
comfyui  ``diffusion_model.M.lora_A.weight``, ``lora_B``       ``.alpha`` / r, 1 without it
kohya    ``lora_unet_M_.lora_down.weight``, ``lora_up``        ``.alpha`` / r, 1 without it; ``M_`` has ``_`` for dots
======== ===================================================== =====================================================
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindone.checkpoint.atomic import atomic_folder, atomic_write, require_new_folder
from mindone.checkpoint.files import read_json
from mindone.checkpoint.find import ADAPTER_CONFIG, find_model
from mindone.checkpoint.read import read_tensors
from mindone.checkpoint.safetensors_file import save_safetensors
from mindone.checkpoint.tensors import TensorFile, is_finite, is_float, one_line
from mindone.errors import UserError

PEFT_PREFIX = "base_model.model."
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
METADATA = "lora_adapter_metadata"
LORA_FORMATS = ("peft", "diffusers", "comfyui", "kohya")

_PREFIXES = (PEFT_PREFIX, "diffusion_model.", "transformer.", "lora_unet_", "lora_transformer_")
# Entries of a header that belong to the matrices of one file: their configuration, rank, alpha and digests.
_OF_ONE_FILE = re.compile(rf"{METADATA}|ss_network_(dim|alpha)|sshs_.*")
# Endings of the matrices: down and up.
_ENDINGS = {
    ending: side
    for pair in (
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora_A", ".lora_B"),
        (".lora_down.weight", ".lora_up.weight"),
        ("_lora.down.weight", "_lora.up.weight"),
        (".lora.down.weight", ".lora.up.weight"),
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    )
    for ending, side in zip(pair, ("down", "up"))
}
_ALPHA = ".alpha"
_NAME = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class LoraModule:
    """The addition to one linear: ``scale * up @ down``, with down (rank, in) and up (out, rank)."""

    down: np.ndarray
    up: np.ndarray
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self) -> np.ndarray:
        """(out, in) float32."""
        return np.float32(self.scale) * (self.up.astype(np.float32) @ self.down.astype(np.float32))


@dataclass(frozen=True)
class LoraTensors:
    """An adapter as it was read: its modules by the path of their linears, and what its file says of itself."""

    path: Path
    modules: Mapping[str, LoraModule]
    metadata: Mapping[str, str] = field(default_factory=dict)


def scale_of(alpha: float, rank: int, rank_stabilised: bool = False) -> float:
    """alpha / rank, or alpha / sqrt(rank)."""
    return float(alpha) / (math.sqrt(rank) if rank_stabilised else rank)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_lora(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> LoraTensors:
    """Reads an adapter in any naming, for a network.

    Args:
        path: a file, a folder with an ``adapter_config.json``, or the folder of a run or of a step that trained one.
        shapes: of the network's parameters, by name; linears are those with a ``weight`` of two axes.
    Raises:
        UserError: nothing there, no LoRA, one of another network, or with parts that are understood by other tools
            only; the message says which.
    """
    file, config = _located(Path(path))
    tensors = read_tensors(file, "all")
    config = config or _header_config(tensors)
    linears = _linears(shapes)
    parts, alphas = _sorted_out(tensors, _targets(linears))
    strange = sorted(set(parts) - set(linears))
    if strange:
        raise UserError(
            f"{file} adapts {one_line(strange[0])}, which is no linear of this network ({len(strange)} of {len(parts)} "
            "modules); it belongs to another model, or to another layout of it"
        )
    modules = {}
    for module, sides in parts.items():
        modules[module] = _module(file, tensors, module, sides, linears[module], alphas.get(module), config)
    metadata = {name: text for name, text in tensors.metadata.items() if not _OF_ONE_FILE.fullmatch(name)}
    return LoraTensors(file, modules, metadata)


def fitting(path: str | Path, candidates: Iterable[Mapping[str, tuple[int, ...]]]) -> int | None:
    """Which network an adapter is for, by the names of its modules alone.

    Args:
        path: as for `read_lora`.
        candidates: shapes of the parameters of networks, by name.
    Returns:
        The position of the first that has all modules; None if none has.
    Raises:
        UserError: nothing there, or no LoRA.
    """
    tensors = read_tensors(_located(Path(path))[0], "all")
    for position, shapes in enumerate(candidates):
        linears = _linears(shapes)
        if set(_sorted_out(tensors, _targets(linears))[0]) <= set(linears):
            return position
    return None


def _located(path: Path) -> tuple[Path, dict[str, Any]]:
    """The file of tensors, and what an ``adapter_config.json`` beside it says; empty without one."""
    if not path.exists():
        raise UserError(f"there is no LoRA at {path}; give a .safetensors file, or a folder with {ADAPTER_CONFIG}")
    path = find_model(path)
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / ADAPTER_CONFIG, "LoRA configuration") if (folder / ADAPTER_CONFIG).is_file() else {}
    if path.is_dir():
        path = next((folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()), path)
    for name in ("use_dora", "lora_bias", "modules_to_save", "use_qalora", "layer_replication", "fan_in_fan_out"):
        if config.get(name):
            raise UserError(f"{folder / ADAPTER_CONFIG} has {name}={config[name]}, which is not supported")
    return path, config


def _header_config(tensors: TensorFile) -> dict[str, Any]:
    """What diffusers writes into the header: a configuration of peft whose names begin with ``transformer.``."""
    text = tensors.metadata.get(METADATA)
    if text is None:
        return {}
    try:
        values = json.loads(text)
        return {str(name).removeprefix("transformer."): value for name, value in values.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{tensors.path} has a header {METADATA} that is no JSON object ({error})") from error


def _linears(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Path → shape of the weight, of all linears."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2
    }


def _targets(linears: Collection[str]) -> dict[str, str]:
    """What a module may be called in a file → its path; names with underscores cannot be turned back by rule."""
    return {**{path.replace(".", "_"): path for path in linears}, **{path: path for path in linears}}


def _sorted_out(tensors: TensorFile, targets: Mapping[str, str]) -> tuple[dict[str, dict[str, str]], dict[str, float]]:
    """Module → side (down, up) → name in the file; and the alphas that are tensors."""
    parts: dict[str, dict[str, str]] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for name in tensors:
        ending = next((ending for ending in _ENDINGS if name.endswith(ending)), None)
        if ending is None and not name.endswith(_ALPHA):
            unknown.append(name)
            continue
        module = _without_prefix(name.removesuffix(ending or _ALPHA))
        module = targets.get(module, module)
        sides = parts.setdefault(module, {})
        if ending is None:
            alphas[module] = float(np.asarray(tensors[name], np.float32).reshape(-1)[0])
        elif sides.setdefault(_ENDINGS[ending], name) != name:
            raise UserError(f"{tensors.path} has {one_line(name)} twice, under another name too")
    if unknown:
        raise UserError(
            f"{tensors.path} has {one_line(unknown[0])}, which is no part of a LoRA that is understood here "
            f"({len(unknown)} of {len(tensors)} tensors); only pairs of a down and an up matrix are"
        )
    return parts, alphas


def _without_prefix(module: str) -> str:
    return next((module.removeprefix(prefix) for prefix in _PREFIXES if module.startswith(prefix)), module)


def _module(
    file: Path,
    tensors: TensorFile,
    module: str,
    sides: Mapping[str, str],
    shape: tuple[int, ...],
    alpha: float | None,
    config: Mapping[str, Any],
) -> LoraModule:
    missing = [side for side in ("down", "up") if side not in sides]
    if missing:
        raise UserError(f"{file} has no {missing[0]} matrix for {module}; the file is incomplete")
    down, up = (_matrix(tensors, sides[side]) for side in ("down", "up"))
    if down.shape[1] != shape[1] or up.shape[0] != shape[0] or down.shape[0] != up.shape[1] or not down.shape[0]:
        raise UserError(
            f"{file}: {module} has matrices of {list(down.shape)} and {list(up.shape)}, but the network's weight is "
            f"{list(shape)}; it belongs to another size of the model"
        )
    return LoraModule(down, up, _scale(file, module, down.shape[0], alpha, config))


def _matrix(tensors: TensorFile, name: str) -> np.ndarray:
    """A matrix; some tools store it as a 1x1 kernel."""
    array = tensors[name]
    if not is_float(array.dtype) or not is_finite(array):
        raise UserError(f"{tensors.path}: {one_line(name)} is not of finite real numbers; the file is damaged")
    if array.ndim > 2 and set(array.shape[2:]) == {1}:
        array = array.reshape(array.shape[:2])
    if array.ndim != 2:
        raise UserError(f"{tensors.path}: {one_line(name)} has shape {list(array.shape)}, which is no matrix")
    return array


def _scale(file: Path, module: str, rank: int, alpha: float | None, config: Mapping[str, Any]) -> float:
    """From the tensor alpha, else from the configuration, else 1."""
    try:
        if alpha is None and config:
            pattern = config.get("alpha_pattern") or {}
            alpha = float(_matching(pattern, module, config.get("lora_alpha", rank)))
        stabilised = bool(config.get("use_rslora", False))
        scale = 1.0 if alpha is None else scale_of(alpha, rank, stabilised)
        if not math.isfinite(scale):
            raise ValueError(f"the scale is {scale}")
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: the alpha of {module} is no number ({error})") from error
    return scale


def _matching(values: Mapping[str, Any], module: str, usual: Any) -> Any:
    for end, value in values.items():
        end = end.replace("\\.", ".").removeprefix("^").removesuffix("$")
        if not _NAME.fullmatch(end):
            raise UserError(f"alpha_pattern has {one_line(end)}; only names of modules are understood, no expressions")
        if module == end or module.endswith(f".{end}"):
            return value
    return usual


# --- writing ---------------------------------------------------------------------------------------------------------


def write_lora(path: str | Path, lora: LoraTensors, layout: str = "comfyui") -> None:
    """Writes an adapter in another naming: a new folder for peft, a ``.safetensors`` file for the others.

    Every naming says the scale where its readers look for it: alpha / r is the module's scale. The header has what the
    adapter's says of where it comes from.

    Raises:
        UserError: an unknown format, a place that cannot be written, or a folder that has files already.
    """
    path, about = Path(path), {"format": "pt", **lora.metadata}
    if layout not in LORA_FORMATS:
        raise UserError(f"format={layout} is not known; use one of {', '.join(LORA_FORMATS)}")
    if layout == "peft":
        require_new_folder(path)
        with atomic_folder(path) as folder:
            tensors = dict(_named(lora, PEFT_PREFIX, (".lora_A.weight", ".lora_B.weight")))
            save_safetensors(folder / ADAPTER_WEIGHTS[0], tensors, about)
            _write_json(folder / ADAPTER_CONFIG, _configuration(lora))
        return
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: the format {layout} is a file; give a name that ends in .safetensors")
    if layout == "diffusers":
        config = {f"transformer.{name}": value for name, value in _configuration(lora).items()}
        tensors = dict(_named(lora, "transformer.", (".lora_A.weight", ".lora_B.weight")))
        save_safetensors(path, tensors, {**about, METADATA: json.dumps(config)})
    elif layout == "comfyui":
        tensors = dict(_named(lora, "diffusion_model.", (".lora_A.weight", ".lora_B.weight"), alphas=True))
        save_safetensors(path, tensors, about)
    else:
        tensors = dict(_named(lora, "lora_unet_", (".lora_down.weight", ".lora_up.weight"), alphas=True, flat=True))
        save_safetensors(path, tensors, {**about, **_kohya_header(lora)})


def _named(
    lora: LoraTensors, prefix: str, endings: tuple[str, str], alphas: bool = False, flat: bool = False
) -> Iterable[tuple[str, np.ndarray]]:
    for module, values in lora.modules.items():
        name = prefix + (module.replace(".", "_") if flat else module)
        yield name + endings[0], values.down
        yield name + endings[1], values.up
        if alphas:
            yield name + _ALPHA, np.array(values.scale * values.rank, np.float32)


def _configuration(lora: LoraTensors) -> dict[str, Any]:
    """Of peft, with a rank and an alpha for every module that differs from the first one."""
    modules = lora.modules
    first = next(iter(modules.values()))
    ranks = {name: each.rank for name, each in modules.items() if each.rank != first.rank}
    alphas = {name: each.scale * each.rank for name, each in modules.items()}
    usual = first.scale * first.rank
    return {
        "peft_type": "LORA",
        "inference_mode": True,
        "r": first.rank,
        "lora_alpha": usual,
        "use_rslora": False,
        "target_modules": sorted(modules),
        "rank_pattern": ranks,
        "alpha_pattern": {name: alpha for name, alpha in alphas.items() if not math.isclose(alpha, usual)},
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }


def _kohya_header(lora: LoraTensors) -> dict[str, str]:
    first = next(iter(lora.modules.values()))
    return {"ss_network_dim": str(first.rank), "ss_network_alpha": f"{first.scale * first.rank:g}"}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())
