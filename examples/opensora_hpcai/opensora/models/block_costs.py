"""What denoisers of equal blocks compute and keep, from their sizes alone.

Legend: `T` frames, `S` tokens of a frame, `L` text tokens, `D` hidden size.
"""

from __future__ import annotations

import math

Triple = tuple[int, int, int]


class BlockCosts:
    """For configs with ``hidden_size``, ``depth``, ``mlp_ratio`` and ``patch_size``: an attention among all tokens."""

    @property
    def patches(self) -> Triple:
        """Frames, height and width of a patch, in latents."""
        return self.patch_size

    def forward_flops(self, latent_size: Triple, text_tokens: int) -> float:
        """Multiplications and additions of the blocks in a forward pass of one sample.

        Args:
            latent_size: frames, height and width of the latents.
        """
        frames, height, width = (-(-side // patch) for side, patch in zip(latent_size, self.patches))
        return self.depth * self._layer_flops(frames, height * width, text_tokens)

    @property
    def num_blocks(self) -> int:
        """Blocks that one token goes through."""
        return self.depth

    @property
    def kept_tensors(self) -> float:
        """Numbers per channel that a block keeps of a token for its backward pass: see docs/planning.md."""
        return 47 + 3 * self.mlp_ratio

    def block_tokens(self, latent_size: Triple, text_tokens: int) -> int:
        """Tokens of one sample that go through the blocks; the text is only attended to."""
        return math.prod(-(-side // patch) for side, patch in zip(latent_size, self.patches))

    def recomputed_share(self, count: int | None) -> float:
        """The share of blocks that `recompute_blocks` of the first ``count`` computes again; None: of all."""
        return 1.0 if count is None else min(1.0, count / self.depth)

    def _layer_flops(self, frames: int, tokens: int, text_tokens: int) -> float:
        """An attention and an MLP, for frames of so many tokens."""
        everything = frames * tokens
        return self._attention_flops(1, everything, everything) + self._mlp_flops(everything)

    def _attention_flops(self, sequences: int, queries: int, keys: int) -> float:
        """Self-attention with its four matrices."""
        return sequences * (8 * queries * self.hidden_size**2 + 4 * queries * keys * self.hidden_size)

    def _mlp_flops(self, tokens: int) -> float:
        return 4 * self.mlp_ratio * tokens * self.hidden_size**2

    def _cross_flops(self, tokens: int, text_tokens: int) -> float:
        """Attention to the text, whose queries and keys have a matrix each, as the values and the result."""
        return 4 * (tokens + text_tokens) * self.hidden_size**2 + 4 * tokens * text_tokens * self.hidden_size
