"""Filling a network from a checkpoint, strictly, and taking its tensors out again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindone import runtime
from mindone.checkpoint import naming
from mindone.checkpoint.atomic import atomic_write
from mindone.checkpoint.find import ADAPTER_CONFIG, CONFIG
from mindone.checkpoint.naming import ALWAYS_UNEXPECTED, DEFAULT_ADAPTERS, Adapter
from mindone.checkpoint.read import read_tensors
from mindone.checkpoint.safetensors_file import save_safetensors
from mindone.checkpoint.slices import cut_of, part, whole_shape
from mindone.checkpoint.tensors import (
    MINDSPORE_DTYPES,
    TensorFile,
    as_tensor_file,
    cast,
    entry_of,
    float_dtype,
    is_finite,
    is_float,
    narrowed,
    one_line,
)
from mindone.errors import UserError

LISTED = 10


@dataclass(frozen=True)
class Layout:
    """The files of a folder that holds a model, or an adapter of one."""

    config: str = CONFIG
    weights: str = "model.safetensors"


MODEL_LAYOUT, ADAPTER_LAYOUT = Layout(), Layout(ADAPTER_CONFIG, "adapter_model.safetensors")


@dataclass(frozen=True)
class LoadReport:
    """What `load_into` did, or would do.

    Attributes:
        found: parameter → name in the file.
        missing: parameters the checkpoint does not hold and ``allow_missing`` names; they keep their values.
        unexpected: tensors of the checkpoint that no parameter took and that were allowed.
    """

    found: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the parameters that are filled."""
        return tuple(self.found)

    @property
    def renamed(self) -> dict[str, str]:
        """Parameter → name in the file, where they differ."""
        return {name: file_name for name, file_name in self.found.items() if name != file_name}


def load_into(
    network: Any,
    source: str | Path | TensorFile | Mapping[str, Any],
    adapters: Sequence[Adapter] = DEFAULT_ADAPTERS,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    dtype: str | None = None,
    allow_not_finite: bool = False,
) -> LoadReport:
    """Fills the parameters of a network from a checkpoint, one tensor at a time.

    Names, shapes and dtypes are checked before the first parameter changes, values while they are read. Parameters are
    known by their place in the network (``parameters_and_names``); those made under `runtime.lazy_parameters` get their
    memory here, and those that are slices (`mindone.checkpoint.slices`) read theirs alone.

    Args:
        source: a path or named arrays.
        adapters: how names of the file become names of the network, see `mindone.checkpoint.naming`.
        allow_missing: patterns (``*``, ``?``) of parameters that may keep their values.
        allow_unexpected: patterns of tensors in the file that may stay unused, besides the well-known ones and those
            that ``network.computed_buffers`` names.
        dtype: ``fp32``, ``fp16`` or ``bf16`` for all floating parameters; each keeps its own if not given.
        allow_not_finite: load NaN and infinity as well, to look at a training that diverged.
    Raises:
        UserError: tensors are missing, unexpected, of another shape or kind, or not finite; the message lists them.
    """
    floats = None if dtype is None else float_dtype(dtype)
    tensors = read_tensors(source) if isinstance(source, (str, Path)) else as_tensor_file(source)
    report = check_fit(network, tensors, adapters, allow_missing, allow_unexpected)
    parameters, found = dict(network.parameters_and_names()), report.found
    fill, not_finite = _Fill(floats), []
    for name, file_name in found.items():
        cut = cut_of(parameters[name])
        array = part(tensors.entries[file_name], cut) if cut else tensors[file_name]
        try:
            fill(parameters[name], array)
        except UserError as error:
            raise UserError(f"{tensors.path}: tensor {file_name}: {error}") from error
        if not (allow_not_finite or is_finite(array)):
            not_finite.append(file_name)
    if not_finite:
        raise UserError(
            f"{tensors.path} has {_listed('with NaN or infinite values', not_finite, len(found))}; the training that "
            "wrote it diverged, or the file is damaged: take an earlier checkpoint or copy it again"
        )
    return report


