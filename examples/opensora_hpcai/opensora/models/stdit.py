"""STDiT, the denoiser of Open-Sora 1.0: every block attends within frames, then along time, then to the text.

Open-Sora 1.0 report; PixArt-alpha (arXiv:2310.00426) with a temporal attention in each block. Parameter names are the
published ones.

Legend: `B` batch, `C` channels, `T` frames, `S` tokens of a frame, `L` text tokens, `D` hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.nn import functional as F
from mindone.nn.attention import AxialSelfAttention, CrossAttention
from mindone.nn.embeddings import index_table_1d, index_table_2d
from mindone.nn.layers import Mlp
from opensora.models.layers import add_branch, branches_of, modulation_table
from opensora.models.stdit_base import STDiTBase, STDiTBaseConfig

FREEZE = (None, "not_temporal", "text")


@dataclass(frozen=True)
class FactorizedConfig(STDiTBaseConfig):
    """What STDiT and STDiT2 add to the common constructor arguments."""

    freeze: str | None = None
    """``not_temporal`` trains the temporal attentions only, ``text`` leaves the cross-attentions as they are."""
    predict_xstart: bool = False
    """What comes out is the denoised video instead of its noise; training and sampling follow it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze not in FREEZE:
            raise UserError(f"freeze={self.freeze} is not known; use not_temporal, text or leave it out")

    def freezes(self, name: str) -> bool:
        if self.freeze == "not_temporal":
            return ".attn_temp." not in name
        return (self.freeze == "text" and ".cross_attn." in name) or super().freezes(name)


@dataclass(frozen=True)
class STDiTConfig(FactorizedConfig):
    """Constructor arguments of the published models; the defaults are STDiT-XL/2."""

    input_size: tuple[int, int, int] = (1, 32, 32)
    """Frames, height and width of the latents; positions follow the input, so that other sizes work as well."""
    space_scale: float = 1.0
    """Positions within a frame are divided by it: 0.5 for 256 pixels, 1 for 512."""
    time_scale: float = 1.0
    """Positions of frames are divided by it: 1 for 16 frames, 2/3 for 64."""
    no_temporal_pos_emb: bool = False
    """Without effect, as in the original: the positions of frames are always added."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "input_size", tuple(self.input_size))
        if self.space_scale <= 0 or self.time_scale <= 0:
            raise UserError(
                f"space_scale={self.space_scale} and time_scale={self.time_scale} divide positions and have to be "
                "above 0"
            )


STDiT_PRESETS = {"STDiT-XL/2": STDiTConfig()}


class STDiT(STDiTBase):
    """Noise (and variance) of noisy latents, given a timestep and a caption.

    Cross-attention, temporal attention and the last projection start at zero.

    Args:
        config: sizes and options.
        parallel: how tokens are spread over ranks; see `mindone.parallel.sequence`.
        use_recompute: keep only the inputs of blocks for the backward pass, and compute the rest again.
        num_recompute_blocks: blocks to which that applies, counted from the first; all if not given.
    """

    zero_at_start = ("blocks.*.cross_attn.proj.weight", "blocks.*.attn_temp.proj.weight", "final_layer.linear.weight")
    small_at_start = ("t_embedder.mlp.*.weight", "t_block.1.weight", "y_embedder.y_proj.*.weight")
    new_layers = ("blocks.*.attn_temp.*",)
    takes_frames_mask = False

    def __init__(
        self,
        config: STDiTConfig,
        parallel: nn.Cell | None = None,
        use_recompute: bool = False,
        num_recompute_blocks: int | None = None,
    ):
        super().__init__(config, parallel)
        self.blocks = nn.CellList([STDiTBlock(config, self.parallel) for _ in range(config.depth)])
        self.prepare_training(use_recompute, num_recompute_blocks)

    def construct(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        force_drop_ids: Tensor | None = None,
    ) -> Tensor:
        """Predicts the noise.

        Args:
            x: (B, C, T, H, W) noisy latents.
            timestep: (B,) in 0..999.
            y: (B, 1, L, caption_channels) text embeddings.
            mask: (B, L), 1 = valid, others are not attended to; with fewer rows than ``x`` it is repeated as a whole.
            force_drop_ids: (B,), 1 = use the null caption.
        Returns:
            (B, out_channels, T, H, W) float32.
        """
        x, state = self.embed(x, timestep, y, mask, force_drop_ids)
        return self.head(self.run_blocks(x, state), state)

    def embed(self, x, timestep, y, mask=None, force_drop_ids=None):
        """Everything before the blocks: tokens (B, T, S, D), and what `run_blocks` and `head` need beside them."""
        batch, _, frames, rows, columns = x.shape
        grid = self.x_embedder.grid((frames, rows, columns))
        text, text_mask = self.embed_text(y, mask, batch, force_drop_ids)
        t = self.t_embedder(timestep)
        modulation = self.modulation(self.t_block, t, None, None)

        in_frame, in_time = self.positions(grid)
        x = self.x_embedder(x)
        x = x + F.cast(in_frame, x.dtype)
        into_blocks = (text, text_mask, modulation, in_time, x.shape[1:3])
        return x, (into_blocks, (t, None, None, grid, (frames, rows, columns)))

    def run_blocks(self, x: Tensor, state: tuple) -> Tensor:
        """The tokens (B, T, S, D) of this rank after the blocks."""
        text, text_mask, modulation, in_time, size = state[0]
        x = self.parallel.split(x)
        for i in range(self.config.depth):
            x = self.blocks[i](x, text, text_mask, modulation, modulation, in_time if i == 0 else None, size)
        return x

    def broadcast_blocks(self, x: Tensor, state: tuple, branches: tuple) -> tuple[Tensor, tuple]:
        """`run_blocks` with branches of an earlier step, see `opensora.families.cached.Broadcasting`."""
        text, text_mask, modulation, in_time, size = state[0]
        kept = ((), (), ())
        for i in range(self.config.depth):
            told = (modulation, in_time if i == 0 else None, size, None)
            x, own = self.blocks[i].broadcast(x, text, text_mask, modulation, *told, branches_of(branches, i))
            kept = ((*kept[0], own[0]), (*kept[1], own[1]), (*kept[2], own[2]))
        return x, kept

    def first_input(self, x: Tensor, state: tuple) -> Tensor:
        return self.modulated(x, state[0][2], self.blocks[0].scale_shift_table)

    def positions(self, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Fixed sine-cosine positions within a frame (S, D) and of the frames (T, D)."""
        frames, high, wide = grid
        width = self.config.hidden_size
        in_frame = index_table_2d(high, wide, width, self.config.space_scale)
        return in_frame, index_table_1d(frames, width, self.config.time_scale)


