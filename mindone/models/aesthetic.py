"""How pleasing a picture is, from its CLIP vector: the published head of the improved aesthetic predictor.

Five linear layers without activations (dropout lies between them in training), so the head is one affine map.

Legend: `V` videos, `F` frames of each, `P` size of a vector.
"""

from __future__ import annotations

from mindspore import Tensor, nn

from mindone.models.clip_vision import normalised
from mindone.nn.layers import Linear

WIDTHS = (1024, 128, 64, 16, 1)
PLACES = (0, 2, 4, 6, 7)
"""Of the linear layers among those of the published network, which counts dropout."""


class AestheticHead(nn.Cell):
    """Vectors of CLIP ViT-L/14 (V * F, P), of any length, to a score for each (V * F, 1), about 1 to 10."""

    def __init__(self, input_size: int = 768):
        super().__init__()
        cells: list[nn.Cell] = [nn.Identity() for _ in range(PLACES[-1] + 1)]
        for place, before, after in zip(PLACES, (input_size, *WIDTHS), WIDTHS):
            cells[place] = Linear(before, after)
        self.layers = nn.CellList(cells)

    def construct(self, vectors: Tensor) -> Tensor:
        x = normalised(vectors)
        for layer in self.layers:
            x = layer(x)
        return x

    def of_videos(self, vectors: Tensor, frames: int) -> Tensor:
        """The mean over the frames of each video, (V,); those of a video lie together."""
        return self(vectors).reshape(-1, frames).mean(1)