def check_fit(
    network: Any,
    source: str | Path | TensorFile | Mapping[str, Any],
    adapters: Sequence[Adapter] = DEFAULT_ADAPTERS,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> LoadReport:
    """What `load_into` would load, by names, shapes and dtypes alone: no tensor is read, no parameter changed.

    Raises:
        UserError: as `load_into`, but for values that are not finite.
    """
    tensors = read_tensors(source) if isinstance(source, (str, Path)) else as_tensor_file(source)
    parameters = dict(network.parameters_and_names())
    found, unexpected = naming.resolve(tensors, parameters, adapters)
    missing = [name for name in parameters if name not in found]
    unused = (*ALWAYS_UNEXPECTED, *getattr(network, "computed_buffers", ()), *allow_unexpected)
    _check(
        tensors,
        parameters,
        found,
        [name for name in missing if not naming.matches(name, allow_missing)],
        [name for name in unexpected if not naming.matches(name, unused)],
    )
    _check_kinds(tensors, parameters, found)
    return LoadReport(found, tuple(missing), tuple(unexpected))


def _check(
    tensors: TensorFile,
    parameters: Mapping[str, Any],
    found: Mapping[str, str],
    missing: list[str],
    unexpected: list[str],
) -> None:
    misshapen = [
        f"{name} {list(shape)} instead of {list(target)}"
        for name, file_name in found.items()
        if (shape := tensors.shape(file_name)) != (target := whole_shape(parameters[name]))
        and not naming.fits_after_reshape(name, shape, target)
    ]
    if not (missing or unexpected or misshapen):
        return
    parts = [
        _listed("missing", missing, len(parameters)),
        _listed("unexpected", unexpected, len(tensors)),
        _listed("of another shape", misshapen, len(found)),
    ]
    hint = _hint(tensors, parameters, found)
    raise UserError(f"{tensors.path} does not fit the network: {'; '.join(filter(None, parts))}. {hint}")


def _check_kinds(tensors: TensorFile, parameters: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Refuses integers in the place of real numbers: quantized weights mean nothing without their scales."""
    wrong = [
        f"{file_name} {tensors.dtype(file_name)}"
        for name, file_name in found.items()
        if is_float(MINDSPORE_DTYPES[str(parameters[name].dtype)]) and not is_float(tensors.dtype(file_name))
    ]
    if wrong:
        raise UserError(
            f"{tensors.path} has {_listed('that are not floating point', wrong, len(found))}, where the network has "
            "real numbers; are they quantized? Take the float weights of the model"
        )


def _listed(what: str, names: list[str], total: int) -> str:
    if not names:
        return ""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} of {total} tensors {what} ({', '.join(map(one_line, names[:LISTED]))}{more})"


def _hint(tensors: TensorFile, parameters: Mapping[str, Any], found: Mapping[str, str]) -> str:
    prefix, count = naming.foreign_prefix(tensors, parameters)
    if count > len(found):
        return (
            f"Behind the prefix {prefix!r} the checkpoint has {count} of the {len(parameters)} names: "
            f"tools/convert.py SOURCE TARGET --strip {prefix} takes them"
        )
    if not found:
        return "No name is shared: is it the checkpoint of another network?"
    return "Check that model, version and config.json belong to this checkpoint"


class _Fill:
    """Gives parameters their values, through one buffer for all conversions: freed ones would leave holes in memory."""

    def __init__(self, floats: np.dtype | None):
        self.floats = floats
        self._buffer = np.empty(0, np.uint8)

    def __call__(self, parameter: Any, array: np.ndarray) -> None:
        ms = runtime.quiet_mindspore()
        own = MINDSPORE_DTYPES[str(parameter.dtype)]
        wanted = self.floats if self.floats is not None and is_float(own) else own
        # The tensor copies the values: it must not stay tied to the mapped file.
        value = ms.Tensor(self._converted(array, wanted).reshape(parameter.shape))
        if wanted != own:
            parameter.set_dtype(value.dtype)
        parameter.set_data(value)

    def _converted(self, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
        if array.dtype == dtype and array.flags.c_contiguous:
            return array
        size = array.size * dtype.itemsize
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        result = self._buffer[:size].view(dtype).reshape(array.shape)
        if is_float(dtype):
            return narrowed(array, dtype, result)
        np.copyto(result, array, casting="unsafe")
        if not np.array_equal(result, array):
            raise UserError(f"its values are no {dtype.name}: {array.dtype} does not go into it without loss")
        return result


def network_tensors(network: Any, dtype: str | None = None, instead: Mapping[str, Any] | None = None) -> TensorFile:
    """The parameters of a network as a lazy mapping of published names, floating ones as ``dtype`` if given.

    ``instead`` has parameters that stand in for those of the network, by the same names.
    """
    parameters = {**dict(network.parameters_and_names()), **(instead or {})}
    entries = {name: entry_of(parameter) for name, parameter in parameters.items()}
    return TensorFile("<network>", entries) if dtype is None else cast(TensorFile("<network>", entries), dtype)


def save_model(
    folder: str | Path,
    network: Any,
    config: Mapping[str, Any],
    dtype: str | None = None,
    instead: Mapping[str, Any] | None = None,
    layout: Layout = MODEL_LAYOUT,
    passport: Mapping[str, str] | None = None,
) -> None:
    """Writes ``config.json`` and ``model.safetensors`` in the hub's layout, under the published names.

    Args:
        network: anything with ``parameters_and_names()``.
        config: the constructor arguments, as JSON values.
        dtype: ``fp32``, ``fp16`` or ``bf16`` for floating parameters; each keeps its own if not given.
        instead: parameters that stand in for those of the network, such as averages, by the same names.
        layout: how the files are called.
        passport: where the weights come from, for the metadata of their file.
    Raises:
        UserError: the folder cannot be written.
    """
    save_tensors(Path(folder), network_tensors(network, dtype, instead), config, layout, passport)


def save_tensors(
    folder: Path,
    tensors: TensorFile,
    config: Mapping[str, Any],
    layout: Layout = MODEL_LAYOUT,
    passport: Mapping[str, str] | None = None,
) -> None:
    """As `save_model`, of tensors that have their published names already."""
    save_safetensors(folder / layout.weights, tensors, {"format": "pt", **(passport or {})})
    save_config(folder / layout.config, config)


def save_config(path: Path, config: Mapping[str, Any]) -> None:
    """Writes the ``config.json`` of a model folder."""
    with atomic_write(path) as file:
        file.write((json.dumps(dict(config), indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
