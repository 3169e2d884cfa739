"""The video VQ-VAE that Open-Sora's first release compressed videos with: latents are rows of a codebook.

VideoGPT (arXiv:2104.10157). Parameter names are the published ones. Videos are (B, 3, T, H, W) in [-0.5, 0.5].

Legend: `B` batch, `C` channels, `E` embedding size, `K` codes, `M` places of a batch of latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, Uniform, initializer

from mindone.errors import UserError
from mindone.models.sizes import require_positive
from mindone.nn import functional as F
from mindone.nn.conv import Conv3d
from mindone.nn.kernels import kernels
from mindone.nn.layers import Linear
from opensora.models.discriminators import BatchNorm

HEADS = 2
# The variance of the data, by which squared errors are divided; the weight of the commitment; how fast codes follow.
DATA_VARIANCE, COMMITMENT, DECAY, LAPLACE = 0.06, 0.25, 0.99, 1e-7
# Noise of repeated candidates, over the root of E; codes with fewer rows than this are replaced.
TILE_NOISE, LEAST_ROWS = 0.01, 1.0

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class VQVAEConfig:
    """Constructor arguments of the published models; the defaults are those of VideoGPT's 2x4x4."""

    embedding_dim: int = 256
    n_codes: int = 2048
    n_hiddens: int = 240
    n_res_layers: int = 4
    downsample: Triple = (2, 4, 4)
    """Frames, height and width per latent, powers of 2, the largest at least 4."""
    sequence_length: int = 16
    resolution: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "downsample", tuple(self.downsample))
        require_positive(self, "embedding_dim", "n_codes", "n_hiddens", "n_res_layers", "downsample")
        if self.n_hiddens % (2 * HEADS):
            raise UserError(f"n_hiddens={self.n_hiddens} has to be divisible by {2 * HEADS}")
        if max(self.downsample) < 4 or any(factor & (factor - 1) for factor in self.downsample):
            raise UserError(f"downsample={list(self.downsample)} has to be powers of 2, the largest of them at least 4")

    @property
    def strides(self) -> list[Triple]:
        """Those of each convolution of the encoder, and of each transposed one of the decoder."""
        halvings = [int(math.log2(factor)) for factor in self.downsample]
        return [tuple(2 if count > index else 1 for count in halvings) for index in range(max(halvings))]


