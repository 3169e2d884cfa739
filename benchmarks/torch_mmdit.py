"""PyTorch versions of the 2.0 denoiser and of CLIP's text transformer, with the published parameter names.

Like `torch_reference`, they are plain eager PyTorch and the other side of `bench.py` only.

Legend: B batch, N tokens, L text tokens, D hidden size, h heads, d head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_reference import gelu_mlp, modulate, sinusoid

# --- CLIP ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CLIPSettings:
    """Sizes of the text transformer."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77


class CLIPLayer(nn.Module):
    """Pre-norm causal attention and MLP with x * sigmoid(1.702 x)."""

    def __init__(self, config: CLIPSettings):
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.self_attn = nn.ModuleDict({f"{name}_proj": nn.Linear(width, width) for name in ("q", "k", "v", "out")})
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = gelu_mlp(width, config.intermediate_size, width)

    def forward(self, x: Tensor) -> Tensor:
        y, attention = self.layer_norm1(x), self.self_attn
        q, k, v = (attention[f"{n}_proj"](y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for n in "qkv")
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attention["out_proj"](out.transpose(1, 2).flatten(2))
        hidden = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](hidden * torch.sigmoid(1.702 * hidden))


class CLIPText(nn.Module):
    """Token ids (B, L) -> hidden states (B, L, D), vectors (B, D) at the largest id."""

    def __init__(self, config: CLIPSettings):
        super().__init__()
        width = config.hidden_size
        self.text_model = nn.Module()
        self.text_model.embeddings = nn.ModuleDict(
            {
                "token_embedding": nn.Embedding(config.vocab_size, width),
                "position_embedding": nn.Embedding(config.max_position_embeddings, width),
            }
        )
        self.text_model.encoder = nn.Module()
        self.text_model.encoder.layers = nn.ModuleList(CLIPLayer(config) for _ in range(config.num_hidden_layers))
        self.text_model.final_layer_norm = nn.LayerNorm(width)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        model = self.text_model
        positions = model.embeddings["position_embedding"].weight[: input_ids.shape[1]]
        x = model.embeddings["token_embedding"](input_ids) + positions
        for layer in model.encoder.layers:
            x = layer(x)
        x = model.final_layer_norm(x)
        return x, x[torch.arange(len(x)), input_ids.argmax(1)]


# --- MMDiT -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MMDiTSettings:
    """Constructor arguments of the 2.0 denoiser with split matrices and channels rotated in halves."""

    in_channels: int = 64
    vec_in_dim: int = 768
    context_in_dim: int = 4096
    hidden_size: int = 3072
    mlp_ratio: float = 4.0
    num_heads: int = 24
    depth: int = 19
    depth_single_blocks: int = 38
    axes_dim: Sequence[int] = (16, 56, 56)
    theta: float = 10000.0
    patch_size: int = 2


