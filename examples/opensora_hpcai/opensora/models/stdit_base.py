"""What the denoisers of Open-Sora 1.0, 1.1 and 1.2 have in common around their blocks.

DiT (arXiv:2212.09748) with PixArt's text cross-attention and shared modulation (arXiv:2310.00426), for videos.
Parameter names are the published ones.

Legend: `B` batch, `C` channels, `T` frames, `S` tokens of a frame, `L` text tokens, `D` hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone import runtime
from mindone.checkpoint.naming import matches
from mindone.errors import UserError
from mindone.models.sizes import require_positive
from mindone.nn import functional as F
from mindone.nn import init
from mindone.nn.embeddings import PatchEmbed3D, TimestepEmbedder, position_table_2d
from mindone.nn.layers import Linear, SiLU
from mindone.parallel.sequence import NoParallel
from opensora.models.block_costs import BlockCosts
from opensora.models.layers import CaptionEmbedder, FinalLayer, tile_batch, unpatchify

LATENT_PIXELS = 8
"""Pixels per latent along height and width; only used where the size in pixels is not given."""


@dataclass(frozen=True)
class STDiTBaseConfig(BlockCosts):
    """Constructor arguments that all published config.json have; the defaults are those of XL/2."""

    in_channels: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    caption_channels: int = 4096
    model_max_length: int = 120
    """Tokens of the null caption, and the most a caption may have."""
    pred_sigma: bool = True
    """Twice the channels come out; what the second half means is the schedule's business."""
    class_dropout_prob: float = 0.1
    """Share of captions that training replaces by the null caption; the trainer draws them."""
    freeze_y_embedder: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_size", tuple(self.patch_size))
        require_positive(self, "in_channels", "patch_size", "hidden_size", "depth", "num_heads", "mlp_ratio")
        require_positive(self, "caption_channels", "model_max_length")
        if self.hidden_size % self.num_heads:
            raise UserError(f"hidden_size={self.hidden_size} is not divisible by num_heads={self.num_heads}")
        if self.hidden_size % 4:
            raise UserError(f"hidden_size={self.hidden_size} is not divisible by 4, as the position embedding needs")

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.pred_sigma else 1)

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    def _layer_flops(self, frames: int, tokens: int, text_tokens: int) -> float:
        """A spatial and a temporal attention, a cross-attention and an MLP, for frames of so many tokens."""
        both = self._attention_flops(frames, tokens, tokens) + self._attention_flops(tokens, frames, frames)
        return both + self._rest_flops(frames * tokens, text_tokens)

    def _rest_flops(self, tokens: int, text_tokens: int) -> float:
        """Cross-attention and MLP."""
        return self._cross_flops(tokens, text_tokens) + self._mlp_flops(tokens)

    def freezes(self, name: str) -> bool:
        """Whether the parameter stays as it is in training."""
        return self.freeze_y_embedder and name.startswith("y_embedder.")

    def check_rotary(self) -> None:
        """Refuses sizes of a head that have no channel pairs."""
        if self.head_size % 2:
            raise UserError(
                f"hidden_size={self.hidden_size} with num_heads={self.num_heads} gives heads of {self.head_size} "
                "channels; the rotary embedding needs an even number"
            )