def _around(kernel: int, strides: Triple) -> tuple[tuple[int, int], ...]:
    """Padding before and after each axis: ``kernel - stride``, the larger half in front."""
    return tuple(((kernel - stride + 1) // 2, (kernel - stride) // 2) for stride in strides)


class SamePadConv3d(nn.Cell):
    """A convolution whose result is smaller by its stride and nothing else."""

    def __init__(self, ins: int, outs: int, kernel: int, strides: Triple = (1, 1, 1), has_bias: bool = True):
        super().__init__()
        self.conv = Conv3d(ins, outs, (kernel,) * 3, strides, _around(kernel, strides), has_bias)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class TransposedConv3d(nn.Cell):
    """A transposed convolution that crops ``kernel - 1`` on every side; ``weight`` (in, out, k, k, k), ``bias`` (out,).

    Written as the convolution of its input with zeros in between, and the kernel turned round.
    """

    def __init__(self, ins: int, outs: int, kernel: int, strides: Triple):
        super().__init__()
        self.strides = strides
        bound = Uniform(1 / math.sqrt(outs * kernel**3))
        self.weight = Parameter(initializer(bound, (ins, outs, kernel, kernel, kernel), ms.float32))
        self.bias = Parameter(initializer(bound, (outs,), ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        for axis, stride in zip((2, 3, 4), self.strides):
            if stride > 1:
                x = _spread(x, axis, stride)
        weight = ops.flip(self.weight, (2, 3, 4)).swapaxes(0, 1)
        return kernels().convolution(x, weight, self.bias, (1, 1, 1), ((0, 0),) * 3, 1, False)


def _spread(x: Tensor, axis: int, stride: int) -> Tensor:
    """``stride - 1`` zeros between neighbours along an axis."""
    lead, length, rest = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    flat = x.reshape(math.prod(lead), length, 1, math.prod(rest))
    filled = ops.concat((flat, *([ops.zeros_like(flat)] * (stride - 1))), 2).reshape(flat.shape[0], -1, flat.shape[-1])
    return filled[:, : (length - 1) * stride + 1].reshape(*lead, -1, *rest)


class SamePadTransposedConv3d(nn.Cell):
    """A transposed convolution whose result is larger by its stride and nothing else."""

    def __init__(self, ins: int, outs: int, kernel: int, strides: Triple):
        super().__init__()
        self.around = tuple(side for pair in reversed(_around(kernel, strides)) for side in pair)
        self.convt = TransposedConv3d(ins, outs, kernel, strides)

    def construct(self, x: Tensor) -> Tensor:
        return self.convt(ops.pad(x, self.around))


class AxisAttention(nn.Cell):
    """Two-headed attention along one axis of (B, T, H, W, C)."""

    def __init__(self, width: int, axis: int):
        super().__init__()
        self.axis = axis
        self.w_qs, self.w_ks, self.w_vs = (Linear(width, width, has_bias=False) for _ in range(3))
        self.fc = Linear(width, width)

    def construct(self, x: Tensor) -> Tensor:
        x = x.swapaxes(self.axis, 3)
        shape = x.shape
        rows = x.reshape(-1, shape[3], shape[4])
        heads = (rows.shape[0], shape[3], HEADS, shape[4] // HEADS)
        q, k, v = self.w_qs(rows).reshape(heads), self.w_ks(rows).reshape(heads), self.w_vs(rows).reshape(heads)
        return self.fc(F.attention(q, k, v).reshape(shape)).swapaxes(self.axis, 3)


class AxialAttention(nn.Cell):
    """The sum of attentions along width, height and time of (B, C, T, H, W)."""

    def __init__(self, width: int):
        super().__init__()
        self.attn_w, self.attn_h, self.attn_t = (AxisAttention(width, axis) for axis in (3, 2, 1))

    def construct(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 2, 3, 4, 1)
        return (self.attn_w(x) + self.attn_h(x) + self.attn_t(x)).transpose(0, 4, 1, 2, 3)


class AttentionResidualBlock(nn.Cell):
    """``x + block(x)``: two convolutions and axial attention, each behind a norm and a ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.block = nn.SequentialCell(
            BatchNorm(width),
            nn.ReLU(),
            SamePadConv3d(width, width // 2, 3, has_bias=False),
            BatchNorm(width // 2),
            nn.ReLU(),
            SamePadConv3d(width // 2, width, 1, has_bias=False),
            BatchNorm(width),
            nn.ReLU(),
            AxialAttention(width),
        )

    def construct(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def residual_stack(config: VQVAEConfig) -> nn.SequentialCell:
    blocks = [AttentionResidualBlock(config.n_hiddens) for _ in range(config.n_res_layers)]
    return nn.SequentialCell(*blocks, BatchNorm(config.n_hiddens), nn.ReLU())


class Encoder(nn.Cell):
    def __init__(self, config: VQVAEConfig):
        super().__init__()
        width = config.n_hiddens
        self.convs = nn.CellList(
            [SamePadConv3d(width if index else 3, width, 4, strides) for index, strides in enumerate(config.strides)]
        )
        self.conv_last = SamePadConv3d(width, width, 3)
        self.res_stack = residual_stack(config)

    def construct(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = ops.relu(conv(x))
        return self.res_stack(self.conv_last(x))


class Decoder(nn.Cell):
    def __init__(self, config: VQVAEConfig):
        super().__init__()
        width, last = config.n_hiddens, len(config.strides) - 1
        self.res_stack = residual_stack(config)
        self.convts = nn.CellList(
            [
                SamePadTransposedConv3d(width, 3 if index == last else width, 4, strides)
                for index, strides in enumerate(config.strides)
            ]
        )

    def construct(self, x: Tensor) -> Tensor:
        x = self.res_stack(x)
        for index, conv in enumerate(self.convts):
            x = conv(ops.relu(x) if index else x)
        return x


class Codebook(nn.Cell):
    """K vectors (K, E), and moving averages of how many places chose each, ``N``, and of their sum, ``z_avg``."""

    def __init__(self, n_codes: int, embedding_dim: int):
        super().__init__()
        vectors = initializer(Normal(1.0), (n_codes, embedding_dim), ms.float32)
        self.embeddings = Parameter(vectors, requires_grad=False)
        self.N = Parameter(initializer("zeros", (n_codes,), ms.float32), requires_grad=False)
        self.z_avg = Parameter(initializer(Normal(1.0), (n_codes, embedding_dim), ms.float32), requires_grad=False)

    def construct(self, z: Tensor) -> Tensor:
        """The nearest code of each place: (B, E, t, h, w) → (B, t, h, w) int32."""
        rows = z.transpose(0, 2, 3, 4, 1).reshape(-1, z.shape[1])
        table = ops.stop_gradient(self.embeddings)
        distances = ops.square(table).sum(1)[None] - 2 * ops.matmul(rows, table.T)
        return ops.argmin(distances, 1).astype(ms.int32).reshape(z.shape[0], *z.shape[2:])

    def vectors(self, codes: Tensor) -> Tensor:
        """(B, t, h, w) → (B, E, t, h, w)."""
        return ops.gather(self.embeddings, codes, 0).transpose(0, 4, 1, 2, 3)

    # --- training, on the host ---------------------------------------------------------------------------------------

    def begin(self, z: np.ndarray, permutation: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Fills the codebook from the first batch (B, E, t, h, w); the other arguments are those of `candidates`."""
        chosen = self.candidates(z, permutation, noise)
        for parameter, values in ((self.embeddings, chosen), (self.z_avg, chosen), (self.N, np.ones(len(chosen)))):
            parameter.set_data(Tensor(values.astype(np.float32)))

    def follow(
        self, z: np.ndarray, codes: np.ndarray, permutation: np.ndarray, noise: np.ndarray | None = None
    ) -> None:
        """Moves codes to the means of the places that chose them; those that hardly any chose begin anew.

        Args:
            z: (B, E, t, h, w) before quantisation.
            codes: (B, t, h, w) what they chose.
            permutation, noise: see `candidates`.
        """
        rows, count = _rows(z), len(self.N)
        chosen = codes.reshape(-1)
        sums = np.zeros((count, rows.shape[1]), np.float32)
        np.add.at(sums, chosen, rows)
        decay, rest = np.float32(DECAY), np.float32(1 - DECAY)
        found = np.bincount(chosen, minlength=count).astype(np.float32)
        numbers = self.N.asnumpy() * decay + found * rest
        means = self.z_avg.asnumpy() * decay + sums * rest
        total = numbers.sum()
        weights = (numbers + np.float32(LAPLACE)) / (total + np.float32(count * LAPLACE)) * total
        vectors = means / weights[:, None]
        vectors = np.where((numbers >= LEAST_ROWS)[:, None], vectors, self.candidates(z, permutation, noise))
        for parameter, values in ((self.N, numbers), (self.z_avg, means), (self.embeddings, vectors)):
            parameter.set_data(Tensor(values.astype(np.float32)))

    def candidates(self, z: np.ndarray, permutation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """A place of ``z`` for each code, (K, E).

        Args:
            permutation: (M,) of the places; of M' >= K repeated places if there are fewer than codes.
            noise: (M', E) standard normal, for repeated places only.
        """
        rows = _rows(z)
        if len(rows) < len(self.N):
            rows = np.tile(rows, (-(-len(self.N) // len(rows)), 1))
            rows = rows + noise * np.float32(TILE_NOISE / math.sqrt(rows.shape[1]))
        return rows[permutation[: len(self.N)]]


def _rows(z: np.ndarray) -> np.ndarray:
    return z.transpose(0, 2, 3, 4, 1).reshape(-1, z.shape[1])


class VQVAE(nn.Cell):
    """The autoencoder; the codebook is no parameter of gradients, it follows the encoder (`Codebook.follow`)."""

    def __init__(self, config: VQVAEConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.pre_vq_conv = SamePadConv3d(config.n_hiddens, config.embedding_dim, 1)
        self.post_vq_conv = SamePadConv3d(config.embedding_dim, config.n_hiddens, 1)
        self.codebook = Codebook(config.n_codes, config.embedding_dim)

    def continuous(self, x: Tensor) -> Tensor:
        """Latents (B, E, t, h, w) before quantisation."""
        return self.pre_vq_conv(self.encoder(x))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, t, h, w), and their vectors (B, E, t, h, w), which are what a denoiser learns."""
        codes = self.codebook(self.continuous(x))
        return codes, self.codebook.vectors(codes)

    def decode(self, latents: Tensor) -> Tensor:
        """Videos of latents (B, E, t, h, w), which are taken as they are: nothing is quantised again."""
        return self.decoder(self.post_vq_conv(latents))

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        """Reconstruction, its loss, the commitment's loss, perplexity, latents before quantisation, codes.

        The gradient of the quantised latents goes to those before, as it is (straight-through).
        """
        z = self.continuous(x)
        codes = self.codebook(z)
        vectors = self.codebook.vectors(codes)
        reconstruction = self.decode(z + ops.stop_gradient(vectors - z))
        commitment = COMMITMENT * ops.square(z - vectors).mean()
        error = ops.square(reconstruction - x).mean() / DATA_VARIANCE
        return reconstruction, error, commitment, self._perplexity(codes), z, codes

    def _perplexity(self, codes: Tensor) -> Tensor:
        """How many codes are in use: the exponential of the entropy of their shares."""
        chosen = codes.reshape(-1, 1) == ops.arange(self.config.n_codes).reshape(1, -1)
        shares = chosen.astype(ms.float32).mean(0)
        return ops.exp(-(shares * ops.log(shares + 1e-10)).sum())
