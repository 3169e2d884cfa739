"""Videos of any shape as sequences of patches of one length (FiT, arXiv:2402.12376): one graph for all shapes.

The patches of a frame lie in a row, as latents that are one patch high, and what is missing up to the longest row is
filled with zeros that nothing attends to. Positions come from outside, so that a network computes the same as it does
for the video itself.

Legend: `B` batch, `C` channels, `T` frames, `H`/`W` latent height and width, `S` patches of the longest row, `D` hidden
size, `ph`/`pw` height and width of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindone.errors import UserError
from mindone.nn.embeddings import position_table_2d
from opensora.models.stdit2 import STDiT2
from opensora.models.stdit_base import LATENT_PIXELS

if TYPE_CHECKING:
    from opensora.models.stdit2 import STDiT2Config

# The conditions that rows add to those of a video.
POSITIONS, PATCHES = "spatial_pos", "spatial_mask"


class PackedDenoiser(nn.Cell):
    """An STDiT2 that takes positions and which patches there are among the conditions of a batch."""

    takes_frames_mask = True
    condition_names = (*STDiT2.condition_names, POSITIONS, PATCHES)

    def __init__(self, denoiser: STDiT2):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
        self.y_embedder = denoiser.y_embedder

    def construct(
        self, x, timestep, y, mask, x_mask, num_frames, height, width, ar, fps, spatial_pos, spatial_mask, drop
    ):
        return self.denoiser(
            x, timestep, y, mask, x_mask, num_frames, height, width, ar, fps, drop, spatial_pos, spatial_mask
        )


def packing_of(network: STDiT2Config, max_image_size: int) -> Packing:
    """Rows for a network with this config that have room for a square frame of ``max_image_size`` pixels."""
    return Packing(network.patch_size, network.hidden_size, network.input_sq_size, max_image_size)


@dataclass(frozen=True)
class Packing:
    """How latents become rows of patches.

    Args:
        patch: frames, height and width of a patch, in latents.
        hidden_size, input_sq_size: of the network, for positions.
        max_image_size: side in pixels, 8 per latent, of the square frame that has the most patches.
    """

    patch: tuple[int, int, int]
    hidden_size: int
    input_sq_size: int
    max_image_size: int

    @property
    def length(self) -> int:
        """Patches of a row."""
        sides = (-(-self.max_image_size // (LATENT_PIXELS * size)) for size in self.patch[1:])
        return math.prod(sides)

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Patches along H and W.

        Raises:
            UserError: more than a row has.
        """
        rows, columns = (-(-side // patch) for side, patch in zip(size[-2:], self.patch[1:]))
        if rows * columns > self.length:
            needed = LATENT_PIXELS * max(self.patch[1:]) * math.ceil(math.sqrt(rows * columns))
            raise UserError(
                f"max_image_size={self.max_image_size} has room for {self.length} patches, and the video has "
                f"{rows}x{columns} in a frame; use max_image_size {needed} or more"
            )
        return rows, columns

    def pack(self, latents: np.ndarray) -> np.ndarray:
        """(B, C, T, H, W) → (B, C, T, ph, S * pw), zeros behind the last patch."""
        (rows, columns), (_, high, wide) = self.grid(latents.shape), self.patch
        batch, channels, frames, height, width = latents.shape
        rest = ((0, 0), (0, 0), (0, 0), (0, rows * high - height), (0, columns * wide - width))
        patches = np.pad(latents, rest).reshape(batch, channels, frames, rows, high, columns, wide)
        row = patches.swapaxes(3, 4).reshape(batch, channels, frames, high, rows * columns * wide)
        return np.pad(row, ((0, 0),) * 4 + ((0, self.length * wide - row.shape[-1]),))

    def unpack(self, row: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """What `pack` made, or a network of it, as (B, C', T, H, W); ``size`` ends with H and W."""
        (rows, columns), (_, high, wide) = self.grid(size), self.patch
        batch, channels, frames = row.shape[:3]
        patches = row[..., : rows * columns * wide].reshape(batch, channels, frames, high, rows, columns, wide)
        latents = patches.swapaxes(3, 4).reshape(batch, channels, frames, rows * high, columns * wide)
        return latents[..., : size[-2], : size[-1]]

    def conditions(self, size: Sequence[int], height: int, width: int, batch: int) -> dict[str, np.ndarray]:
        """``spatial_pos`` (B, S, D), as the network has them for a video of this size, and ``spatial_mask`` (B, S), 1
        where there is a patch.

        Args:
            size: of the latents, ends with H and W.
            height, width: in pixels.
        """
        rows, columns = self.grid(size)
        count = rows * columns
        scale = Tensor(math.sqrt(height * width) / self.input_sq_size, ms.float32)
        table = position_table_2d(rows, columns, self.hidden_size, scale, round(math.sqrt(count))).asnumpy()
        positions = np.zeros((batch, self.length, self.hidden_size), np.float32)
        positions[:, :count] = table
        mask = np.zeros((batch, self.length), np.float32)
        mask[:, :count] = 1
        return {POSITIONS: positions, PATCHES: mask}
