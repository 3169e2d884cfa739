"""The encoder of T5 v1.1: gated GELU, RMS norm, relative position bias, no scaling of the scores.

Raffel et al. 2020 (arXiv:1910.10683) and Shazeer 2020 (arXiv:2002.05202). Parameter names are those of the hub's
T5EncoderModel.

Legend: `B` batch, `L` tokens, `D` d_model, `h` heads, `d` d_kv.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindone.errors import UserError
from mindone.models.sizes import known_entries
from mindone.nn import functional as F
from mindone.nn.layers import Embedding, Linear, RMSNorm


@dataclass(frozen=True)
class T5Config:
    """Sizes of the encoder, by the names of the hub's config.json; the defaults are T5 v1.1 XXL."""

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "gated-gelu"

    def __post_init__(self) -> None:
        if self.feed_forward_proj != "gated-gelu":
            raise UserError(
                f"feed_forward_proj={self.feed_forward_proj} is not supported; T5 v1.1 encoders have gated-gelu"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> T5Config:
        """The config from the entries of a config.json, of which only the encoder's sizes count."""
        return cls(**known_entries(cls, values))

    @classmethod
    def from_folder(cls, folder: str | Path) -> T5Config:
        """The config of a model folder with a config.json (or of that file).

        Raises:
            UserError: no such file, or not JSON.
        """
        file = Path(folder)
        file = file / "config.json" if file.is_dir() else file
        try:
            return cls.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is not a readable T5 config.json: {error}") from error


class T5Encoder(nn.Cell):
    """Token ids to hidden states: (B, L) → (B, L, D) float32."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config)

    def construct(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """``attention_mask`` (B, L), 1 = valid; without it padding tokens are attended to as well."""
        return F.cast(self.encoder(self.shared(input_ids), attention_mask), ms.float32)


class T5Stack(nn.Cell):
    """The blocks and the final norm; block 0 owns the position bias that all blocks add."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.block = nn.CellList([T5Block(config, has_position_bias=i == 0) for i in range(config.num_layers)])
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def construct(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        bias = self.position_bias(x.shape[1])
        mask = None if attention_mask is None else (attention_mask != 0)[:, None, None, :]
        # The stream stays float32: in half precision the published XXL weights overflow it.
        x = F.cast(x, ms.float32)
        for block in self.block:
            x = block(x, bias, mask)
        return self.final_layer_norm(x)

    def position_bias(self, length: int) -> Tensor:
        """(1, h, L, L) float32, added to the scores of every block."""
        return self.block[0].layer[0].SelfAttention.position_bias(length)


class T5Block(nn.Cell):
    """Self-attention and feed-forward, each behind a norm and with a shortcut."""

    def __init__(self, config: T5Config, has_position_bias: bool):
        super().__init__()
        self.layer = nn.CellList([T5LayerSelfAttention(config, has_position_bias), T5LayerFF(config)])

    def construct(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        return self.layer[1](self.layer[0](x, bias, mask))


class T5LayerSelfAttention(nn.Cell):
    def __init__(self, config: T5Config, has_position_bias: bool):
        super().__init__()
        self.SelfAttention = T5Attention(config, has_position_bias)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def construct(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias, mask)


class T5Attention(nn.Cell):
    """Multi-head attention without scaling, plus a bias by relative position."""

    def __init__(self, config: T5Config, has_position_bias: bool):
        super().__init__()
        self.config = config
        inner = config.num_heads * config.d_kv
        self.q = Linear(config.d_model, inner, has_bias=False)
        self.k = Linear(config.d_model, inner, has_bias=False)
        self.v = Linear(config.d_model, inner, has_bias=False)
        self.o = Linear(inner, config.d_model, has_bias=False)
        if has_position_bias:
            self.relative_attention_bias = Embedding(config.relative_attention_num_buckets, config.num_heads)

    def position_bias(self, length: int) -> Tensor:
        buckets = relative_buckets(
            length, self.config.relative_attention_num_buckets, self.config.relative_attention_max_distance
        )
        bias = F.cast(self.relative_attention_bias(Tensor(buckets)), ms.float32)
        return bias.transpose(2, 0, 1)[None]

    def construct(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.v(x))
        return self.o(F.attention(q, k, v, mask, 1.0, bias).reshape(x.shape[0], x.shape[1], -1))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.config.num_heads, self.config.d_kv)


class T5LayerFF(nn.Cell):
    def __init__(self, config: T5Config):
        super().__init__()
        self.DenseReluDense = T5GatedGelu(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def construct(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class T5GatedGelu(nn.Cell):
    """``wo(gelu(wi_0 x) * wi_1 x)``."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.wi_0 = Linear(config.d_model, config.d_ff, has_bias=False)
        self.wi_1 = Linear(config.d_model, config.d_ff, has_bias=False)
        self.wo = Linear(config.d_ff, config.d_model, has_bias=False)

    def construct(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu_tanh(self.wi_0(x)) * self.wi_1(x))


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket (L, L) int32 of every key's position relative to a query's.

    Half of the buckets is for keys behind the query. Of each half, the first half counts single positions and the rest
    grows logarithmically up to ``max_distance``.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = num_buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / math.log(max_distance / exact)
    far = np.minimum(exact + (growth * (half - exact)).astype(np.int64), half - 1)
    return (np.where(distance < exact, distance, far) + half * (offset > 0)).astype(np.int32)