class STDiTBase(nn.Cell):
    """Embedders, final layer and options; the blocks are a network's own.

    Patterns of parameter names say what is special about a network's weights:

    - ``zero_at_start``, ``small_at_start``: fresh values are zero, or normal with std 0.02, see `initialize_weights`;
    - ``new_layers``: what an image model that training starts from does not have;
    - ``computed_buffers``: tables that published files hold and the network computes.
    """

    zero_at_start: tuple[str, ...] = ()
    small_at_start: tuple[str, ...] = ()
    new_layers: tuple[str, ...] = ()
    condition_names: tuple[str, ...] = ()
    """what the network is told beside time and text, in the order of its arguments"""
    takes_frames_mask: bool = True
    computed_buffers: tuple[str, ...] = ("pos_embed", "pos_embed_temporal", "rope.freqs")

    def __init__(self, config: STDiTBaseConfig, parallel: nn.Cell | None = None):
        super().__init__()
        self.config = config
        self.parallel = parallel or NoParallel()
        width = config.hidden_size
        self.x_embedder = PatchEmbed3D(config.patch_size, config.in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.t_block = nn.SequentialCell(SiLU(), Linear(width, 6 * width))
        self.y_embedder = CaptionEmbedder(config.caption_channels, width, config.model_max_length)
        self.final_layer = FinalLayer(width, math.prod(config.patch_size) * config.out_channels)

    # --- parts of the forward pass -----------------------------------------------------------------------------------

    def embed_text(
        self, y: Tensor, mask: Tensor | None, batch: int, drop: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Text (B, L, D) and which of its tokens are attended to, (B, 1, 1, L) bool or None for all."""
        text = self.y_embedder(y, drop)[:, 0]
        if self.config.freeze_y_embedder:
            text = ops.stop_gradient(text)
        return text, None if mask is None else tile_batch(mask != 0, batch)[:, None, None]

    def modulation(self, block: nn.Cell, t: Tensor, t0: Tensor | None, x_mask: Tensor | None) -> Tensor:
        """Vectors per sample (B, 1, n, D), or per frame (B, T, n, D) where given frames have timestep 0."""
        vectors = F.cast(block(t), ms.float32).reshape(t.shape[0], 1, -1, self.config.hidden_size)
        if x_mask is None:
            return vectors
        at_zero = F.cast(block(t0), ms.float32).reshape(vectors.shape)
        return ops.where(x_mask[:, :, None, None], vectors, at_zero)

    def scaled_positions(
        self, grid: tuple[int, int, int], height: Tensor | None, width: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        """Sine-cosine positions (S, D) of a frame's tokens, for networks whose config has ``input_sq_size``.

        Args:
            height, width: (B,) size in pixels, of which the first sample's counts.
            size: that of the latents, for when the pixels are not given.
        """
        if height is None or width is None:
            area = ops.full((), float(size[0] * size[1] * LATENT_PIXELS**2), dtype=ms.float32)
        else:
            area = F.cast(height, ms.float32)[0] * F.cast(width, ms.float32)[0]
        scale = ops.sqrt(area) / self.config.input_sq_size
        _, high, wide = grid
        return position_table_2d(high, wide, self.config.hidden_size, scale, round(math.sqrt(high * wide)))

    def latents(
        self,
        x: Tensor,
        t: Tensor,
        x_mask: Tensor | None,
        t0: Tensor | None,
        grid: tuple[int, int, int],
        size: tuple[int, int, int],
    ) -> Tensor:
        """Tokens of this rank (B, T', S', D) → (B, out_channels, T, H, W) float32, without what filled up patches."""
        if x_mask is not None:
            x_mask = self.parallel.frames(x_mask, "space")
        # What is gathered is narrower behind the last layer, and no rank has all tokens at full width.
        x = self.parallel.gather(self.final_layer(x, t, x_mask, t0), (grid[0], grid[1] * grid[2]))
        x = unpatchify(x, grid, self.config.patch_size)
        frames, rows, columns = size
        return F.cast(x[:, :, :frames, :rows, :columns], ms.float32)

    def head(self, x: Tensor, state: tuple) -> Tensor:
        """Everything after the blocks; ``state`` is that of a network's ``embed``."""
        return self.latents(x, *state[1])

    @property
    def branch_counts(self) -> tuple[int, int, int]:
        """Branches in frames, over time and to the text, that a network's ``broadcast_blocks`` takes and returns."""
        depth = self.config.depth
        return (depth, depth, depth)

    def modulated(self, x: Tensor, modulation: Tensor, table: Tensor) -> Tensor:
        """What attention sees of tokens (B, T, S, D) in a block with this ``scale_shift_table``; float32."""
        vectors = modulation + table
        return F.cast(F.modulated_norm(x, vectors[:, :, 0:1], vectors[:, :, 1:2]), ms.float32)

    # --- training options --------------------------------------------------------------------------------------------

    def block_groups(self) -> Sequence[Sequence[nn.Cell]]:
        """The blocks in the order of the forward pass; those of a group are recomputed together."""
        return [(block,) for block in self.blocks]

    def recompute_blocks(self, count: int | None = None) -> None:
        """Trades time for memory: the first ``count`` groups of blocks, or all, keep only their inputs."""
        for group in list(self.block_groups())[:count]:
            for block in group:
                block.recompute()

    def prepare_training(self, use_recompute: bool, num_recompute_blocks: int | None) -> None:
        """Fresh weights and the training options; the last step of every constructor."""
        self.initialize_weights()
        for name, parameter in self.parameters_and_names():
            if self.config.freezes(name):
                parameter.requires_grad = False
        if use_recompute:
            self.recompute_blocks(num_recompute_blocks)

    def initialize_weights(self, seed: int = 0) -> None:
        """Draws fresh weights, see `draw_weights`."""
        draw_weights(self, self.zero_at_start, self.small_at_start, seed)


def draw_weights(network: nn.Cell, zero: Sequence[str], small: Sequence[str], seed: int) -> None:
    """Draws fresh weights; every parameter has its own random stream.

    - every bias and what the patterns ``zero`` name: zero; what ``small`` names: normal with std 0.02;
    - every other matrix, and the patch kernel as a matrix: Xavier-uniform;
    - ``scale_shift_table``: normal / sqrt(D); ``y_embedding``: normal / sqrt(caption_channels).
    """
    for name, parameter in network.parameters_and_names():
        rng = runtime.stream(seed, "init", name)
        if name.endswith(".bias") or matches(name, zero):
            init.zeros(parameter)
        elif matches(name, small):
            init.normal(parameter, rng, 0.02)
        elif "scale_shift_table" in name:
            init.normal(parameter, rng, 1 / math.sqrt(network.config.hidden_size))
        elif name.endswith("y_embedding"):
            init.normal(parameter, rng, 1 / math.sqrt(network.config.caption_channels))
        elif parameter.ndim > 1:
            init.xavier_uniform(parameter, rng)
