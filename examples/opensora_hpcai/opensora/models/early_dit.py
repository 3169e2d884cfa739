"""The denoiser of Open-Sora's first release: a DiT on one sequence of patches, of videos of any size.

DiT (arXiv:2212.09748) with one of three ways to the text: its pooled vector beside the timestep (``adaln``), attention
to its tokens instead of that among patches (``cross-attn``), or its tokens before the patches (``token-concat``).
Parameter names are the published ones.

Legend: `B` batch, `N` patches, `L` text tokens, `K` keys, `C` channels, `P` side of a patch, `D` hidden size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

from mindone.errors import UserError
from mindone.models.sizes import require_positive
from mindone.nn import functional as F
from mindone.nn.conv import Conv2d
from mindone.nn.embeddings import TimestepEmbedder, sine_cosine
from mindone.nn.layers import Linear, Mlp
from opensora.models.block_costs import BlockCosts
from opensora.models.dit import DiTFinalLayer, ModulatedLayer
from opensora.models.layers import refuse_sharing
from opensora.models.stdit_base import draw_weights

ARCHITECTURES = ("adaln", "cross-attn", "token-concat")


@dataclass(frozen=True)
class EarlyDiTConfig(BlockCosts):
    """Constructor arguments of the first release; the defaults are DiT-XL/2."""

    patch_size: int = 2
    in_channels: int = 4
    text_embed_dim: int = 512
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    learn_sigma: bool = True
    model_arch: str = "cross-attn"
    max_num_embeddings: int = 512 * 512
    """Rows of the table of positions, a square grid; a sequence cannot be longer."""
    text_dropout_prob: float = 0.1
    """Share of texts that training replaces by zeros."""
    predict_xstart: bool = False
    """What comes out is the denoised video instead of its noise; training and sampling follow it."""

    def __post_init__(self) -> None:
        require_positive(self, "patch_size", "in_channels", "text_embed_dim", "hidden_size", "depth", "num_heads")
        require_positive(self, "mlp_ratio", "max_num_embeddings")
        if self.model_arch not in ARCHITECTURES:
            raise UserError(f"model_arch={self.model_arch} is not known; use {', '.join(ARCHITECTURES)}")
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise UserError(
                f"hidden_size={self.hidden_size} has to be divisible by num_heads={self.num_heads} and by 4"
            )
        if math.isqrt(self.max_num_embeddings) ** 2 != self.max_num_embeddings:
            raise UserError(f"max_num_embeddings={self.max_num_embeddings} is no square number")

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    # --- the names that the other denoisers have for it --------------------------------------------------------------

    @property
    def pred_sigma(self) -> bool:
        return self.learn_sigma

    @property
    def caption_channels(self) -> int:
        return self.text_embed_dim

    @property
    def class_dropout_prob(self) -> float:
        return self.text_dropout_prob

    @property
    def patches(self) -> tuple[int, int, int]:
        return 1, self.patch_size, self.patch_size

    def block_tokens(self, latent_size: tuple[int, int, int], text_tokens: int) -> int:
        """Tokens of one sample that go through the blocks."""
        before = text_tokens if self.model_arch == "token-concat" else 0
        return super().block_tokens(latent_size, text_tokens) + before

    def _layer_flops(self, frames: int, tokens: int, text_tokens: int) -> float:
        everything = frames * tokens
        if self.model_arch == "cross-attn":
            return self._cross_flops(everything, text_tokens) + self._mlp_flops(everything)
        everything += text_tokens if self.model_arch == "token-concat" else 0
        return super()._layer_flops(1, everything, text_tokens)


EARLY_DIT_PRESETS = {
    f"DiT-{size}/{patch}": EarlyDiTConfig(patch, hidden_size=width, depth=depth, num_heads=heads)
    for size, (width, depth, heads) in {
        "XL": (1152, 28, 16),
        "L": (1024, 24, 16),
        "B": (768, 12, 12),
        "S": (384, 12, 6),
    }.items()
    for patch in (2, 4, 8)
}


@constexpr
def _sequence_positions(length: int, side: int, width: int) -> Tensor:
    """(length, D): token i stands at column ``i % side`` and row ``i // side``; the column's channels come first."""
    places = np.arange(length)
    halves = [sine_cosine(along, width // 2) for along in (places % side, places // side)]
    return Tensor(np.concatenate(halves, -1).astype(np.float32))


class EarlyAttention(nn.Cell):
    """Attention of the video's tokens to each other or to a text: (B, N, D) and (B, K, E) → (B, N, D)."""

    def __init__(self, width: int, num_heads: int, key_width: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = Linear(width, width)
        self.to_k = Linear(key_width, width)
        self.to_v = Linear(key_width, width)
        self.to_out = nn.SequentialCell(Linear(width, width))

    def construct(self, x: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """``mask`` (B, 1, N, K) bool; a query that may attend to nothing gets the mean of all values, as published."""
        batch, length, width = x.shape
        heads = (self.num_heads, width // self.num_heads)
        q, k, v = (
            layer(y).reshape(batch, -1, *heads) for layer, y in ((self.to_q, x), (self.to_k, keys), (self.to_v, keys))
        )
        if mask is not None:
            alone = ops.logical_not(mask.any(-1, keep_dims=True))
            q = ops.where(alone[:, 0, :, :, None], ops.zeros_like(q), q)
            mask = ops.logical_or(mask, alone)
        return self.to_out(F.attention(q, k, v, mask).reshape(batch, length, width))


class EarlyDiTBlock(ModulatedLayer):
    """Attention and MLP, both modulated and gated by the condition (adaLN-Zero)."""

    def __init__(self, config: EarlyDiTConfig):
        super().__init__(config.hidden_size, 6)
        width = config.hidden_size
        self.crosses = config.model_arch == "cross-attn"
        self.attn = EarlyAttention(width, config.num_heads, config.text_embed_dim if self.crosses else width)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), width)

    def construct(self, x: Tensor, condition: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, N, D), condition (B, D), text (B, L, E) → (B, N, D)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.vectors(condition)
        normed = F.modulated_norm(x[:, None], shift, scale)[:, 0]
        attended = self.attn(normed, text if self.crosses else normed, mask)
        x = F.gated_sum(x[:, None], gate, attended[:, None])
        return F.gated_sum(x, mlp_gate, self.mlp(F.modulated_norm(x, mlp_shift, mlp_scale)))[:, 0]


class TextProjection(nn.Cell):
    """A text's vectors to the network's width."""

    def __init__(self, in_features: int, width: int):
        super().__init__()
        self.proj = Linear(in_features, width)

    def construct(self, text: Tensor) -> Tensor:
        return self.proj(text)


class PatchProjection(nn.Cell):
    """Patches (B, N, C, P, P) to tokens (B, N, D); ``proj.weight`` (D, C, P, P) is a convolution's."""

    def __init__(self, config: EarlyDiTConfig):
        super().__init__()
        self.proj = Conv2d(config.in_channels, config.hidden_size, config.patch_size, config.patch_size)

    def construct(self, patches: Tensor) -> Tensor:
        batch, length = patches.shape[:2]
        dtype = self.proj.compute_dtype
        weight, bias = F.cast(self.proj.weight, dtype), F.cast(self.proj.bias, dtype)
        return F.linear(F.cast(patches, dtype).reshape(batch, length, -1), weight.reshape(weight.shape[0], -1), bias)


class EarlyDiT(nn.Cell):
    """Noise (and variance) of noisy patches, given a timestep and a text. Modulations and output start at zero."""

    zero_at_start = ("*adaLN_modulation.1.weight", "final_layer.linear.weight")
    small_at_start = ("t_embedder.mlp.*.weight",)

    def __init__(self, config: EarlyDiTConfig, parallel: nn.Cell | None = None):
        super().__init__()
        refuse_sharing(parallel, "the first release")
        self.config = config
        width = config.hidden_size
        self.video_embedder = PatchProjection(config)
        self.t_embedder = TimestepEmbedder(width)
        if config.model_arch != "cross-attn":
            self.text_embedder = TextProjection(config.text_embed_dim, width)
        self.blocks = nn.CellList([EarlyDiTBlock(config) for _ in range(config.depth)])
        self.final_layer = DiTFinalLayer(width, config.patch_size**2 * config.out_channels)
        self.initialize_weights()

    def initialize_weights(self, seed: int = 0) -> None:
        """Draws fresh weights, see `draw_weights`."""
        draw_weights(self, self.zero_at_start, self.small_at_start, seed)

    def recompute_blocks(self, count: int | None = None) -> None:
        """Trades time for memory: the first ``count`` blocks, or all, keep only their inputs."""
        for block in list(self.blocks)[:count]:
            block.recompute()

    def construct(
        self,
        x: Tensor,
        timestep: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        force_drop_ids: Tensor | None = None,
    ) -> Tensor:
        """Predicts the noise.

        Args:
            x: (B, N, C, P, P) noisy patches in [-0.5, 0.5].
            timestep: (B,) in 0..999.
            text: (B, L, text_embed_dim), or (B, text_embed_dim) of an ``adaln`` network.
            mask: (B, 1, Nq, Nk) of 0 and 1, see `opensora.data.patches`; None: nothing is padded.
            force_drop_ids: (B,), 1 = zeros instead of the text.
        Returns:
            (B, N, out_channels, P, P) float32.
        """
        batch, length = x.shape[:2]
        if force_drop_ids is not None:
            kept = F.cast(force_drop_ids != 1, text.dtype)
            text = text * kept.reshape((-1,) + (1,) * (text.ndim - 1))
        mask = None if mask is None else mask != 0
        condition = self.t_embedder(timestep)
        tokens = self.tokens(x, text)
        if self.config.model_arch == "adaln":
            condition = condition + self.text_embedder(text)
        for block in self.blocks:
            tokens = block(tokens, condition, text, mask)
        patches = self.final_layer(tokens[:, None, -length:], condition)
        side, channels = self.config.patch_size, self.config.out_channels
        return F.cast(patches.reshape(batch, length, channels, side, side), ms.float32)

    def tokens(self, x: Tensor, text: Tensor) -> Tensor:
        """What goes into the first block: tokens of patches, perhaps behind those of the text, with positions."""
        tokens = self.video_embedder(x)
        if self.config.model_arch == "token-concat":
            tokens = ops.concat((F.cast(self.text_embedder(text), tokens.dtype), tokens), 1)
        side = math.isqrt(self.config.max_num_embeddings)
        return tokens + F.cast(_sequence_positions(tokens.shape[1], side, tokens.shape[2]), tokens.dtype)
