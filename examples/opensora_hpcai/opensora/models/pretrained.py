"""Starting the training of a video denoiser from the weights of an image model.

PixArt-alpha starts STDiT and STDiT2, PixArt-Sigma starts STDiT3 (its blocks become the spatial ones), and DiT gives its
self-attentions and MLPs to any of them. What an image model does not have keeps its fresh values, which leave images as
they are: see `initialize_weights` of the networks. The adaptations are the published ones and no others:

- a two-dimensional patch kernel becomes one frame deep;
- position tables are left out, for they are computed from the size of the input;
- the null caption is cut to the network's number of tokens, or lengthened by its last row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindone.checkpoint import DEFAULT_ADAPTERS, LoadReport, TensorFile, load_into, read_tensors
from mindone.checkpoint.naming import matches
from mindone.checkpoint.tensors import Entry, as_tensor_file
from mindone.errors import UserError
from opensora.models.dit import DiT, DiTConfig
from opensora.models.pixart import PixArtConfig
from opensora.models.stdit_base import STDiTBase, STDiTBaseConfig

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig

NULL_CAPTION = "y_embedder.y_embedding"
CLASSES = "y_embedder.embedding_table.weight"
VIDEO_LAYERS = ("*.attn_temp.*", "*temporal_blocks.*")


@dataclass(frozen=True)
class ImageModel:
    """What is special about the weights of an image model.

    Attributes:
        mark: end of a tensor's name by which its files are known.
        lacks: patterns of parameters that it does not have, besides those of videos.
        unused: patterns of its tensors that may find no place.
    """

    name: str
    mark: str
    lacks: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


IMAGE_MODELS = (
    ImageModel("PixArt", "scale_shift_table", unused=("csize_embedder.*", "ar_embedder.*")),
    ImageModel(
        "DiT",
        "adaLN_modulation.1.weight",
        lacks=("t_block.*", "y_embedder.*", "*scale_shift_table", "*.cross_attn.*"),
        unused=(CLASSES, "*.adaLN_modulation.1.*"),
    ),
)


def find_image_model(tensors: TensorFile) -> ImageModel | None:
    """The image model whose weights these are; None for the weights of a video denoiser and for any others."""
    if any(matches(name, VIDEO_LAYERS) for name in tensors):
        return None
    return next((model for model in IMAGE_MODELS if any(name.endswith(model.mark) for name in tensors)), None)


def image_model_of(config: DenoiserConfig, tensors: TensorFile) -> ImageModel | None:
    """The image model that a training of this network would start from; None: the weights are the network's own.

    DiT, Latte and PixArt are image models themselves. But one that is told a text starts from one that is told a class.
    """
    if isinstance(config, DiTConfig):
        return IMAGE_MODELS[1] if not config.num_classes and CLASSES in tensors else None
    if isinstance(config, PixArtConfig) or not isinstance(config, STDiTBaseConfig):
        return None
    return find_image_model(tensors)


def initialize_from_image_model(network: STDiTBase | DiT, source: str | Path | Mapping[str, Any]) -> LoadReport:
    """Fills a denoiser that has fresh weights with those of PixArt or DiT.

    Args:
        source: a checkpoint in any format that is read, or named arrays.
    Returns:
        What was loaded; ``missing`` names the parameters that keep their fresh values.
    Raises:
        UserError: another model, or tensors that should be there and are not, or do not fit.
    """
    tensors = read_tensors(source) if isinstance(source, (str, Path)) else as_tensor_file(source)
    model = find_image_model(tensors)
    if model is None:
        names = " or ".join(model.name for model in IMAGE_MODELS)
        raise UserError(f"{tensors.path} does not hold {names}, the image models that training starts from")
    return load_into(
        network,
        with_null_caption_of(tensors, network.config.model_max_length),
        adapters=(*DEFAULT_ADAPTERS, as_spatial),
        allow_missing=(*network.new_layers, *model.lacks),
        allow_unexpected=model.unused,
    )


def as_spatial(name: str) -> str:
    """``blocks.`` → ``spatial_blocks.``: where STDiT3 has the blocks of an image model."""
    return re.sub(r"^blocks\.", "spatial_blocks.", name)


def with_null_caption_of(tensors: TensorFile, length: int) -> TensorFile:
    """The same tensors with a null caption of ``length`` tokens."""
    entries = {
        name: _resized(entry, length) if name.endswith(NULL_CAPTION) else entry
        for name, entry in tensors.entries.items()
    }
    return TensorFile(tensors.path, entries, tensors.metadata)


def _resized(entry: Entry, length: int) -> Entry:
    def read() -> np.ndarray:
        rows = entry.read()
        return rows[np.minimum(np.arange(length), len(rows) - 1)]

    return Entry(entry.dtype, (length, *entry.shape[1:]), read)
