"""PixArt-alpha for videos, an older denoiser of Open-Sora 1.0, also in its form for many sizes (PixArtMS).

PixArt-alpha (arXiv:2310.00426): attention among all tokens, cross-attention to the text, one modulation for all
blocks. Parameter names are the published ones.

Legend: `B` batch, `C` channels, `T` frames, `S` tokens of a frame, `N = T*S`, `L` text tokens, `D` hidden size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.nn import functional as F
from mindone.nn.attention import AxialSelfAttention, CrossAttention
from mindone.nn.embeddings import TimestepEmbedder, index_table_1d, index_table_2d
from mindone.nn.layers import Mlp
from mindone.parallel.sequence import NoParallel
from opensora.models.layers import modulation_table, refuse_sharing, tile_batch
from opensora.models.stdit import STDiTConfig
from opensora.models.stdit_base import STDiTBase


@dataclass(frozen=True)
class PixArtConfig(STDiTConfig):
    """Constructor arguments of the published models; the defaults are PixArt-XL/2."""

    no_temporal_pos_emb: bool = False
    """For single pictures: no positions of frames."""
    multi_scale: bool = False
    """PixArtMS: the network is told size and ratio of the video."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze == "not_temporal":
            raise UserError("freeze=not_temporal needs temporal layers, which PixArt has not; use text or leave it out")
        if self.multi_scale and self.hidden_size % 3:
            raise UserError(f"hidden_size={self.hidden_size} is not divisible by 3, as the embedding of sizes needs")

    @property
    def condition_names(self) -> tuple[str, ...]:
        """What the network is told beside time and text."""
        return ("height", "width", "ar") if self.multi_scale else ()

    def _layer_flops(self, frames: int, tokens: int, text_tokens: int) -> float:
        """One attention among all tokens, a cross-attention and an MLP."""
        everything = frames * tokens
        return self._attention_flops(1, everything, everything) + self._rest_flops(everything, text_tokens)


PIXART_PRESETS = {"PixArt-XL/2": PixArtConfig(), "PixArtMS-XL/2": PixArtConfig(multi_scale=True)}


class PixArt(STDiTBase):
    """Noise (and variance) of noisy latents, given a timestep and a caption, and perhaps the size of the video.

    Cross-attention and the last projection start at zero.

    Args:
        config: sizes and options.
        parallel: ranks cannot share its tokens.
        use_recompute: keep only the inputs of blocks for the backward pass, and compute the rest again.
        num_recompute_blocks: blocks to which that applies, counted from the first; all if not given.
    """

    zero_at_start = ("blocks.*.cross_attn.proj.weight", "final_layer.linear.weight")
    small_at_start = (
        "t_embedder.mlp.*.weight",
        "t_block.1.weight",
        "y_embedder.y_proj.*.weight",
        "csize_embedder.mlp.*.weight",
        "ar_embedder.mlp.*.weight",
    )
    takes_frames_mask = False

    def __init__(
        self,
        config: PixArtConfig,
        parallel: nn.Cell | None = None,
        use_recompute: bool = False,
        num_recompute_blocks: int | None = None,
    ):
        super().__init__(config)
        refuse_sharing(parallel, "PixArt")
        self.condition_names = config.condition_names
        if config.multi_scale:
            self.csize_embedder = TimestepEmbedder(config.hidden_size // 3)
            self.ar_embedder = TimestepEmbedder(config.hidden_size // 3)
        self.blocks = nn.CellList([PixArtBlock(config) for _ in range(config.depth)])
        self.prepare_training(use_recompute, num_recompute_blocks)

    def construct(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        *told: Tensor | None,
    ) -> Tensor:
        """Predicts the noise.

        Args:
            x: (B, C, T, H, W) noisy latents.
            timestep: (B,) in 0..999.
            y: (B, 1, L, caption_channels) text embeddings.
            mask: (B, L), 1 = valid, others are not attended to; with fewer rows than ``x`` it is repeated as a whole.
            told: for a network of many sizes, height and width in pixels, and height over width, (B,) each and repeated
                as ``mask``; then, of every network, perhaps ``force_drop_ids`` (B,), 1 = use the null caption.
        Returns:
            (B, out_channels, T, H, W) float32.
        """
        batch, _, frames, rows, columns = x.shape
        grid = self.x_embedder.grid((frames, rows, columns))
        sizes = len(self.condition_names)
        text, text_mask = self.embed_text(y, mask, batch, told[sizes] if len(told) > sizes else None)
        t = self.t_embedder(timestep)
        if self.config.multi_scale:
            t = t + F.cast(tile_batch(self._embedded_size(*told[:sizes]), batch), t.dtype)
        modulation = self.modulation(self.t_block, t, None, None)

        in_frame, in_time = self.positions(grid)
        x = self.x_embedder(x)
        x = x + F.cast(in_frame, x.dtype)
        if not self.config.no_temporal_pos_emb:
            x = x + F.cast(in_time, x.dtype)[:, None]
        x = x.reshape(batch, 1, -1, x.shape[-1])
        for block in self.blocks:
            x = block(x, text, text_mask, modulation)
        return self.latents(x, t, None, None, grid, (frames, rows, columns))

    def positions(self, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Fixed sine-cosine positions within a frame (S, D) and of the frames (T, D).

        The unit of a frame is that of a square one with as many tokens as frames of ``input_size`` have.
        """
        frames, high, wide = grid
        config = self.config
        _, rows, columns = self.x_embedder.grid(config.input_size) if config.multi_scale else grid
        base_size = int(math.sqrt(rows * columns))
        in_frame = index_table_2d(high, wide, config.hidden_size, config.space_scale, base_size)
        return in_frame, index_table_1d(frames, config.hidden_size, config.time_scale)

    def _embedded_size(self, height: Tensor, width: Tensor, ratio: Tensor) -> Tensor:
        """(B, D): a third each of height, width and ratio."""
        size = ops.stack((F.cast(height, ms.float32), F.cast(width, ms.float32)), 1)
        rows = size.shape[0]
        return ops.concat((self.csize_embedder(size.reshape(-1)).reshape(rows, -1), self.ar_embedder(ratio)), 1)


class PixArtBlock(nn.Cell):
    """Modulated attention among all tokens, plain cross-attention to the text, modulated MLP.

    ``x += gate * attention(modulate(norm(x)))``; ``x += cross_attention(x)``; ``x += gate * mlp(modulate(norm(x)))``.
    """

    def __init__(self, config: PixArtConfig):
        super().__init__()
        width, heads = config.hidden_size, config.num_heads
        self.scale_shift_table = modulation_table(6, width)
        self.attn = AxialSelfAttention(width, heads, "space", False, NoParallel())
        self.cross_attn = CrossAttention(width, heads)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), width)

    def construct(self, x: Tensor, text: Tensor, text_mask: Tensor | None, modulation: Tensor) -> Tensor:
        """x (B, 1, N, D), text (B, L, D), text_mask (B, 1, 1, L), modulation (B, 1, 6, D) → (B, 1, N, D)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = ops.split(modulation + self.scale_shift_table, 1, 2)
        x = F.gated_sum(x, gate, self.attn(F.modulated_norm(x, shift, scale), x.shape[1:3]))
        x = x + self.cross_attn(x, text, text_mask)
        return F.gated_sum(x, mlp_gate, self.mlp(F.modulated_norm(x, mlp_shift, mlp_scale)))
