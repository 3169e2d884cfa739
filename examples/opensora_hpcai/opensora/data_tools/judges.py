"""Scores by networks: how pleasing pictures are, and how well they match their texts, by CLIP."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindone.checkpoint import load_into, read_tensors
from mindone.errors import UserError
from mindone.models.aesthetic import AestheticHead
from mindone.models.clip_vision import CLIP, pixel_values
from opensora.text.tokenizer import TextTokenizer


class Judges:
    """CLIP, with the head of the aesthetic predictor if that is given.

    Raises:
        UserError: files are missing or do not fit.
    """

    def __init__(self, folder: str, head: str | None):
        config = Path(folder, "config.json")
        try:
            values = json.loads(config.read_text(encoding="utf-8"))
            self.clip = CLIP.from_dict(values)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{config} is not the config of a CLIP with both towers: {error}") from error
        _fill(self.clip, folder, ["text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"])
        self.tokenizer = TextTokenizer(folder, self.clip.text_config.max_position_embeddings)
        self.head = None
        if head is not None:
            self.head = AestheticHead(self.clip.vision_config.projection_dim)
            _fill(self.head, head)

    def vectors(self, frames: np.ndarray) -> np.ndarray:
        """CLIP's vectors of pictures (B, H, W, 3) uint8, (B, P) float32 of length 1."""
        return self.clip.of_pictures(Tensor(pixel_values(frames, self.clip.vision_config.image_size))).asnumpy()

    def aesthetic(self, vectors: np.ndarray) -> float:
        """The mean score of a video's frames, about 1 to 10."""
        return float(self.head(Tensor(vectors)).asnumpy().mean())

    def match(self, vectors: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """The scaled cosine of each picture and its text, (B,)."""
        ids, mask, _ = self.tokenizer(texts)
        words = self.clip.of_texts(Tensor(ids), Tensor(mask.astype(np.int32))).asnumpy()
        return (vectors * words).sum(-1) * float(np.exp(self.clip.logit_scale.asnumpy()))


def _fill(network, path: str, unused: Sequence[str] = ()) -> None:
    tensors = read_tensors(path)
    load_into(network, {name: tensors[name] for name in tensors if name not in unused})
    network.set_train(False)


@functools.cache
def judges(folder: str, head: str | None) -> Judges:
    """Those of a folder, loaded once in a process."""
    ms.set_context(mode=ms.GRAPH_MODE)
    return Judges(folder, head)
