"""STDiT2, the denoiser of Open-Sora 1.1: STDiT for any size, length and frame rate, with given frames.

Open-Sora 1.1 report. To STDiT it adds a modulated temporal branch with rotary embedding, normed queries and keys, and
embeddings of the size, aspect ratio, length and frame rate. Parameter names are the published ones.

Legend: `B` batch, `C` channels, `T` frames, `S` tokens of a frame, `L` text tokens, `D` hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.nn import functional as F
from mindone.nn.embeddings import RotaryEmbedding, TimestepEmbedder
from mindone.nn.layers import Linear, SiLU
from opensora.models.layers import branches_of, modulation_table, tile_batch
from opensora.models.stdit import FactorizedConfig, STDiT, STDiTBlock
from opensora.models.stdit_base import STDiTBase


@dataclass(frozen=True)
class STDiT2Config(FactorizedConfig):
    """Constructor arguments of the published config.json; the defaults are STDiT2-XL/2."""

    model_max_length: int = 200
    input_sq_size: int = 512
    """Side in pixels of the square picture whose position embedding has scale 1."""
    qk_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_rotary()
        if self.hidden_size % 3:
            raise UserError(
                f"hidden_size={self.hidden_size} is not divisible by 3: height, width and aspect ratio take a third"
            )


STDiT2_PRESETS = {"STDiT2-XL/2": STDiT2Config()}


class STDiT2(STDiTBase):
    """Noise (and variance) of noisy latents, given a timestep, a caption and what the video is like.

    What starts at zero is that of `STDiT`.

    Args:
        config: sizes and options.
        parallel: how tokens are spread over ranks; see `mindone.parallel.sequence`.
        use_recompute: keep only the inputs of blocks for the backward pass, and compute the rest again.
        num_recompute_blocks: blocks to which that applies, counted from the first; all if not given.
    """

    zero_at_start = STDiT.zero_at_start
    small_at_start = (*STDiT.small_at_start, "t_block_temp.1.weight")
    takes_frames_mask = True
    condition_names = ("num_frames", "height", "width", "ar", "fps")
    new_layers = (
        *STDiT.new_layers,
        "blocks.*.scale_shift_table_temporal",
        "blocks.*.q_norm.weight",
        "blocks.*.k_norm.weight",
        "t_block_temp.*",
        *("csize_embedder.*", "ar_embedder.*", "fl_embedder.*", "fps_embedder.*"),
        "rope.freqs",
    )

    def __init__(
        self,
        config: STDiT2Config,
        parallel: nn.Cell | None = None,
        use_recompute: bool = False,
        num_recompute_blocks: int | None = None,
    ):
        super().__init__(config, parallel)
        width = config.hidden_size
        self.rope = RotaryEmbedding(config.head_size)
        self.t_block_temp = nn.SequentialCell(SiLU(), Linear(width, 3 * width))
        self.csize_embedder = TimestepEmbedder(width // 3)
        self.ar_embedder = TimestepEmbedder(width // 3)
        self.fl_embedder = TimestepEmbedder(width)
        self.fps_embedder = TimestepEmbedder(width)
        self.blocks = nn.CellList([STDiT2Block(config, self.parallel, config.qk_norm) for _ in range(config.depth)])
        self.prepare_training(use_recompute, num_recompute_blocks)

    def construct(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None,
        x_mask: Tensor | None,
        num_frames: Tensor,
        height: Tensor,
        width: Tensor,
        ar: Tensor,
        fps: Tensor,
        force_drop_ids: Tensor | None = None,
        spatial_pos: Tensor | None = None,
        spatial_mask: Tensor | None = None,
    ) -> Tensor:
        """Predicts the noise.

        Where a vector or mask has fewer rows than ``x``, it is repeated as a whole.

        Args:
            x: (B, C, T, H, W) noisy latents.
            timestep: (B,) in 0..999.
            y: (B, 1, L, caption_channels) text embeddings.
            mask: (B, L), 1 = valid, others are not attended to; None: all are.
            x_mask: (B, T) bool; frames where it is False are given, and get the modulation of timestep 0.
            num_frames: (B,) frames of the video.
            height, width: (B,) size in pixels; the first sample's also scales the position embedding of all.
            ar: (B,) height / width.
            fps: (B,) frames per second, 120 for images.
            force_drop_ids: (B,), 1 = use the null caption.
            spatial_pos: (B, S, D) positions of a frame's tokens; None: those of a frame of this size.
            spatial_mask: (B, S), 0 = no token of the frame, not attended to; None: all are.
        Returns:
            (B, out_channels, T, H, W) float32.
        """
        told = (num_frames, height, width, ar, fps, force_drop_ids, spatial_pos, spatial_mask)
        x, state = self.embed(x, timestep, y, mask, x_mask, *told)
        return self.head(self.run_blocks(x, state), state)

    def embed(
        self,
        x,
        timestep,
        y,
        mask,
        x_mask,
        num_frames,
        height,
        width,
        ar,
        fps,
        force_drop_ids=None,
        spatial_pos=None,
        spatial_mask=None,
    ):
        """Everything before the blocks: tokens (B, T, S, D), and what `run_blocks` and `head` need beside them."""
        batch, _, frames, rows, columns = x.shape
        grid = self.x_embedder.grid((frames, rows, columns))
        text, text_mask = self.embed_text(y, mask, batch, force_drop_ids)
        shape = tile_batch(self.shape_embedding(height, width, ar), batch)
        length = tile_batch(self.fl_embedder(num_frames), batch) + tile_batch(self.fps_embedder(fps), batch)
        t = self.t_embedder(timestep)
        t0 = None if x_mask is None else self.t_embedder(ops.zeros_like(timestep))
        shape_t0 = None if t0 is None else t0 + shape
        length_t0 = None if t0 is None else t0 + length
        modulation = self.modulation(self.t_block, t + shape, shape_t0, x_mask)
        over_time = self.modulation(self.t_block_temp, t + length, length_t0, x_mask)

        x = self.x_embedder(x)
        own = spatial_pos is None
        positions = self.scaled_positions(grid, height, width, (rows, columns)) if own else spatial_pos[:, None]
        x = x + F.cast(positions, x.dtype)
        places = None if spatial_mask is None else spatial_mask != 0
        into_blocks = (text, text_mask, modulation, over_time, self.rope(grid[0]), x.shape[1:3], places)
        # The original gives its last layer the shape for given frames only, and its weights were trained so.
        return x, (into_blocks, (t, x_mask, shape_t0, grid, (frames, rows, columns)))

    def run_blocks(self, x: Tensor, state: tuple) -> Tensor:
        """The tokens (B, T, S, D) of this rank after the blocks."""
        text, text_mask, modulation, over_time, rope, size, places = state[0]
        x = self.parallel.split(x)
        for i in range(self.config.depth):
            x = self.blocks[i](x, text, text_mask, modulation, over_time, rope, size, places)
        return x

    def broadcast_blocks(self, x: Tensor, state: tuple, branches: tuple) -> tuple[Tensor, tuple]:
        """`run_blocks` with branches of an earlier step, see `opensora.families.cached.Broadcasting`."""
        text, text_mask, modulation, over_time, rope, size, places = state[0]
        told = (modulation, over_time, rope, size, places)
        kept = ((), (), ())
        for i in range(self.config.depth):
            x, own = self.blocks[i].broadcast(x, text, text_mask, *told, branches_of(branches, i))
            kept = ((*kept[0], own[0]), (*kept[1], own[1]), (*kept[2], own[2]))
        return x, kept

    def first_input(self, x: Tensor, state: tuple) -> Tensor:
        return self.modulated(x, state[0][2], self.blocks[0].scale_shift_table)

    def shape_embedding(self, height: Tensor, width: Tensor, ar: Tensor) -> Tensor:
        """Height, width and aspect ratio (B,) → (B, D), a third of the channels each."""
        size = self.csize_embedder(ops.stack((height, width), 1).reshape(-1))
        return ops.concat((size.reshape(height.shape[0], -1), self.ar_embedder(ar)), -1)


class STDiT2Block(STDiTBlock):
    """`STDiTBlock` whose temporal branch is normed, modulated and gated by itself."""

    def __init__(self, config: STDiT2Config, parallel: nn.Cell, qk_norm: bool):
        super().__init__(config, parallel, qk_norm)
        self.scale_shift_table_temporal = modulation_table(3, config.hidden_size)

    def before_time(
        self, x: Tensor, over_time: Tensor, positions: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Gate, input and rotary tables of ``x += gate * attention(modulate(norm(x)))``.

        Queries and keys are rotated, then normed. ``over_time`` is a modulation (B, 1 or T, 3, D),
        positions are the rotary tables.
        """
        vectors = self.parallel.frames(over_time, "time") + self.scale_shift_table_temporal
        shift, scale, gate = ops.split(vectors, 1, 2)
        return gate, F.modulated_norm(x, shift, scale), positions
