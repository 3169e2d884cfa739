"""MMDiT, the denoiser of Open-Sora 2.0 and, with other options, Flux.1-dev: full attention over text and video tokens.

Open-Sora 2.0 report (arXiv:2503.09642); MMDiT (arXiv:2403.03206). Parameter names are the published ones.

Legend: `B` batch, `N` image or video tokens, `L` text tokens, `C` channels of a token, `D` hidden size.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone import runtime
from mindone.errors import UserError
from mindone.models.sizes import require_positive
from mindone.nn import functional as F
from mindone.nn import init
from mindone.nn.embeddings import AxesRotaryEmbedding, sinusoid
from mindone.nn.layers import Linear
from mindone.parallel.sequence import NoParallel
from opensora.models.mmdit_layers import (
    DoubleStreamBlock,
    FinalProjection,
    JointAttention,
    SingleStreamBlock,
    VectorEmbedder,
)
from opensora.models.mmdit_sizes import own_entries

TIME_FACTOR = 1000.0
FREQUENCIES = 256


@dataclass(frozen=True)
class MMDiTConfig:
    """Constructor arguments by their published names; the defaults are Open-Sora 2.0 (11 B)."""

    in_channels: int = 64
    """Channels of a token: latent channels times the pixels of a patch."""
    vec_in_dim: int = 768
    """Width of the pooled text vector (CLIP)."""
    context_in_dim: int = 4096
    """Width of the text embeddings (T5)."""
    hidden_size: int = 3072
    mlp_ratio: float = 4.0
    num_heads: int = 24
    depth: int = 19
    """Number of blocks with two streams."""
    depth_single_blocks: int = 38
    axes_dim: tuple[int, ...] = (16, 56, 56)
    """Channels of a head that are rotated by frame, row and column."""
    theta: float = 10000.0
    qkv_bias: bool = True
    """Biases of queries, keys and values in the blocks with two streams; those with one always have them."""
    patch_size: int = 2
    """Side of the latent squares that are packed to tokens; it gives the mask's channels in ``cond``."""
    guidance_embed: bool = False
    """The guidance scale is an input (distilled weights)."""
    cond_embed: bool = True
    """Masked reference latents are an input (image to video)."""
    fused_qkv: bool = False
    """One matrix for queries, keys and values."""
    use_liger_rope: bool = True
    """Rotate channel ``j`` of a head with ``j + d/2``; otherwise with its neighbour, as Flux does."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes_dim", tuple(self.axes_dim))
        require_positive(self, "in_channels", "vec_in_dim", "context_in_dim", "hidden_size", "mlp_ratio", "num_heads")
        require_positive(self, "theta", "patch_size")
        if min(self.depth, self.depth_single_blocks) < 0 or not (self.depth or self.depth_single_blocks):
            raise UserError(f"depth={self.depth} and depth_single_blocks={self.depth_single_blocks} make no network")
        if self.hidden_size % self.num_heads:
            raise UserError(f"hidden_size={self.hidden_size} is not divisible by num_heads={self.num_heads}")
        head_size = self.hidden_size // self.num_heads
        if sum(self.axes_dim) != head_size or any(size % 2 for size in self.axes_dim):
            raise UserError(
                f"axes_dim={list(self.axes_dim)} has to be even numbers with the sum {head_size}, the size of a head "
                f"(hidden_size={self.hidden_size}, num_heads={self.num_heads})"
            )

    own_entries = staticmethod(own_entries)

    def forward_flops(self, latent_size: tuple[int, int, int], text_tokens: int) -> float:
        """Multiplications and additions of the blocks in a forward pass of one sample.

        Args:
            latent_size: frames, height and width of the latents.
        """
        tokens = self.block_tokens(latent_size, text_tokens)
        matrices = 2 * (4 + 2 * self.mlp_ratio) * tokens * self.hidden_size**2
        return self.num_blocks * (matrices + 4 * tokens**2 * self.hidden_size)

    @property
    def num_blocks(self) -> int:
        """Blocks that one token goes through."""
        return self.depth + self.depth_single_blocks

    @property
    def kept_tensors(self) -> float:
        """Numbers per channel that a block keeps of a token for its backward pass: see docs/planning.md."""
        return 16 + 3 * self.mlp_ratio

    def block_tokens(self, latent_size: tuple[int, int, int], text_tokens: int) -> int:
        """Tokens of one sample that go through the blocks: those of the text as well."""
        frames, height, width = latent_size
        return frames * (height // self.patch_size) * (width // self.patch_size) + text_tokens

    def recomputed_share(self, count: int | None) -> float:
        """The share of blocks that `recompute_blocks` of the first ``count`` computes again; None: of all."""
        if count is None:
            return 1.0
        return (min(count, self.depth) + min(count, self.depth_single_blocks)) / self.num_blocks

    @property
    def latent_channels(self) -> int:
        """Channels of the latents that are packed to tokens."""
        return self.in_channels // self.patch_size**2

    @property
    def cond_channels(self) -> int:
        """Channels of a token of ``cond``: one mask channel and the masked latents."""
        return self.in_channels + self.patch_size**2


MMDIT_PRESETS = {
    "MMDiT-11B": MMDiTConfig(),
    "MMDiT-11B-DCAE": MMDiTConfig(in_channels=128, patch_size=1),
    "Flux.1-dev": MMDiTConfig(guidance_embed=True, cond_embed=False, fused_qkv=True, use_liger_rope=False),
}


class MMDiT(nn.Cell):
    """Velocity of packed noisy latents, given time, text embeddings, a pooled text vector and a condition.

    Args:
        config: sizes and options.
        parallel: how tokens are spread over ranks; see `mindone.parallel.sequence`. It splits text and image tokens
            each by themselves.
        recompute: see `recompute_blocks`.
    """

    def __init__(
        self,
        config: MMDiTConfig,
        parallel: nn.Cell | None = None,
        recompute: bool | int | Sequence[int] = False,
    ):
        super().__init__()
        self.config = config
        self.parallel = parallel or NoParallel()
        width, heads = config.hidden_size, config.num_heads
        mlp_size, fused = int(width * config.mlp_ratio), config.fused_qkv
        self.rope = AxesRotaryEmbedding(config.axes_dim, config.theta)
        self.img_in = Linear(config.in_channels, width)
        self.time_in = VectorEmbedder(FREQUENCIES, width)
        self.vector_in = VectorEmbedder(config.vec_in_dim, width)
        if config.guidance_embed:
            self.guidance_in = VectorEmbedder(FREQUENCIES, width)
        if config.cond_embed:
            self.cond_in = Linear(config.cond_channels, width)
        self.txt_in = Linear(config.context_in_dim, width)
        joint = functools.partial(JointAttention, config.use_liger_rope, self.parallel)
        self.double_blocks = nn.CellList(
            [DoubleStreamBlock(width, heads, mlp_size, fused, config.qkv_bias, joint()) for _ in range(config.depth)]
        )
        self.single_blocks = nn.CellList(
            [SingleStreamBlock(width, heads, mlp_size, fused, joint()) for _ in range(config.depth_single_blocks)]
        )
        self.final_layer = FinalProjection(width, config.in_channels)
        self.initialize_weights()
        self.recompute_blocks(recompute)

    def construct(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        timesteps: Tensor,
        y_vec: Tensor,
        cond: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Predicts the velocity.

        Args:
            img: (B, N, C) packed noisy latents.
            img_ids: (B, N, 3) frame, row and column of every token; (1, N, 3) if all samples share them.
            txt: (B, L, context_in_dim) text embeddings; padding is attended to as well.
            txt_ids: (B, L, 3) or (1, L, 3) zeros.
            timesteps: (B,) in 0..1, 1 = noise.
            y_vec: (B, vec_in_dim) pooled text vectors.
            cond: (B, N, cond_channels) packed mask and masked latents, if ``cond_embed``.
            guidance: (B,) guidance scales, if ``guidance_embed``.
        Returns:
            (B, N, C) float32.
        """
        img, state = self.embed(img, img_ids, txt, txt_ids, timesteps, y_vec, cond, guidance)
        return self.head(self.run_blocks(img, state), state)

    def embed(self, img, img_ids, txt, txt_ids, timesteps, y_vec, cond=None, guidance=None):
        """Everything before the blocks: this rank's image tokens (B, N, D), and what the rest needs beside them."""
        vec = self.condition(timesteps, y_vec, guidance)
        size = (1, txt.shape[1], img.shape[1])
        img, txt, rope = self.tokens(img, img_ids, txt, txt_ids, cond)
        return img, (txt, vec, rope, size)

    def run_blocks(self, img: Tensor, state: tuple) -> Tensor:
        """This rank's image tokens (B, N, D) after the blocks."""
        txt, vec, rope, size = state
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, rope, size)
        x = ops.concat((txt, img), 1)
        for block in self.single_blocks:
            x = block(x, vec, rope, size)
        return x[:, txt.shape[1] :]

    def head(self, img: Tensor, state: tuple) -> Tensor:
        """Everything after the blocks; ``state`` is that of `embed`."""
        # What is gathered is narrower behind the last layer, and no rank has all tokens at full width.
        out = self.parallel.gather(self.final_layer(img, state[1])[:, None], (1, state[3][2]))[:, 0]
        return F.cast(out, ms.float32)

    def first_input(self, img: Tensor, state: tuple) -> Tensor:
        """What the attention of the first block sees of the image tokens: (B, N, D) float32."""
        vec = state[1]
        if self.config.depth:
            shift, scale = self.double_blocks[0].img_mod(vec)[:2]
        else:
            shift, scale = self.single_blocks[0].modulation(vec)[:2]
        return F.cast(F.modulated_norm(img, shift, scale), ms.float32)

    def condition(self, timesteps: Tensor, y_vec: Tensor, guidance: Tensor | None) -> Tensor:
        """The vector (B, D) that modulates all blocks, activated."""
        vec = self.time_in(time_features(timesteps)) + self.vector_in(y_vec)
        if self.config.guidance_embed:
            if guidance is None:
                raise ValueError("this network needs guidance, because its config has guidance_embed")
            vec = vec + self.guidance_in(time_features(guidance))
        return F.silu(vec)

    def tokens(
        self, img: Tensor, img_ids: Tensor, txt: Tensor, txt_ids: Tensor, cond: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """This rank's image tokens (B, N, D) and text tokens (B, L, D), and the rotary tables of all ranks' tokens."""
        img, txt = self.img_in(self._split(img)), self.txt_in(self._split(txt))
        if self.config.cond_embed:
            if cond is None:
                raise ValueError("this network needs cond, because its config has cond_embed")
            img = img + self.cond_in(self._split(cond))
        ids = ops.concat((F.cast(txt_ids, ms.float32), F.cast(img_ids, ms.float32)), 1)
        return img, txt, self.rope(ids)

    def _split(self, x: Tensor) -> Tensor:
        return self.parallel.split(x[:, None])[:, 0]

    # --- training options --------------------------------------------------------------------------------------------

    def recompute_blocks(self, count: bool | int | Sequence[int] | None = None) -> None:
        """Keeps only the inputs of blocks for the backward pass and computes the rest again: less memory, more time.

        Args:
            count: how many blocks, counted from the first: one number for both kinds or a pair (double, single);
                True or None: all, False: none.
        """
        if count is False:
            return
        if count is None or count is True:
            count = max(self.config.depth, self.config.depth_single_blocks)
        doubles, singles = (count, count) if isinstance(count, int) else count
        for block in (*list(self.double_blocks)[:doubles], *list(self.single_blocks)[:singles]):
            block.recompute()

    def initialize_weights(self, seed: int = 0) -> None:
        """Draws fresh weights; every parameter has its own random stream.

        - every matrix: Xavier-uniform; every bias: zero; embeddings of vectors: normal with std 0.02;
        - modulations and ``final_layer.linear``: zero, so that every block starts as identity (adaLN-Zero);
        - ``cond_in``: zero, so that a text-to-video model can be trained on with conditions.
        """
        for name, parameter in self.parameters_and_names():
            rng = runtime.stream(seed, "init", name)
            if name.endswith((".bias", ".lin.weight")) or name.startswith(("final_layer.", "cond_in.")):
                init.zeros(parameter)
            elif name.startswith(("time_in.", "vector_in.", "guidance_in.")):
                init.normal(parameter, rng, 0.02)
            elif parameter.ndim > 1:
                init.xavier_uniform(parameter, rng)


def time_features(values: Tensor) -> Tensor:
    """Sinusoid (B, 256) float32 of a thousand times the values (B,)."""
    return sinusoid(F.cast(values, ms.float32) * TIME_FACTOR, FREQUENCIES)
