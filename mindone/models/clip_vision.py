"""The vision transformer of CLIP, and both towers together: pictures and texts as vectors of one space.

Radford et al. 2021 (arXiv:2103.00020). Parameter names are those of the hub's CLIPVisionModelWithProjection and
CLIPModel.

Legend: `B` batch, `H`/`W` height/width, `N` patches and the class token, `D` hidden size, `P` size of the common space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer
from PIL import Image

from mindone.errors import UserError
from mindone.models.clip import CLIPBlocks, CLIPTextConfig, CLIPTextTransformer, require_heads
from mindone.models.sizes import known_entries
from mindone.nn import functional as F
from mindone.nn.conv import Conv2d
from mindone.nn.layers import Embedding, LayerNorm, Linear

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours in [0, 1] of the pictures that CLIP was trained on."""
FIRST_LOGIT_SCALE = 2.6592
"""Logarithm of 1 / 0.07."""


@dataclass(frozen=True)
class CLIPVisionConfig:
    """Sizes by the names of the hub's config.json; the defaults are the vision half of CLIP ViT-L/14."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    projection_dim: int = 768
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        require_heads(self)
        if self.image_size % self.patch_size:
            raise UserError(f"image_size={self.image_size} is not divisible by patch_size={self.patch_size}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPVisionConfig:
        """The config from the entries of a config.json, of the vision model or of the whole CLIP."""
        common = {"projection_dim": values["projection_dim"]} if "projection_dim" in values else {}
        own = {**(values.get("vision_config") or values), **common}
        return cls(**known_entries(cls, own))


def pixel_values(frames: np.ndarray, size: int) -> np.ndarray:
    """Pictures (B, H, W, 3) uint8 as CLIP sees them: (B, 3, size, size) float32.

    As published: the shorter side is resized to ``size`` (bicubic), the centre is cropped, colours are normalised.
    """
    found = []
    for frame in frames:
        height, width = frame.shape[:2]
        scale = size / min(height, width)
        scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
        picture = Image.fromarray(frame).resize(scaled, Image.Resampling.BICUBIC)
        left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        found.append(np.asarray(picture.crop((left, top, left + size, top + size)), np.float32) / 255)
    values = (np.stack(found) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def normalised(x: Tensor) -> Tensor:
    """Vectors of length 1, (..., P)."""
    return x / ops.sqrt(ops.square(x).sum(-1, keepdims=True))


class CLIPVisionEmbeddings(nn.Cell):
    """A token for each patch behind the class token, plus positions: (B, 3, H, W) → (B, N, D) float32."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        width, patches = config.hidden_size, (config.image_size // config.patch_size) ** 2
        self.class_embedding = Parameter(initializer(Normal(width**-0.5), (width,), ms.float32))
        self.patch_embedding = Conv2d(3, width, config.patch_size, config.patch_size, has_bias=False)
        self.position_embedding = Embedding(patches + 1, width)

    def construct(self, pixels: Tensor) -> Tensor:
        patches = F.cast(self.patch_embedding(pixels), ms.float32)
        batch, width = patches.shape[:2]
        tokens = patches.reshape(batch, width, -1).transpose(0, 2, 1)
        first = ops.broadcast_to(self.class_embedding.reshape(1, 1, -1), (batch, 1, width))
        x = ops.concat((first, tokens), 1)
        return x + F.cast(self.position_embedding(Tensor(np.arange(x.shape[1], dtype=np.int32))), ms.float32)


class CLIPVisionTransformer(nn.Cell):
    """Pictures (B, 3, H, W) to hidden states (B, N, D), which have no final norm, and the class token's (B, D)."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.embeddings = CLIPVisionEmbeddings(config)
        # The published name lacks a letter.
        self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.encoder = CLIPBlocks(config)
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def construct(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.encoder(self.pre_layrnorm(self.embeddings(pixels)))
        return hidden, self.post_layernorm(hidden[:, 0])


class CLIPVisionProjection(nn.Cell):
    """Pictures (B, 3, H, W) to vectors of the common space (B, P), hidden states and pooled vectors."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.config = config
        self.vision_model = CLIPVisionTransformer(config)
        self.visual_projection = Linear(config.hidden_size, config.projection_dim, has_bias=False)

    def construct(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, pooled = self.vision_model(pixels)
        return self.visual_projection(pooled), hidden, pooled


class CLIP(nn.Cell):
    """Both towers. Their vectors are of length 1; the cosines of matching ones are scaled by ``exp(logit_scale)``."""

    def __init__(self, text: CLIPTextConfig, vision: CLIPVisionConfig):
        super().__init__()
        self.text_config, self.vision_config = text, vision
        self.text_model = CLIPTextTransformer(text)
        self.text_projection = Linear(text.hidden_size, vision.projection_dim, has_bias=False)
        self.vision_model = CLIPVisionTransformer(vision)
        self.visual_projection = Linear(vision.hidden_size, vision.projection_dim, has_bias=False)
        self.logit_scale = Parameter(Tensor(FIRST_LOGIT_SCALE, ms.float32))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIP:
        """The network of the hub's config.json of a whole CLIP."""
        return cls(CLIPTextConfig.from_dict(values), CLIPVisionConfig.from_dict(values))

    def of_pictures(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) as `pixel_values` gives them → (B, P)."""
        return normalised(self.visual_projection(self.vision_model(pixels)[1]))

    def of_texts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L) token ids → (B, P)."""
        return normalised(self.text_projection(self.text_model(input_ids, attention_mask)[1]))

    def construct(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """How well each picture (B) matches the text of the same row: the scaled cosines (B,)."""
        cosines = (self.of_pictures(pixels) * self.of_texts(input_ids, attention_mask)).sum(-1)
        return ops.exp(self.logit_scale) * cosines
