"""What a checkpoint holds, in words, and how two of them differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from mindone.checkpoint.naming import matches, published_name, without_wrappers
from mindone.checkpoint.tensors import TensorFile

Signatures = Mapping[str, tuple[str, ...]]
"""Network → patterns of names that all have to occur; the first that fits is the guess."""

SIGNATURES: Signatures = {
    "AutoencoderKL": ("encoder.down_blocks.*", "decoder.up_blocks.*"),
    "autoencoder with latent-diffusion names": ("*encoder.down.*.block.*", "*decoder.up.*.block.*"),
    "T5 encoder": ("encoder.block.*.layer.0.SelfAttention.*",),
    "CLIP text encoder": ("text_model.encoder.layers.*",),
}


def guess_network(tensors: TensorFile, signatures: Signatures | None = None) -> str:
    """The network a checkpoint most likely belongs to, or ``unknown``.

    Args:
        signatures: networks to think of before those of the library.
    """
    names = [published_name(name, (), (without_wrappers,)) for name in tensors]
    for network, patterns in {**(signatures or {}), **SIGNATURES}.items():
        if all(any(matches(name, (pattern,)) for name in names) for pattern in patterns):
            return network
    return "unknown"


def summary(tensors: TensorFile, signatures: Signatures | None = None) -> str:
    """A few lines: path, network (see `guess_network`), number of tensors and values, bytes, dtypes, metadata."""
    values = sum(entry.size for entry in tensors.entries.values())
    dtypes = Counter(entry.dtype.name for entry in tensors.entries.values())
    lines = [
        f"file      {tensors.path}",
        f"network   {guess_network(tensors, signatures)}",
        f"tensors   {len(tensors)}",
        f"values    {values:,}",
        f"bytes     {tensors.nbytes:,}",
        f"dtypes    {', '.join(f'{name} x {count}' for name, count in dtypes.most_common())}",
    ]
    if not tensors.is_complete:
        lines.append("complete  not known: the file has no checksum, and its format no count of tensors")
    return "\n".join(lines + [f"metadata  {key} = {value}" for key, value in tensors.metadata.items()])


def table(tensors: TensorFile) -> str:
    """One line for each tensor: dtype, shape, name."""
    rows = [(entry.dtype.name, str(list(entry.shape)), name) for name, entry in tensors.entries.items()]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    return "\n".join(f"{dtype:<{widths[0]}}  {shape:<{widths[1]}}  {name}" for dtype, shape, name in rows)


def differences(first: TensorFile, second: TensorFile) -> list[str]:
    """One line for each tensor that is not equal, bit by bit, in both."""
    found = [f"{name}: only in {first.path}" for name in first if name not in second]
    found += [f"{name}: only in {second.path}" for name in second if name not in first]
    for name, entry in first.entries.items():
        if name not in second:
            continue
        other = second.entries[name]
        if (entry.dtype, entry.shape) != (other.dtype, other.shape):
            found.append(f"{name}: {entry.dtype} {list(entry.shape)} and {other.dtype} {list(other.shape)}")
        elif not np.array_equal(_bits(entry.read()), _bits(other.read())):
            found.append(f"{name}: other values")
    return found


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
