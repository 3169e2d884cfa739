"""STDiT3, the denoiser of Open-Sora 1.2: alternating spatial and temporal transformer blocks with text cross-attention.

Open-Sora 1.2 report; DiT (arXiv:2212.09748) with PixArt's shared modulation (arXiv:2310.00426). Parameter names are the
published ones.

Legend: `B` batch, `C` channels, `T` frames, `S` tokens of a frame, `L` text tokens, `D` hidden size, `d` head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from mindone import runtime
from mindone.errors import UserError
from mindone.nn import functional as F
from mindone.nn import init
from mindone.nn.attention import AxialSelfAttention, CrossAttention
from mindone.nn.embeddings import PatchEmbed3D, RotaryEmbedding, TimestepEmbedder, position_table_2d
from mindone.nn.layers import Linear, Mlp, SiLU
from mindone.parallel.sequence import NoParallel
from opensora.models.layers import CaptionEmbedder, FinalLayer, tile_batch, unpack_text, unpatchify

LATENT_PIXELS = 8
"""Pixels per latent along height and width; only used where the size in pixels is not given."""


@dataclass(frozen=True)
class STDiT3Config:
    """Constructor arguments of the published config.json; the defaults are STDiT3-XL/2."""

    in_channels: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    hidden_size: int = 1152
    depth: int = 28
    """Number of spatial blocks, and of temporal blocks."""
    num_heads: int = 16
    mlp_ratio: float = 4.0
    caption_channels: int = 4096
    model_max_length: int = 300
    """Tokens of the null caption, and the most a caption may have."""
    input_sq_size: int = 512
    """Side in pixels of the square picture whose position embedding has scale 1."""
    pred_sigma: bool = True
    """Twice the channels come out; the second half is unused with rectified flow."""
    qk_norm: bool = True
    class_dropout_prob: float = 0.1
    """Share of captions that training replaces by the null caption; the trainer draws them."""
    skip_y_embedder: bool = False
    """Text comes projected and packed, see `STDiT3`."""
    freeze_y_embedder: bool = False
    only_train_temporal: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_size", tuple(self.patch_size))
        if self.hidden_size % self.num_heads:
            raise UserError(f"hidden_size={self.hidden_size} is not divisible by num_heads={self.num_heads}")
        if self.hidden_size % 4 or (self.hidden_size // self.num_heads) % 2:
            raise UserError(
                f"hidden_size={self.hidden_size} with num_heads={self.num_heads} does not fit the position embeddings; "
                "hidden_size has to be divisible by 4 and the size of a head by 2"
            )

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.pred_sigma else 1)


STDiT3_PRESETS = {
    "STDiT3-XL/2": STDiT3Config(),
    "STDiT3-3B/2": STDiT3Config(hidden_size=1872, num_heads=26),
}


class STDiT3(nn.Cell):
    """Velocity of noisy latents, given a timestep, a caption, the frame rate and the picture's size.

    Args:
        config: sizes and options.
        parallel: how tokens are spread over ranks; see `mindone.parallel.sequence`.
        use_recompute: keep only the inputs of blocks for the backward pass, and compute the rest again.
        num_recompute_blocks: pairs of blocks to which that applies, counted from the first; all if not given.
    """

    def __init__(
        self,
        config: STDiT3Config,
        parallel: nn.Cell | None = None,
        use_recompute: bool = False,
        num_recompute_blocks: int | None = None,
    ):
        super().__init__()
        self.config = config
        self.parallel = parallel or NoParallel()
        width = config.hidden_size
        self.rope = RotaryEmbedding(width // config.num_heads)
        self.x_embedder = PatchEmbed3D(config.patch_size, config.in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.fps_embedder = TimestepEmbedder(width)
        self.t_block = nn.SequentialCell(SiLU(), Linear(width, 6 * width))
        self.y_embedder = CaptionEmbedder(config.caption_channels, width, config.model_max_length)
        self.spatial_blocks = nn.CellList([STDiT3Block(config, "space", self.parallel) for _ in range(config.depth)])
        self.temporal_blocks = nn.CellList([STDiT3Block(config, "time", self.parallel) for _ in range(config.depth)])
        self.final_layer = FinalLayer(width, math.prod(config.patch_size) * config.out_channels)
        self.initialize_weights()
        self._freeze()
        if use_recompute:
            self.recompute_blocks(num_recompute_blocks)

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
        batch, _, frames, rows, columns = x.shape
        grid = self.x_embedder.grid((frames, rows, columns))
        text, text_mask = self._text(y, mask, batch, force_drop_ids)
        speed = self.fps_embedder(ops.full((1,), 24.0, dtype=ms.float32) if fps is None else fps)
        speed = tile_batch(speed, batch)
        t = self.t_embedder(timestep) + speed
        t0 = None if x_mask is None else self.t_embedder(ops.zeros_like(timestep)) + speed
        modulation = self._modulation(t, t0, x_mask)

        x = self.x_embedder(x)
        x = x + F.cast(self._positions(grid, height, width, rows, columns), x.dtype)
        x = self.parallel.split(x)
        rope = self.rope(grid[0])
        for i in range(self.config.depth):
            x = self.spatial_blocks[i](x, text, text_mask, modulation, None)
            x = self.parallel.to_temporal(x)
            x = self.temporal_blocks[i](x, text, text_mask, modulation, rope)
            x = self.parallel.to_spatial(x)
        x = self.parallel.gather(x)
        x = self.final_layer(x, t, x_mask, t0)
        x = unpatchify(x, grid, self.config.patch_size)
        return F.cast(x[:, :, :frames, :rows, :columns], ms.float32)

    def _text(self, y: Tensor, mask: Tensor | None, batch: int, drop: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Text (B, L, D) and which of its tokens are attended to, (B, 1, 1, L) bool or None for all."""
        if self.config.skip_y_embedder:
            text, valid = unpack_text(y, mask, min(y.shape[1], self.config.model_max_length))
            return text, valid[:, None, None]
        text = self.y_embedder(y, drop)[:, 0]
        if self.config.freeze_y_embedder:
            text = ops.stop_gradient(text)
        return text, None if mask is None else tile_batch(mask != 0, batch)[:, None, None]

    def _modulation(self, t: Tensor, t0: Tensor | None, x_mask: Tensor | None) -> Tensor:
        """Six vectors per sample (B, 1, 6, D), or per frame (B, T, 6, D) where given frames have timestep 0."""
        modulation = F.cast(self.t_block(t), ms.float32).reshape(t.shape[0], 1, 6, -1)
        if x_mask is None:
            return modulation
        at_zero = F.cast(self.t_block(t0), ms.float32).reshape(modulation.shape)
        return ops.where(x_mask[:, :, None, None], modulation, at_zero)

    def _positions(
        self, grid: tuple[int, int, int], height: Tensor | None, width: Tensor | None, rows: int, columns: int
    ) -> Tensor:
        """Sine-cosine positions (S, D) of a frame's tokens, for the size in pixels of the first sample."""
        if height is None or width is None:
            area = ops.full((), float(rows * columns * LATENT_PIXELS**2), dtype=ms.float32)
        else:
            area = F.cast(height, ms.float32)[0] * F.cast(width, ms.float32)[0]
        scale = ops.sqrt(area) / self.config.input_sq_size
        _, high, wide = grid
        return position_table_2d(high, wide, self.config.hidden_size, scale, round(math.sqrt(high * wide)))

    # --- training options --------------------------------------------------------------------------------------------

    def recompute_blocks(self, count: int | None = None) -> None:
        """Trades time for memory in the first ``count`` pairs of blocks, or in all."""
        for spatial, temporal in list(zip(self.spatial_blocks, self.temporal_blocks))[:count]:
            spatial.recompute()
            temporal.recompute()

    def _freeze(self) -> None:
        """Marks what the config does not train."""
        frozen = []
        if self.config.only_train_temporal:
            frozen = [p for name, p in self.parameters_and_names() if not name.startswith("temporal_blocks.")]
        elif self.config.freeze_y_embedder:
            frozen = list(self.y_embedder.get_parameters())
        for parameter in frozen:
            parameter.requires_grad = False

    def initialize_weights(self, seed: int = 0) -> None:
        """Draws fresh weights; every parameter has its own random stream.

        - every matrix, and the patch kernel as a matrix: Xavier-uniform; every bias: zero;
        - ``scale_shift_table``: normal / sqrt(D); ``y_embedding``: normal / sqrt(caption_channels);
        - ``fps_embedder``: first layer normal with std 0.02, second zero, so that training starts without it;
        - temporal blocks: the last matrix of attention, cross-attention and MLP zero, so that they start as identity
          and an image model's spatial blocks can be taken over.
        """
        config = self.config
        starts_at_zero = ("attn.proj.weight", "cross_attn.proj.weight", "mlp.fc2.weight")
        for name, parameter in self.parameters_and_names():
            rng = runtime.stream(seed, "init", name)
            if (
                name.endswith(".bias")
                or name == "fps_embedder.mlp.2.weight"
                or name.startswith("temporal_blocks.")
                and name.endswith(starts_at_zero)
            ):
                init.zeros(parameter)
            elif name == "fps_embedder.mlp.0.weight":
                init.normal(parameter, rng, 0.02)
            elif name.endswith("scale_shift_table"):
                init.normal(parameter, rng, 1 / math.sqrt(config.hidden_size))
            elif name.endswith("y_embedding"):
                init.normal(parameter, rng, 1 / math.sqrt(config.caption_channels))
            elif parameter.ndim > 1:
                init.xavier_uniform(parameter, rng)


class STDiT3Block(nn.Cell):
    """Modulated self-attention along one axis, plain cross-attention to the text, modulated MLP.

    ``x += gate * attention(modulate(norm(x)))``; ``x += cross_attention(x)``; ``x += gate * mlp(modulate(norm(x)))``.
    """

    def __init__(self, config: STDiT3Config, axis: str, parallel: nn.Cell):
        super().__init__()
        width = config.hidden_size
        self.axis, self.parallel = axis, parallel
        table = initializer(Normal(1 / math.sqrt(width)), (6, width), ms.float32)
        self.scale_shift_table = Parameter(table)
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
    ) -> Tensor:
        """x (B, T, S, D), text (B, L, D), text_mask (B, 1, 1, L), modulation (B, 1 or T, 6, D) → (B, T, S, D)."""
        vectors = self.parallel.frames(modulation, self.axis) + self.scale_shift_table
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = ops.split(vectors, 1, 2)
        x = F.gated_sum(x, gate, self.attn(F.modulated_norm(x, shift, scale), rope))
        x = x + self.cross_attn(x, text, text_mask)
        return F.gated_sum(x, mlp_gate, self.mlp(F.modulated_norm(x, mlp_shift, mlp_scale)))
