"""Conversion of checkpoints between formats and names, one tensor at a time; bytes are copied where dtypes stay."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mindone.checkpoint import naming
from mindone.checkpoint.ckpt_file import save_ckpt
from mindone.checkpoint.naming import Adapter, Shape
from mindone.checkpoint.read import read_tensors
from mindone.checkpoint.safetensors_file import save_safetensors
from mindone.checkpoint.tensors import Entry, TensorFile, cast
from mindone.errors import UserError

logger = logging.getLogger(__name__)

_ATTENTION_MATRIX = re.compile(r".*\.attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)\.weight")


def to_mindspore(name: str) -> str:
    """The names that the earlier MindSpore port gave to norms: ``*norm*.weight`` → ``gamma``, ``bias`` → ``beta``."""
    head, dot, last = name.rpartition(".")
    if not dot:
        return {"weight": "gamma", "bias": "beta"}.get(name, name)
    return head + dot + {"weight": "gamma", "bias": "beta"}.get(last, last) if "norm" in name else name


def published_shape(name: str, shape: Shape) -> Shape:
    """Matrices in place of the 1x1 kernels that older autoencoders have in their attentions."""
    return shape[:2] if _ATTENTION_MATRIX.fullmatch(name) and shape[2:] == (1, 1) else shape


# What `--names` may ask for.
NAMES: Mapping[str, tuple[Adapter, ...]] = {
    "keep": (),
    "published": (naming.without_wrappers, naming.from_mindspore, naming.from_old_attention),
    "mindspore": (to_mindspore,),
}


def convert(
    source: str | Path,
    target: str | Path,
    names: str = "keep",
    dtype: str | None = None,
    weights: str = "model",
    strip: str = "",
) -> TensorFile:
    """Writes a checkpoint in another format; the suffix of ``target`` says which: ``.ckpt`` or ``.safetensors``.

    Args:
        names: ``keep``; ``published`` undoes what MindSpore and wrappers do to names; ``mindspore`` gives norms
            ``gamma`` and ``beta``.
        dtype: ``fp32``, ``fp16`` or ``bf16`` for floating tensors; each keeps its own if not given.
        weights: ``model``, ``ema`` or ``all``, see `read_tensors`.
        strip: take only the tensors whose names begin so, without that beginning.
    Returns:
        What was written.
    Raises:
        UserError: the source cannot be read, the target cannot be written, or two tensors would get the same name.
    """
    if names not in NAMES:
        raise UserError(f"names={names} is not known; use one of {', '.join(NAMES)}")
    writer = writer_for(target)
    tensors = _read(source, weights)
    if strip:
        first = next(iter(tensors), "nothing")
        tensors = tensors.under(strip)
        if not tensors:
            raise UserError(f"no tensor in {source} has a name that begins with {strip!r}; the first is {first}")
    tensors = tensors.renamed(naming.renames(tensors, NAMES[names]))
    tensors = tensors if dtype is None else cast(tensors, dtype)
    writer(target, tensors)
    return tensors


def convert_autoencoder(
    source: str | Path,
    target: str | Path,
    parts: Sequence[str] = ("encoder", "decoder"),
    prefix: str = "",
    shape_of: Callable[[str, Shape], Shape] = published_shape,
    hint: str = "",
) -> TensorFile:
    """Brings an AutoencoderKL, or a network around one, in any generation of names and any format to published names.

    Args:
        parts: beginnings of names that the result must have.
        prefix: goes before all names that do not begin with it.
        shape_of: the published shape of a tensor by name and shape; the number of values is the same.
        hint: what the message about another network ends with.
    Returns:
        What was written.
    Raises:
        UserError: as `convert`, or the source is another network.
    """
    writer = writer_for(target)
    tensors = _read(source)
    tensors = tensors.renamed({name: _autoencoder_name(name, prefix) for name in tensors})
    for part in parts:
        if not any(name.startswith(f"{part}.") for name in tensors):
            first = next(iter(tensors), "nothing")
            raise UserError(f"{source} is not such an autoencoder: it has no {part}.* but {first}{hint}")
    entries = {name: _reshaped(entry, shape_of(name, entry.shape)) for name, entry in tensors.entries.items()}
    tensors = TensorFile(tensors.path, entries, tensors.metadata)
    writer(target, tensors)
    return tensors


def _read(source: str | Path, weights: str = "model") -> TensorFile:
    """`read_tensors`, and a warning if nothing in the file proves that it is whole: no network compares its names."""
    tensors = read_tensors(source, weights)
    if not tensors.is_complete:
        logger.warning(
            "%s has no checksum, and its format no count of tensors: %d were found, and if it was cut between two of "
            "them nothing shows it; compare that number with the source's",
            tensors.path,
            len(tensors),
        )
    return tensors


def _autoencoder_name(name: str, prefix: str) -> str:
    name = name.removeprefix("first_stage_model.")
    name = naming.from_compvis(naming.from_old_attention(naming.from_mindspore(naming.without_wrappers(name))))
    return name if name.startswith(prefix) else prefix + name


def _reshaped(entry: Entry, shape: Shape) -> Entry:
    return entry if shape == entry.shape else Entry(entry.dtype, shape, lambda: entry.read().reshape(shape))


def writer_for(target: str | Path) -> Callable[[str | Path, TensorFile], None]:
    """What writes tensors in the format that the suffix of ``target`` names.

    Raises:
        UserError: another suffix than ``.safetensors`` or ``.ckpt``.
    """
    suffix = Path(target).suffix
    if suffix == ".ckpt":
        return save_ckpt
    if suffix == ".safetensors":
        return lambda path, tensors: save_safetensors(path, tensors, {"format": "pt", **tensors.metadata})
    raise UserError(f"{target} has to end in .safetensors (which PyTorch reads too) or .ckpt (MindSpore)")
