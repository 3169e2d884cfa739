"""Adapters folded into the weights: ``W + s * B A``, computed in float32 before the weights get their final dtype."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from mindone.adapters.lora_files import LoraModule, LoraTensors
from mindone.checkpoint.naming import DEFAULT_ADAPTERS, Adapter, resolve
from mindone.checkpoint.tensors import Entry, TensorFile, narrowed
from mindone.errors import UserError


def with_lora(
    tensors: TensorFile,
    names: Collection[str],
    loras: Sequence[tuple[LoraTensors, float]],
    adapters: Sequence[Adapter] = DEFAULT_ADAPTERS,
    keep_dtype: bool = False,
) -> TensorFile:
    """The weights of a network with adapters folded in, read one by one.

    Args:
        names: of the network's parameters, which the names of the file become by ``adapters``.
        loras: adapters, and the strength that multiplies the scale of each; those of strength 0 change nothing.
        keep_dtype: give the changed weights the dtype that they have in the file, instead of float32.
    Raises:
        UserError: a module of an adapter has no weight in the file.
    """
    found, _ = resolve(tensors, names, adapters)
    tensors = tensors.renamed({stored: name for name, stored in found.items()})
    entries = dict(tensors.entries)
    for name in names:
        path = name.removesuffix(".weight")
        parts = [(lora.modules[path], strength) for lora, strength in loras if strength and path in lora.modules]
        if name.endswith(".weight") and parts:
            if name not in entries:
                raise UserError(f"{tensors.path} has no {name}, which {loras[0][0].path} adapts")
            entries[name] = _merged(entries[name], parts, keep_dtype)
    return TensorFile(tensors.path, entries, tensors.metadata)


def _merged(entry: Entry, parts: Sequence[tuple[LoraModule, float]], keep_dtype: bool) -> Entry:
    """A weight whose sum is rounded once: to the dtype that it had, or when a network takes the float32."""
    dtype = entry.dtype if keep_dtype else np.dtype(np.float32)

    def read() -> np.ndarray:
        delta = sum(np.float32(strength) * module.delta() for module, strength in parts)
        return narrowed(entry.read().astype(np.float32) + delta.reshape(entry.shape), dtype)

    return replace(entry, dtype=dtype, read=read, stored=None)
