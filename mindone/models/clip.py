"""The text transformer of CLIP: causal attention, hidden states and one pooled vector per text.

Radford et al. 2021 (arXiv:2103.00020). Parameter names are those of the hub's CLIPTextModel.

Legend: `B` batch, `L` tokens, `D` hidden size, `h` heads, `d` head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.models.sizes import known_entries
from mindone.nn import functional as F
from mindone.nn.layers import Embedding, LayerNorm, Linear, Mlp

ACTIVATIONS = {"quick_gelu": F.quick_gelu, "gelu": F.gelu, "gelu_pytorch_tanh": F.gelu_tanh}
LARGEST_ID = 2
"""The ``eos_token_id`` of published configs that is none: their texts end at the largest token id."""


@dataclass(frozen=True)
class CLIPTextConfig:
    """Sizes by the names of the hub's config.json; the defaults are the text half of CLIP ViT-L/14."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = LARGEST_ID
    """The token whose hidden state is the pooled vector; 2 stands for the largest id in the text."""

    def __post_init__(self) -> None:
        require_heads(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPTextConfig:
        """The config from the entries of a config.json, of the text model or of the whole CLIP."""
        values = values.get("text_config") or values
        return cls(**known_entries(cls, values))


class CLIPTextEncoder(nn.Cell):
    """Token ids (B, L) to hidden states (B, L, D) and pooled vectors (B, D), float32."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.config = config
        self.text_model = CLIPTextTransformer(config)

    def construct(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``attention_mask`` (B, L), 1 = valid; without it padding is attended to, by what follows it."""
        return self.text_model(input_ids, attention_mask)


class CLIPTextProjection(nn.Cell):
    """The text encoder with the projection into the space that it shares with pictures: unnormalised (B, P)."""

    def __init__(self, config: CLIPTextConfig, projection_dim: int = 768):
        super().__init__()
        self.config = config
        self.text_model = CLIPTextTransformer(config)
        self.text_projection = Linear(config.hidden_size, projection_dim, has_bias=False)

    def construct(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `CLIPTextEncoder`, the pooled vector being projected."""
        hidden, pooled = self.text_model(input_ids, attention_mask)
        return hidden, self.text_projection(pooled)


class CLIPTextTransformer(nn.Cell):
    """Embeddings, blocks, the final norm, and the choice of the pooled token."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.eos_token_id = config.eos_token_id
        self.embeddings = CLIPTextEmbeddings(config)
        self.encoder = CLIPBlocks(config)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def construct(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, length = input_ids.shape
        mask = Tensor(np.tril(np.ones((1, 1, length, length), np.bool_)))
        if attention_mask is not None:
            mask = ops.logical_and(mask, (attention_mask != 0)[:, None, None, :])
        x = self.final_layer_norm(self.encoder(self.embeddings(input_ids), mask))
        rows = Tensor(np.arange(batch, dtype=np.int32) * length) + self.end_positions(input_ids)
        return x, ops.gather(x.reshape(batch * length, -1), rows, 0)

    def end_positions(self, input_ids: Tensor) -> Tensor:
        """Where every text ends (B,) int32: its first end token (position 0 if there is none)."""
        length = input_ids.shape[1]
        ids = F.cast(input_ids, ms.float32)
        end = ops.amax(ids, 1, keepdims=True) if self.eos_token_id == LARGEST_ID else float(self.eos_token_id)
        positions = Tensor(np.arange(length, dtype=np.float32)[None])
        first = ops.amin(ops.where(ids == end, positions, float(length)), 1)
        return F.cast(ops.where(first == length, 0.0, first), ms.int32)


class CLIPTextEmbeddings(nn.Cell):
    """Token plus position: (B, L) → (B, L, D) float32."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = Embedding(config.max_position_embeddings, config.hidden_size)

    def construct(self, input_ids: Tensor) -> Tensor:
        positions = self.position_embedding(Tensor(np.arange(input_ids.shape[1], dtype=np.int32)))
        return F.cast(self.token_embedding(input_ids), ms.float32) + F.cast(positions, ms.float32)


class Widths(Protocol):
    """What the blocks of both towers are made of."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float


def require_heads(config: Widths) -> None:
    """Refuses an activation that is not known, or heads that do not divide the width."""
    if config.hidden_act not in ACTIVATIONS:
        raise UserError(f"hidden_act={config.hidden_act} is not supported; use one of {', '.join(ACTIVATIONS)}")
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"hidden_size={config.hidden_size} is not divisible by num_attention_heads={config.num_attention_heads}"
        )


class CLIPBlocks(nn.Cell):
    def __init__(self, config: Widths):
        super().__init__()
        self.layers = nn.CellList([CLIPBlock(config) for _ in range(config.num_hidden_layers)])

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class CLIPBlock(nn.Cell):
    """Self-attention and MLP, each behind a norm and with a shortcut; the stream stays float32."""

    def __init__(self, config: Widths):
        super().__init__()
        width = config.hidden_size
        self.layer_norm1 = LayerNorm(width, config.layer_norm_eps)
        self.self_attn = CLIPAttention(width, config.num_attention_heads)
        self.layer_norm2 = LayerNorm(width, config.layer_norm_eps)
        self.mlp = Mlp(width, config.intermediate_size, width, ACTIVATIONS[config.hidden_act])

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class CLIPAttention(nn.Cell):
    """Multi-head self-attention where ``mask`` (1 or B, 1, L, L) bool is True; everywhere if it is None."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self._heads(self.q_proj(x)), self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        return self.out_proj(F.attention(q, k, v, mask).reshape(x.shape))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, -1)
