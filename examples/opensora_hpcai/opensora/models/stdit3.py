"""STDiT3, the denoiser of Open-Sora 1.2: alternating spatial and temporal transformer blocks with text cross-attention.

Open-Sora 1.2 report; DiT (arXiv:2212.09748) with PixArt's shared modulation (arXiv:2310.00426). Parameter names are the
published ones.

Legend: `B` batch, `C` channels, `T` frames, `S` tokens of a frame, `L` text tokens, `D` hidden size, `d` head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone.nn import functional as F
from mindone.nn.attention import AxialSelfAttention, CrossAttention
from mindone.nn.embeddings import RotaryEmbedding, TimestepEmbedder
from mindone.nn.layers import Mlp
from opensora.models.layers import add_branch, modulation_table, tile_batch, unpack_text
from opensora.models.stdit_base import STDiTBase, STDiTBaseConfig


@dataclass(frozen=True)
class STDiT3Config(STDiTBaseConfig):
    """Constructor arguments of the published config.json; the defaults are STDiT3-XL/2.

    ``depth`` counts the spatial blocks, and the temporal blocks. With rectified flow the second half of the channels
    that ``pred_sigma`` adds is unused.
    """

    model_max_length: int = 300
    input_sq_size: int = 512
    """Side in pixels of the square picture whose position embedding has scale 1."""
    qk_norm: bool = True
    skip_y_embedder: bool = False
    """Text comes projected and packed, see `STDiT3`."""
    only_train_temporal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_rotary()

    @property
    def num_blocks(self) -> int:
        return 2 * self.depth

    @property
    def kept_tensors(self) -> float:
        return 31 + 3 * self.mlp_ratio

    def _layer_flops(self, frames: int, tokens: int, text_tokens: int) -> float:
        """A spatial and a temporal block, each with a cross-attention and an MLP of its own."""
        return super()._layer_flops(frames, tokens, text_tokens) + self._rest_flops(frames * tokens, text_tokens)

    def freezes(self, name: str) -> bool:
        return (self.only_train_temporal and not name.startswith("temporal_blocks.")) or super().freezes(name)


STDiT3_PRESETS = {
    "STDiT3-XL/2": STDiT3Config(),
    "STDiT3-3B/2": STDiT3Config(hidden_size=1872, num_heads=26),
}


class STDiT3(STDiTBase):
    """Velocity of noisy latents, given a timestep, a caption, the frame rate and the picture's size.

    Temporal blocks start as identity, so that an image model's blocks can be taken over as spatial ones, and the
    embedding of the frame rate starts as zero.

    Args:
        config: sizes and options.
        parallel: how tokens are spread over ranks; see `mindone.parallel.sequence`.
        use_recompute: keep only the inputs of blocks for the backward pass, and compute the rest again.
        num_recompute_blocks: pairs of blocks to which that applies, counted from the first; all if not given.
    """

    zero_at_start = (
        "fps_embedder.mlp.2.weight",
        "temporal_blocks.*.attn.proj.weight",
        "temporal_blocks.*.cross_attn.proj.weight",
        "temporal_blocks.*.mlp.fc2.weight",
    )
    small_at_start = ("fps_embedder.mlp.0.weight",)
    condition_names = ("fps", "height", "width")
    new_layers = ("temporal_blocks.*", "fps_embedder.*", "rope.freqs", "*.q_norm.weight", "*.k_norm.weight")

    def __init__(
        self,
        config: STDiT3Config,
        parallel: nn.Cell | None = None,
        use_recompute: bool = False,
        num_recompute_blocks: int | None = None,
    ):
        super().__init__(config, parallel)
        self.rope = RotaryEmbedding(config.head_size)
        self.fps_embedder = TimestepEmbedder(config.hidden_size)
        self.spatial_blocks = nn.CellList([STDiT3Block(config, "space", self.parallel) for _ in range(config.depth)])
        self.temporal_blocks = nn.CellList([STDiT3Block(config, "time", self.parallel) for _ in range(config.depth)])
        self.prepare_training(use_recompute, num_recompute_blocks)

    def construct(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        x_mask: Tensor | None = None,
        fps: Tensor | None = None,
        height: Tensor | None = None,
        width: Tensor | None = None,
        force_drop_ids: Tensor | None = None,
    ) -> Tensor:
        """Predicts the velocity.

        Where a vector or mask has fewer rows than ``x``, it is repeated as a whole.

        Args:
            x: (B, C, T, H, W) noisy latents.
            timestep: (B,) in 0..1000.
            y: (B, 1, L, caption_channels) text embeddings; with ``skip_y_embedder`` projected captions one after
                another, (1, sum of lengths, D).
            mask: (B, L), 1 = valid, others are not attended to; with ``skip_y_embedder`` the lengths (B,).
            x_mask: (B, T) bool; frames where it is False are given, and get the modulation of timestep 0.
            fps: (B,) frames per second, 120 for images; 24 if not given.
            height, width: (B,) size in pixels; the first sample's scales the position embedding of all. 8 times the
                latent size if not given.
            force_drop_ids: (B,), 1 = use the null caption.
        Returns:
            (B, out_channels, T, H, W) float32.
        """
        x, state = self.embed(x, timestep, y, mask, x_mask, fps, height, width, force_drop_ids)
        return self.head(self.run_blocks(x, state), state)

    def embed(self, x, timestep, y, mask=None, x_mask=None, fps=None, height=None, width=None, force_drop_ids=None):
        """Everything before the blocks: tokens (B, T, S, D), and what `run_blocks` and `head` need beside them."""
        batch, _, frames, rows, columns = x.shape
        grid = self.x_embedder.grid((frames, rows, columns))
        text, text_mask = self._text(y, mask, batch, force_drop_ids)
        speed = self.fps_embedder(ops.full((1,), 24.0, dtype=ms.float32) if fps is None else fps)
        speed = tile_batch(speed, batch)
        t = self.t_embedder(timestep) + speed
        t0 = None if x_mask is None else self.t_embedder(ops.zeros_like(timestep)) + speed
        modulation = self.modulation(self.t_block, t, t0, x_mask)

        x = self.x_embedder(x)
        x = x + F.cast(self.scaled_positions(grid, height, width, (rows, columns)), x.dtype)
        into_blocks = (text, text_mask, modulation, self.rope(grid[0]), x.shape[1:3])
        return x, (into_blocks, (t, x_mask, t0, grid, (frames, rows, columns)))

    def run_blocks(self, x: Tensor, state: tuple) -> Tensor:
        """The tokens (B, T, S, D) of this rank after the blocks."""
        text, text_mask, modulation, rope, size = state[0]
        x = self.parallel.split(x)
        for i in range(self.config.depth):
            x = self.spatial_blocks[i](x, text, text_mask, modulation, None, size)
            x = self.parallel.to_temporal(x, size)
            x = self.temporal_blocks[i](x, text, text_mask, modulation, rope, size)
            x = self.parallel.to_spatial(x, size)
        return x

    @property
    def branch_counts(self) -> tuple[int, int, int]:
        depth = self.config.depth
        return (depth, depth, 2 * depth)

    def broadcast_blocks(self, x: Tensor, state: tuple, branches: tuple) -> tuple[Tensor, tuple]:
        """`run_blocks` with branches of an earlier step, see `opensora.families.cached.Broadcasting`."""
        text, text_mask, modulation, rope, size = state[0]
        spatial, temporal, cross = branches
        kept = ((), (), ())
        for i in range(self.config.depth):
            own = (spatial[i] if len(spatial) else None, cross[2 * i] if len(cross) else None)
            x, attended, crossed = self.spatial_blocks[i].broadcast(x, text, text_mask, modulation, None, size, *own)
            own = (temporal[i] if len(temporal) else None, cross[2 * i + 1] if len(cross) else None)
            x, in_time, after = self.temporal_blocks[i].broadcast(x, text, text_mask, modulation, rope, size, *own)
            kept = ((*kept[0], attended), (*kept[1], in_time), (*kept[2], crossed, after))
        return x, kept

    def first_input(self, x: Tensor, state: tuple) -> Tensor:
        return self.modulated(x, state[0][2], self.spatial_blocks[0].scale_shift_table)

    def _text(self, y: Tensor, mask: Tensor | None, batch: int, drop: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As `embed_text`, also for text that comes projected and packed."""
        if self.config.skip_y_embedder:
            text, valid = unpack_text(y, mask, min(y.shape[1], self.config.model_max_length))
            return text, valid[:, None, None]
        return self.embed_text(y, mask, batch, drop)

    def block_groups(self) -> Sequence[Sequence[nn.Cell]]:
        return list(zip(self.spatial_blocks, self.temporal_blocks))


