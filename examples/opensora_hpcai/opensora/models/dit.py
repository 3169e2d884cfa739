"""DiT and Latte for videos, two older denoisers of Open-Sora 1.0, given a class or one vector of a text.

DiT (arXiv:2212.09748) attends among all tokens of a video. Latte (arXiv:2401.03048) has the same parameters: its even
blocks attend within frames, its odd ones along time. Parameter names are the published ones.

Legend: `B` batch, `C` channels, `T` frames, `S` tokens of a frame, `N = T*S`, `D` hidden size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.models.sizes import require_positive
from mindone.nn import functional as F
from mindone.nn.attention import AxialSelfAttention
from mindone.nn.embeddings import PatchEmbed3D, TimestepEmbedder, index_table_1d, index_table_2d
from mindone.nn.layers import Embedding, Linear, Mlp, SiLU
from mindone.parallel.sequence import NoParallel
from opensora.models.block_costs import BlockCosts
from opensora.models.layers import CaptionEmbedder, refuse_sharing, unpatchify
from opensora.models.stdit_base import draw_weights


@dataclass(frozen=True)
class DiTConfig(BlockCosts):
    """Constructor arguments of the published models; the defaults are DiT-XL/2."""

    input_size: tuple[int, int, int] = (1, 32, 32)
    """Frames, height and width of the latents; positions follow the input, so that other sizes work as well."""
    in_channels: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    class_dropout_prob: float = 0.1
    """Share of conditions that training replaces by the null one; with 0 a class model has no null class."""
    learn_sigma: bool = True
    """Twice the channels come out; the second half is the variance."""
    condition: str = "text"
    """``label_N`` for N classes; anything else is the pooled vector of a text"""
    no_temporal_pos_emb: bool = False
    """For single pictures: no positions of frames. Latte adds them all the same."""
    caption_channels: int = 512
    model_max_length: int = 77
    """Tokens that the text encoder sees; the network sees one vector."""
    axial: bool = False
    """Latte: within frames and along time by turns."""
    predict_xstart: bool = False
    """What comes out is the denoised video instead of its noise; training and sampling follow it."""

    def __post_init__(self) -> None:
        for name in ("patch_size", "input_size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require_positive(self, "in_channels", "patch_size", "hidden_size", "depth", "num_heads", "mlp_ratio")
        require_positive(self, "caption_channels", "model_max_length")
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise UserError(
                f"hidden_size={self.hidden_size} has to be divisible by num_heads={self.num_heads} and by 4"
            )
        if self.condition.startswith("label_") and not self.num_classes:
            raise UserError(f"condition={self.condition} is not known; use text, or label_N for N classes")

    @property
    def num_classes(self) -> int:
        """Classes without the null one; 0 for a network that is given a text."""
        number = self.condition.rpartition("_")[2]
        return int(number) if self.condition.startswith("label_") and number.isdecimal() else 0

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def pred_sigma(self) -> bool:
        """The name that the other denoisers have for `learn_sigma`."""
        return self.learn_sigma

    @property
    def has_null(self) -> bool:
        """Whether there is a condition that stands for none, as guidance needs it."""
        return not self.num_classes or self.class_dropout_prob > 0

    def _layer_flops(self, frames: int, tokens: int, text_tokens: int) -> float:
        """Of Latte the mean of a block within frames and one along time."""
        if not self.axial:
            return super()._layer_flops(frames, tokens, text_tokens)
        both = self._attention_flops(frames, tokens, tokens) + self._attention_flops(tokens, frames, frames)
        return both / 2 + self._mlp_flops(frames * tokens)


DIT_PRESETS = {
    "DiT-XL/2": DiTConfig(),
    "DiT-XL/2x2": DiTConfig(patch_size=(2, 2, 2)),
    "Latte-XL/2": DiTConfig(axial=True),
    "Latte-XL/2x2": DiTConfig(axial=True, patch_size=(2, 2, 2)),
}


class LabelEmbedder(nn.Cell):
    """A vector per class: (B,) int → (B, D). The last row is that of no class, if there is dropout."""

    def __init__(self, num_classes: int, width: int, has_null: bool):
        super().__init__()
        self.num_classes = num_classes
        # The null condition, in the shape that a label has among texts: one number as the only token.
        self.y_embedding = Tensor([[num_classes]], ms.float32)
        self.embedding_table = Embedding(num_classes + has_null, width)

    def construct(self, labels: Tensor, force_drop_ids: Tensor | None = None) -> Tensor:
        """``force_drop_ids`` (B,): the labels where it is 1 become the null class."""
        labels = F.cast(labels, ms.int32).reshape(-1)
        if force_drop_ids is not None:
            labels = ops.where(force_drop_ids == 1, ops.full_like(labels, self.num_classes), labels)
        return self.embedding_table(labels)


class ModulatedLayer(nn.Cell):
    """Shifts, scales and gates of a condition: (B, D) → ``count`` tensors (B, 1, 1, D) float32."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.count = count
        self.adaLN_modulation = nn.SequentialCell(SiLU(), Linear(width, count * width))

    def vectors(self, condition: Tensor) -> tuple[Tensor, ...]:
        vectors = F.cast(self.adaLN_modulation(condition), ms.float32)[:, None, None]
        return ops.split(vectors, vectors.shape[-1] // self.count, -1)


class DiTBlock(ModulatedLayer):
    """Attention along the third axis, then an MLP, both modulated and gated by the condition (adaLN-Zero).

    ``x += gate * attention(modulate(norm(x)))``; ``x += gate * mlp(modulate(norm(x)))``.
    """

    def __init__(self, config: DiTConfig):
        super().__init__(config.hidden_size, 6)
        width = config.hidden_size
        self.attn = AxialSelfAttention(width, config.num_heads, "space", False, NoParallel())
        self.mlp = Mlp(width, int(width * config.mlp_ratio), width)

    def construct(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, groups, tokens, D), condition (B, D) → (B, groups, tokens, D)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.vectors(condition)
        x = F.gated_sum(x, gate, self.attn(F.modulated_norm(x, shift, scale), x.shape[1:3]))
        return F.gated_sum(x, mlp_gate, self.mlp(F.modulated_norm(x, mlp_shift, mlp_scale)))


class DiTFinalLayer(ModulatedLayer):
    """Norm, modulation and projection of tokens to patches: (B, T, S, D) → (B, T, S, P)."""

    def __init__(self, width: int, patch_values: int):
        super().__init__(width, 2)
        self.linear = Linear(width, patch_values)

    def construct(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.linear(F.modulated_norm(x, *self.vectors(condition)))


class DiT(nn.Cell):
    """Noise (and variance) of noisy latents, given a timestep and a class or the vector of a text.

    All modulations and the last projection start at zero.
    """

    zero_at_start = ("*adaLN_modulation.1.weight", "final_layer.linear.weight")
    small_at_start = ("t_embedder.mlp.*.weight", "y_embedder.*.weight")
    new_layers = ()
    condition_names = ()
    takes_frames_mask = False
    computed_buffers = ("pos_embed", "pos_embed_spatial", "pos_embed_temporal", "temp_embed")

    def __init__(self, config: DiTConfig, parallel: nn.Cell | None = None):
        super().__init__()
        refuse_sharing(parallel, "Latte" if config.axial else "DiT")
        self.config = config
        width = config.hidden_size
        self.x_embedder = PatchEmbed3D(config.patch_size, config.in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        if config.num_classes:
            self.y_embedder = LabelEmbedder(config.num_classes, width, config.class_dropout_prob > 0)
        else:
            self.y_embedder = CaptionEmbedder(config.caption_channels, width, 1)
        self.blocks = nn.CellList([DiTBlock(config) for _ in range(config.depth)])
        self.final_layer = DiTFinalLayer(width, math.prod(config.patch_size) * config.out_channels)
        self.initialize_weights()

    def initialize_weights(self, seed: int = 0) -> None:
        """Draws fresh weights, see `draw_weights`."""
        draw_weights(self, self.zero_at_start, self.small_at_start, seed)

    def recompute_blocks(self, count: int | None = None) -> None:
        """Trades time for memory: the first ``count`` blocks, or all, keep only their inputs."""
        for block in list(self.blocks)[:count]:
            block.recompute()

    def positions(self, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Fixed sine-cosine positions within a frame (S, D) and of the frames (T, D)."""
        frames, high, wide = grid
        return index_table_2d(high, wide, self.config.hidden_size), index_table_1d(frames, self.config.hidden_size)

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
            y: (B,) or (B, 1, 1, 1) labels, or (B, 1, 1, caption_channels) pooled vectors of texts.
            mask: without effect: there is one token of text, and it is valid.
            force_drop_ids: (B,), 1 = without the condition.
        Returns:
            (B, out_channels, T, H, W) float32.
        """
        batch, _, frames, rows, columns = x.shape
        grid = self.x_embedder.grid((frames, rows, columns))
        condition = self.t_embedder(timestep) + self.y_embedder(y, force_drop_ids).reshape(batch, -1)
        in_frame, in_time = self.positions(grid)
        x = self.x_embedder(x)
        x = x + F.cast(in_frame, x.dtype)
        in_time = F.cast(in_time, x.dtype)
        x = self._by_turns(x, condition, in_time) if self.config.axial else self._together(x, condition, in_time)
        x = unpatchify(self.final_layer(x, condition), grid, self.config.patch_size)
        return F.cast(x[:, :, :frames, :rows, :columns], ms.float32)

    def _together(self, x: Tensor, condition: Tensor, in_time: Tensor) -> Tensor:
        if not self.config.no_temporal_pos_emb:
            x = x + in_time[:, None]
        shape = x.shape
        x = x.reshape(shape[0], 1, -1, shape[-1])
        for block in self.blocks:
            x = block(x, condition)
        return x.reshape(shape)

    def _by_turns(self, x: Tensor, condition: Tensor, in_time: Tensor) -> Tensor:
        for index in range(self.config.depth):
            if index % 2 == 0:
                x = self.blocks[index](x, condition)
                continue
            x = x.swapaxes(1, 2)
            if index == 1:
                x = x + in_time
            x = self.blocks[index](x, condition).swapaxes(1, 2)
        return x
