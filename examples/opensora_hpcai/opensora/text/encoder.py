"""Prompts to text embeddings with a T5 or CLIP encoder in a local folder.

The folder has the hub's layout: ``config.json``, the weights, and the tokenizer. Only files of the folder are read.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mindone.errors import UserError
from opensora.model_folder import config_from, read_config, require_path
from opensora.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from mindspore import nn

    from mindone.parallel.mesh import Mesh

logger = logging.getLogger(__name__)


class TextEmbeddings(NamedTuple):
    """Embeddings (B, L, D) float32, mask (B, L) uint8 with 1 = valid, tokens (B, L) int32.

    Encoders with a pooled vector per text (CLIP) give it too, (B, D) float32.
    """

    embeddings: np.ndarray
    mask: np.ndarray
    tokens: np.ndarray
    pooled: np.ndarray | None = None


class TextEncoder:
    """An encoder and its tokenizer; `encode` compiles one graph and reuses it for every batch.

    Attributes:
        dim: width of the embeddings.
    """

    def __init__(
        self, network, tokenizer: TextTokenizer, dim: int, batch_size: int = 1, attend_to_padding: bool = False
    ):
        self.network, self.tokenizer, self.dim, self.batch_size = network, tokenizer, dim, batch_size
        self.attend_to_padding = attend_to_padding

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        max_length: int,
        dtype: str = "fp32",
        batch_size: int = 1,
        expected_dim: int = 0,
        attend_to_padding: bool = False,
        option: str = "t5_model_name_or_path",
        mesh: Mesh | None = None,
    ) -> TextEncoder:
        """Loads encoder and tokenizer; the folder's config.json says whether it is T5 or CLIP.

        Args:
            max_length: tokens per prompt; shorter ones are padded, longer ones cut.
            dtype: ``fp32``, ``fp16`` or ``bf16`` for the matrix products.
            batch_size: prompts encoded at a time.
            expected_dim: the denoiser's ``caption_channels``; 0 does not check.
            attend_to_padding: encode without a mask, as Open-Sora 2.0 does.
            option: the setting that names the folder, for messages.
            mesh: ranks that the weights are spread over, which then have to encode together; None: each has all.
        Raises:
            UserError: folder or one of its parts is missing, or its embeddings are not ``expected_dim`` wide.
        """
        from mindone.checkpoint import load_into, read_tensors
        from mindone.parallel.zero import held_bytes, spread, spread_tables

        network, tokenizer, dim, unused = _prepared(folder, max_length, dtype, expected_dim, option)
        if mesh:
            spread(network, mesh)
            spread_tables(network, mesh, together=True)
            own, whole = held_bytes(network.get_parameters())
            logger.info("weights of %s on this rank: %s of %s bytes", folder, f"{own:,}", f"{whole:,}")
        load_into(network, read_tensors(folder), allow_unexpected=unused)
        network.set_train(False)
        return cls(network, tokenizer, dim, batch_size, attend_to_padding)

    def encode(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeds prompts; a notice names those that had to be cut."""
        tokens, mask, lengths = self.tokenizer(texts)
        for text, length in zip(texts, lengths):
            if length > self.tokenizer.max_length:
                start = textwrap.shorten(text, 60, placeholder="...")
                logger.warning("prompt cut from %d to %d tokens: %s", length, self.tokenizer.max_length, start)
        embeddings = np.zeros((*tokens.shape, self.dim), np.float32)
        pooled = None
        for start in range(0, len(texts), self.batch_size):
            part = slice(start, start + self.batch_size)
            embeddings[part], *vectors = self._forward(tokens[part], mask[part])
            if vectors:
                pooled = np.zeros((len(texts), self.dim), np.float32) if pooled is None else pooled
                pooled[part] = vectors[0]
        return TextEmbeddings(embeddings, mask, tokens, pooled)

    def _forward(self, tokens: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, ...]:
        """Embeddings, and pooled vectors if there are, of one batch.

        It is filled up to the batch size, so that the last one needs no graph of its own.
        """
        import mindspore as ms

        count = len(tokens)
        filled = np.arange(self.batch_size) % count
        valid = None if self.attend_to_padding else ms.Tensor(mask[filled].astype(np.int32))
        output = self.network(ms.Tensor(tokens[filled], ms.int32), valid)
        outputs = output if isinstance(output, tuple) else (output,)
        return tuple(value.astype(ms.float32).asnumpy()[:count] for value in outputs)


def check_text_encoder(
    folder: str | Path | None, max_length: int, expected_dim: int = 0, option: str = "t5_model_name_or_path"
) -> int:
    """Whether `TextEncoder.from_folder` would load the folder; no tensor is read. Returns the number of tensors.

    Raises:
        UserError: as there.
    """
    from mindone.checkpoint import check_fit, read_tensors

    network, _, _, unused = _prepared(folder, max_length, "fp32", expected_dim, option)
    report = check_fit(network, read_tensors(folder), allow_unexpected=unused)
    return len(report.found)


def _prepared(
    folder: str | Path | None, max_length: int, dtype: str, expected_dim: int, option: str
) -> tuple[nn.Cell, TextTokenizer, int, tuple[str, ...]]:
    """The network without its weights, its tokenizer and width, and the tensors of its files that it leaves unused."""
    from mindone import runtime
    from mindone.nn import set_compute_dtype

    folder = require_path(folder, "the text encoder's files", option)
    values = read_config(folder)
    with runtime.lazy_parameters():
        network, dim, unused = _network(folder, values)
        set_compute_dtype(network, runtime.compute_dtype(dtype), store=True)
    if expected_dim and dim != expected_dim:
        raise UserError(
            f"the text encoder in {folder} gives embeddings of width {dim}, but the denoiser takes "
            f"caption_channels={expected_dim}; use the encoder the denoiser was trained with"
        )
    positions = getattr(network.config, "max_position_embeddings", max_length)
    if max_length > positions:
        raise UserError(f"the text encoder in {folder} takes {positions} tokens at most, not {max_length}")
    tokenizer = TextTokenizer(folder, max_length, int(values.get("pad_token_id") or 0))
    return network, tokenizer, dim, unused


def _network(folder: Path, values: Mapping[str, Any]) -> tuple[Any, int, tuple[str, ...]]:
    """The network that a config.json describes, its width, and the tensors of its files that it leaves unused."""
    from mindone.models.clip import CLIPTextConfig, CLIPTextEncoder
    from mindone.models.t5 import T5Config, T5Encoder

    if "d_model" in values:
        config = config_from(T5Config, values)
        return T5Encoder(config), config.d_model, ("decoder.*", "lm_head.*")
    if "text_config" in values or str(values.get("model_type", "")).startswith("clip"):
        config = config_from(CLIPTextConfig, values)
        unused = ("vision_model.*", "visual_projection.*", "text_projection.*", "logit_scale")
        return CLIPTextEncoder(config), config.hidden_size, unused
    raise UserError(
        f"{folder} has no config.json of a T5 encoder (with d_model) or of CLIP (with model_type clip); "
        "is it a text encoder's folder?"
    )