class STDiTBlock(nn.Cell):
    """Modulated attention within frames, attention along time, plain cross-attention to the text, modulated MLP.

    ``x += gate * attention(modulate(norm(x)))``; then along time, see `before_time`; ``x += cross_attention(x)``;
    ``x += gate * mlp(modulate(norm(x)))``.
    """

    def __init__(self, config: FactorizedConfig, parallel: nn.Cell, qk_norm: bool = False):
        super().__init__()
        width, heads = config.hidden_size, config.num_heads
        self.parallel = parallel
        self.scale_shift_table = modulation_table(6, width)
        self.attn = AxialSelfAttention(width, heads, "space", qk_norm, parallel)
        self.attn_temp = AxialSelfAttention(width, heads, "time", qk_norm, parallel, rope_first=True)
        self.cross_attn = CrossAttention(width, heads)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), width)

    def construct(
        self,
        x: Tensor,
        text: Tensor,
        text_mask: Tensor | None,
        modulation: Tensor,
        over_time: Tensor,
        positions: Tensor | tuple[Tensor, Tensor] | None,
        size: tuple[int, int],
        places: Tensor | None = None,
    ) -> Tensor:
        """x (B, T, S, D), text (B, L, D), text_mask (B, 1, 1, L), modulation (B, 1 or T, 6, D) → (B, T, S, D).

        ``over_time`` is the modulation that `before_time` uses, ``positions`` those of frames in its form.
        ``size``: frames and tokens of a frame of all ranks together.
        ``places`` (B, S) bool says which tokens of a frame are attended to; None: all.
        """
        vectors = self.parallel.frames(modulation, "space") + self.scale_shift_table
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = ops.split(vectors, 1, 2)
        x = F.gated_sum(x, gate, self.attn(F.modulated_norm(x, shift, scale), size, None, places))
        x = self.parallel.to_temporal(x, size)
        time_gate, seen, rotary = self.before_time(x, over_time, positions)
        x = F.gated_sum(x, time_gate, self.attn_temp(seen, size, rotary))
        x = self.parallel.to_spatial(x, size)
        x = x + self.cross_attn(x, text, text_mask)
        return F.gated_sum(x, mlp_gate, self.mlp(F.modulated_norm(x, mlp_shift, mlp_scale)))

    def broadcast(self, x, text, text_mask, modulation, over_time, positions, size, places, branches):
        """As `construct`, with the branches (in frames, over time, to the text) that are not None; returns all three.

        A branch is what is added to ``x`` (B, T, S, D): after gate and projection.
        """
        vectors = modulation + self.scale_shift_table
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = ops.split(vectors, 1, 2)
        in_frame, in_time, crossed = branches
        y = self.attn(F.modulated_norm(x, shift, scale), size, None, places) if in_frame is None else None
        x, in_frame = add_branch(x, gate, y, in_frame)
        time_gate, seen, rotary = self.before_time(x, over_time, positions)
        y = self.attn_temp(seen, size, rotary) if in_time is None else None
        x, in_time = add_branch(x, time_gate, y, in_time)
        if crossed is None:
            crossed = self.cross_attn(x, text, text_mask)
        x = x + crossed
        x = F.gated_sum(x, mlp_gate, self.mlp(F.modulated_norm(x, mlp_shift, mlp_scale)))
        return x, (in_frame, in_time, crossed)

    def before_time(self, x: Tensor, over_time: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor, None]:
        """Gate, input and rotary tables of ``x += gate * attention(x + positions)``; the gate is that within frames.

        Neither norm nor modulation: an oddity of the original that its weights were trained with. ``over_time`` is the
        block's own modulation, positions (T, D) come to the first block only.
        """
        vectors = self.parallel.frames(over_time, "time") + self.scale_shift_table
        gate = vectors[:, :, 2:3]
        placed = x
        if positions is not None:
            placed = x + F.cast(self.parallel.frames(positions[None, :, None], "time"), x.dtype)
        return gate, placed, None
