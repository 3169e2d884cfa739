"""Layers that the denoisers of Open-Sora 1.0 to 1.2 share.

Legend: `B` batch, `C` channels, `T` frames, `S` tokens of a frame, `L` text tokens, `D` hidden size.
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from mindone.errors import UserError
from mindone.nn import functional as F
from mindone.nn.layers import Linear, Mlp


class CaptionEmbedder(nn.Cell):
    """Projects text embeddings: (B, 1, L, C) → (B, 1, L, D).

    ``y_embedding`` (tokens, C) is the null caption, fixed noise that belongs to the weights: it stands for "no text" in
    classifier-free guidance, and for captions dropped in training. It is not trained.

    Attributes:
        table, spread: as of `mindone.nn.layers.Embedding`.
    """

    table = "y_embedding"

    def __init__(self, in_channels: int, hidden_size: int, token_num: int):
        super().__init__()
        self.y_proj = Mlp(in_channels, hidden_size, hidden_size)
        null = initializer(Normal(1 / math.sqrt(in_channels)), (token_num, in_channels), ms.float32)
        self.y_embedding = Parameter(null, requires_grad=False)
        self.spread: nn.Cell | None = None

    def construct(self, caption: Tensor, force_drop_ids: Tensor | None = None) -> Tensor:
        """``force_drop_ids`` (B,): the captions where it is 1 become the null caption before the projection."""
        if force_drop_ids is not None:
            dropped = (force_drop_ids == 1).reshape(-1, 1, 1, 1)
            null = self.y_embedding if self.spread is None else self.spread.whole(self.y_embedding, caption)
            null = F.cast(null[: caption.shape[2]], caption.dtype)
            caption = ops.where(dropped, null, caption)
        return self.y_proj(caption)


def modulation_table(rows: int, hidden_size: int) -> Parameter:
    """A ``scale_shift_table`` (rows, D): what a block adds to the modulation that the timestep gives to all blocks."""
    return Parameter(initializer(Normal(1 / math.sqrt(hidden_size)), (rows, hidden_size), ms.float32))


class FinalLayer(nn.Cell):
    """Norm, modulation and projection of tokens to patches: (B, T, S, D) → (B, T, S, P).

    Where a frames mask is given, its False frames take the modulation of timestep 0, applied to the norm of what the
    other modulation gave. Normalising twice is a slip of the original that its weights were trained with.
    """

    def __init__(self, hidden_size: int, patch_values: int):
        super().__init__()
        self.linear = Linear(hidden_size, patch_values)
        self.scale_shift_table = modulation_table(2, hidden_size)

    def construct(self, x: Tensor, t: Tensor, frames_mask: Tensor | None = None, t0: Tensor | None = None) -> Tensor:
        """t, t0 (B, D): embeddings of the timestep and of timestep 0; ``frames_mask`` (B, T) bool."""
        x = self._modulated(x, t)
        if frames_mask is not None:
            x = ops.where(frames_mask[:, :, None, None], x, self._modulated(x, t0))
        return self.linear(x)

    def _modulated(self, x: Tensor, t: Tensor) -> Tensor:
        vectors = F.cast(t, ms.float32)[:, None, None, :] + self.scale_shift_table
        shift, scale = ops.split(vectors, 1, 2)
        return F.modulated_norm(x, shift, scale)


def refuse_sharing(parallel: nn.Cell | None, network: str) -> None:
    """Refuses ranks that share a video, for networks that attend among all its tokens.

    Raises:
        UserError: there is a strategy of sharing.
    """
    if parallel is not None:
        raise UserError(f"ranks cannot share a video of {network}; leave out enable_sequence_parallelism and dsp")


def unpatchify(x: Tensor, grid: tuple[int, int, int], patch_size: tuple[int, int, int]) -> Tensor:
    """Patches (B, T', S', pt*ph*pw*C), channels fastest, of a (T', H', W') grid → (B, C, T'*pt, H'*ph, W'*pw)."""
    (frames, height, width), (pt, ph, pw) = grid, patch_size
    channels = x.shape[-1] // (pt * ph * pw)
    x = x.reshape(x.shape[0], frames, height, width, pt, ph, pw, channels).transpose(0, 7, 1, 4, 2, 5, 3, 6)
    return x.reshape(x.shape[0], channels, frames * pt, height * ph, width * pw)


def tile_batch(x: Tensor, batch: int) -> Tensor:
    """Repeats whole ``x`` along axis 0 up to ``batch`` rows: a mask of one half serves both halves of guidance."""
    if x.shape[0] == batch:
        return x
    return ops.tile(x, (batch // x.shape[0],) + (1,) * (x.ndim - 1))


def add_branch(x: Tensor, gate: Tensor, y: Tensor | None, branch: Tensor | None) -> tuple[Tensor, Tensor]:
    """``x`` with a gated branch added, and that branch: ``gate * y``, or the ``branch`` of an earlier step as it is."""
    if branch is not None:
        return x + branch, branch
    return F.gated_sum(x, gate, y), F.gated_sum(ops.zeros_like(x), gate, y)


def branches_of(branches: tuple, block: int) -> tuple:
    """A block's own of kept branches, which have a tuple of all blocks per kind, or an empty one: None for that."""
    found = ()
    for kind in branches:
        found += (kind[block] if len(kind) else None,)
    return found


def unpack_text(packed: Tensor, lengths: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Captions that lie one after another, as rows: (1, sum of lengths, D) → (B, longest, D) and its mask (B, longest).

    Args:
        lengths: (B,) int, tokens of each caption.
        longest: rows are cut or padded to this many tokens.
    """
    position = ops.arange(longest).reshape(1, -1)
    ends = ops.cumsum(F.cast(lengths, ms.int32), 0).reshape(-1, 1)
    lengths = F.cast(lengths, ms.int32).reshape(-1, 1)
    index = ops.minimum(ends - lengths + position, packed.shape[1] - 1)
    return ops.gather(packed[0], index, 0), position < lengths