class HeadNorms(nn.Module):
    """RMS norms of queries and keys (B, h, N, d)."""

    def __init__(self, size: int):
        super().__init__()
        for name in ("query_norm", "key_norm"):
            self.add_module(name, nn.ParameterDict({"scale": nn.Parameter(torch.ones(size))}))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        norms = ((q, self.query_norm["scale"]), (k, self.key_norm["scale"]))
        return tuple(F.rms_norm(x, x.shape[-1:], scale, 1e-6) for x, scale in norms)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin) for the halves of (B, h, N, d)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def joint_attention(q: Tensor, k: Tensor, v: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """(B, h, N, d) -> (B, N, D)."""
    q, k = rotate_halves(q, *rope), rotate_halves(k, *rope)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Stream(nn.Module):
    """Projections of one stream."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.norm = HeadNorms(width // heads)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in projections)
        return *self.norm(q, k), v


class DoubleBlock(nn.Module):
    """Image and text tokens with one attention."""

    def __init__(self, config: MMDiTSettings):
        super().__init__()
        width, hidden = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        for name in ("img", "txt"):
            mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
            self.add_module(f"{name}_mod", nn.ModuleDict({"lin": nn.Linear(width, 6 * width)}))
            self.add_module(f"{name}_attn", Stream(width, config.num_heads))
            self.add_module(f"{name}_mlp", mlp)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        img_mod = self.img_mod["lin"](vec)[:, None].chunk(6, -1)
        txt_mod = self.txt_mod["lin"](vec)[:, None].chunk(6, -1)
        text = self.txt_attn(modulate(txt, *txt_mod[:2]))
        image = self.img_attn(modulate(img, *img_mod[:2]))
        out = joint_attention(*(torch.cat(pair, 2) for pair in zip(text, image)), rope)
        txt_out, img_out = out.split([txt.shape[1], img.shape[1]], 1)
        img = img + img_mod[2] * self.img_attn.proj(img_out)
        img = img + img_mod[5] * self.img_mlp(modulate(img, *img_mod[3:5]))
        txt = txt + txt_mod[2] * self.txt_attn.proj(txt_out)
        return img, txt + txt_mod[5] * self.txt_mlp(modulate(txt, *txt_mod[3:5]))


class SingleBlock(nn.Module):
    """Attention and MLP side by side."""

    def __init__(self, config: MMDiTSettings):
        super().__init__()
        width, hidden, self.heads = config.hidden_size, int(config.hidden_size * config.mlp_ratio), config.num_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_mlp, self.linear2 = nn.Linear(width, width + hidden), nn.Linear(width + hidden, width)
        self.norm = HeadNorms(width // config.num_heads)
        self.modulation = nn.ModuleDict({"lin": nn.Linear(width, 3 * width)})

    def forward(self, x: Tensor, vec: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        shift, scale, gate = self.modulation["lin"](vec)[:, None].chunk(3, -1)
        y, width = modulate(x, shift, scale), x.shape[-1]
        v, mlp = self.v_mlp(y).split([width, self.linear2.in_features - width], -1)
        parts = (self.q_proj(y), self.k_proj(y), v)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        out = joint_attention(*self.norm(q, k), v, rope)
        return x + gate * self.linear2(torch.cat([out, F.gelu(mlp, approximate="tanh")], -1))


class MMDiT(nn.Module):
    """Velocity of packed latents, with a condition and without guidance."""

    def __init__(self, config: MMDiTSettings):
        super().__init__()
        self.config, width = config, config.hidden_size
        self.img_in, self.txt_in = nn.Linear(config.in_channels, width), nn.Linear(config.context_in_dim, width)
        self.cond_in = nn.Linear(config.in_channels + config.patch_size**2, width)
        self.time_in, self.vector_in = self._embedder(256), self._embedder(config.vec_in_dim)
        self.double_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.depth))
        self.single_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.depth_single_blocks))
        parts = {"linear": nn.Linear(width, config.in_channels)}
        parts["adaLN_modulation"] = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final_layer = nn.ModuleDict(parts)

    def _embedder(self, size: int) -> nn.ModuleDict:
        width = self.config.hidden_size
        return nn.ModuleDict({"in_layer": nn.Linear(size, width), "out_layer": nn.Linear(width, width)})

    def forward(self, img, img_ids, txt, txt_ids, timesteps, y_vec, cond) -> Tensor:
        vec = sum(
            embedder["out_layer"](F.silu(embedder["in_layer"](x)))
            for embedder, x in ((self.time_in, sinusoid(1000 * timesteps)), (self.vector_in, y_vec))
        )
        rope = self._rope(torch.cat([txt_ids, img_ids], 1))
        img, txt, active = self.img_in(img) + self.cond_in(cond), self.txt_in(txt), F.silu(vec)
        for block in self.double_blocks:
            img, txt = block(img, txt, active, rope)
        x = torch.cat([txt, img], 1)
        for block in self.single_blocks:
            x = block(x, active, rope)
        shift, scale = self.final_layer["adaLN_modulation"](vec)[:, None].chunk(2, -1)
        return self.final_layer["linear"](modulate(x[:, txt.shape[1] :], shift, scale))

    def _rope(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (B, 1, N, d/2) of coordinates (B, N, axes)."""
        sizes, theta = self.config.axes_dim, self.config.theta
        angles = [
            ids[..., i, None] * theta ** (-torch.arange(0, size, 2).double() / size).float()
            for i, size in enumerate(sizes)
        ]
        angles = torch.cat(angles, -1)[:, None]
        return angles.cos(), angles.sin()
