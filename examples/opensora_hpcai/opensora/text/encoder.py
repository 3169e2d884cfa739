"""Prompts to text embeddings with a T5 encoder in a local folder.

The folder has the hub's layout: ``config.json``, the weights, and the tokenizer. Only files of the folder are read.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindone.errors import UserError
from opensora.model_folder import config_from, read_config, require_path
from opensora.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)


class TextEmbeddings(NamedTuple):
    """Embeddings (B, L, D) float32, mask (B, L) uint8 with 1 = valid, tokens (B, L) int32."""

    embeddings: np.ndarray
    mask: np.ndarray
    tokens: np.ndarray


class TextEncoder:
    """A T5 encoder and its tokenizer; `encode` compiles one graph and reuses it for every batch."""

    def __init__(self, network, tokenizer: TextTokenizer, dim: int, batch_size: int = 1):
        self.network, self.tokenizer, self.dim, self.batch_size = network, tokenizer, dim, batch_size

    @classmethod
    def from_folder(
        cls, folder: str | Path, max_length: int, dtype: str = "fp32", batch_size: int = 1, expected_dim: int = 0
    ) -> TextEncoder:
        """Loads encoder and tokenizer.

        Args:
            max_length: tokens per prompt; shorter ones are padded, longer ones cut.
            dtype: ``fp32``, ``fp16`` or ``bf16`` for the matrix products.
            batch_size: prompts encoded at a time.
            expected_dim: the denoiser's ``caption_channels``; 0 does not check.
        Raises:
            UserError: folder or one of its parts is missing, or its embeddings are not ``expected_dim`` wide.
        """
        from mindone import runtime
        from mindone.checkpoint import load_into, read_tensors
        from mindone.models.t5 import T5Config, T5Encoder
        from mindone.nn import set_compute_dtype

        folder = require_path(folder, "the text encoder's files", "t5_model_name_or_path")
        values = read_config(folder)
        if "d_model" not in values:
            raise UserError(f"{folder} has no config.json of a T5 encoder (with d_model); is it a T5 folder?")
        config = config_from(T5Config, values)
        if expected_dim and config.d_model != expected_dim:
            raise UserError(
                f"the text encoder in {folder} gives embeddings of width {config.d_model}, but the denoiser takes "
                f"caption_channels={expected_dim}; use the encoder the denoiser was trained with"
            )
        tokenizer = TextTokenizer(folder, max_length, int(values.get("pad_token_id") or 0))
        with runtime.lazy_parameters():
            network = T5Encoder(config)
            set_compute_dtype(network, runtime.compute_dtype(dtype), store=True)
        load_into(network, read_tensors(folder), allow_unexpected=("decoder.*", "lm_head.*"))
        network.set_train(False)
        return cls(network, tokenizer, config.d_model, batch_size)

    def encode(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeds prompts; a notice names those that had to be cut."""
        tokens, mask, lengths = self.tokenizer(texts)
        for text, length in zip(texts, lengths):
            if length > self.tokenizer.max_length:
                start = textwrap.shorten(text, 60, placeholder="...")
                logger.warning("prompt cut from %d to %d tokens: %s", length, self.tokenizer.max_length, start)
        embeddings = np.zeros((*tokens.shape, self.dim), np.float32)
        for start in range(0, len(texts), self.batch_size):
            part = slice(start, start + self.batch_size)
            embeddings[part] = self._forward(tokens[part], mask[part])
        return TextEmbeddings(embeddings, mask, tokens)

    def _forward(self, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """One batch, filled up to the batch size, so that the last one needs no graph of its own."""
        import mindspore as ms

        count = len(tokens)
        filled = np.arange(self.batch_size) % count
        output = self.network(ms.Tensor(tokens[filled], ms.int32), ms.Tensor(mask[filled].astype(np.int32)))
        return output.astype(ms.float32).asnumpy()[:count]