class STDiT3Block(nn.Cell):
    """Modulated self-attention along one axis, plain cross-attention to the text, modulated MLP.

    ``x += gate * attention(modulate(norm(x)))``; ``x += cross_attention(x)``; ``x += gate * mlp(modulate(norm(x)))``.
    """

    def __init__(self, config: STDiT3Config, axis: str, parallel: nn.Cell):
        super().__init__()
        width = config.hidden_size
        self.axis, self.parallel = axis, parallel
        self.scale_shift_table = modulation_table(6, width)
        self.attn = AxialSelfAttention(width, config.num_heads, axis, config.qk_norm, parallel)
        self.cross_attn = CrossAttention(width, config.num_heads)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), width)

    def construct(
        self,
        x: Tensor,
        text: Tensor,
        text_mask: Tensor | None,
        modulation: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        size: tuple[int, int],
    ) -> Tensor:
        """x (B, T, S, D), text (B, L, D), text_mask (B, 1, 1, L), modulation (B, 1 or T, 6, D) → (B, T, S, D).

        ``size``: frames and tokens of a frame of all ranks together.
        """
        vectors = self.parallel.frames(modulation, self.axis) + self.scale_shift_table
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = ops.split(vectors, 1, 2)
        x = F.gated_sum(x, gate, self.attn(F.modulated_norm(x, shift, scale), size, rope))
        x = x + self.cross_attn(x, text, text_mask)
        return F.gated_sum(x, mlp_gate, self.mlp(F.modulated_norm(x, mlp_shift, mlp_scale)))

    def broadcast(self, x, text, text_mask, modulation, rope, size, attended, crossed):
        """As `construct`, with the branches of both attentions where they are given; returns them as well.

        A branch is what is added to ``x`` (B, T, S, D): after gate and projection.
        """
        vectors = modulation + self.scale_shift_table
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = ops.split(vectors, 1, 2)
        y = self.attn(F.modulated_norm(x, shift, scale), size, rope) if attended is None else None
        x, attended = add_branch(x, gate, y, attended)
        if crossed is None:
            crossed = self.cross_attn(x, text, text_mask)
        x = x + crossed
        x = F.gated_sum(x, mlp_gate, self.mlp(F.modulated_norm(x, mlp_shift, mlp_scale)))
        return x, attended, crossed
