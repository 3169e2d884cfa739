"""What a discriminator and an autoencoder are trained for against each other, see `opensora.models.discriminators`.

The losses are those of Open-Sora 1.2 to 2.0: the hinge and the logistic loss of GANs, the weight that makes both losses
of an autoencoder pull equally at its last layer (Esser et al., https://arxiv.org/abs/2012.09841), and two regularisers
of discriminators, which the published recipes leave off: LeCam (https://arxiv.org/abs/2104.03310) and the gradient
penalty (https://arxiv.org/abs/1704.00028).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindone import runtime
from mindone.adapters.dropout import PRIME
from opensora.models.discriminators import Discriminator
from opensora.models.vae_loss import PixelLoss, VideoLoss

DiscriminatorLossKind = Literal["hinge", "vanilla", "non-saturating", "wgan-gp"]
GeneratorLossKind = Literal["hinge", "non-saturating"]

LARGEST_WEIGHT, EPS = 1e4, 1e-4
"""Of the adaptive weight."""
PENALTY = 10.0
"""Weight of the gradient penalty."""


def softplus(x: Tensor) -> Tensor:
    """``log(1 + e^x)``, without an overflow."""
    return ops.relu(x) + ops.log(1.0 + ops.exp(-ops.abs(x)))


def discriminator_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """Half of what the logits of real and of reconstructed videos lose; ``kind`` is a `DiscriminatorLossKind`."""
    if kind == "hinge":
        return 0.5 * (ops.relu(1.0 - real).mean() + ops.relu(1.0 + fake).mean())
    if kind == "wgan-gp":
        return 0.5 * (fake.mean() - real.mean())
    # The same for both names: the cross-entropy of logits.
    return 0.5 * (softplus(-real).mean() + softplus(fake).mean())


def generator_loss(fake: Tensor, kind: str) -> Tensor:
    """What reconstructed videos lose that are taken for such; ``kind`` is a `GeneratorLossKind`."""
    return -fake.mean() if kind == "hinge" else softplus(-fake).mean()


def adaptive_weight(nll_gradient: Tensor, generator_gradient: Tensor, factor: float = 1.0) -> Tensor:
    """``factor`` times the ratio of the norms of both losses' gradients at the autoencoder's last layer, clamped."""
    ratio = _norm(nll_gradient) / (_norm(generator_gradient) + EPS)
    return factor * ops.clamp(ratio, 0.0, LARGEST_WEIGHT)


def _norm(x: Tensor) -> Tensor:
    return ops.sqrt(ops.square(x).sum())


@dataclass
class LeCam:
    """Averages of the mean logits over the updates, which a regulariser holds those of the other kind to."""

    real: float = 0.0
    fake: float = 0.0
    decay: float = 0.999

    def update(self, real: float, fake: float) -> None:
        """Takes in the mean logits of an update."""
        self.real = self.decay * self.real + (1 - self.decay) * real
        self.fake = self.decay * self.fake + (1 - self.decay) * fake


def lecam_loss(real: Tensor, fake: Tensor, average_real: Tensor, average_fake: Tensor) -> Tensor:
    """LeCam's regulariser of logits, whose averages are numbers of `LeCam`; the caller weighs it."""
    above = ops.square(ops.relu(real.mean() - average_fake))
    return above + ops.square(ops.relu(average_real - fake.mean()))


class SlopeOfLogits(nn.Cell):
    """The gradient of the sum of a discriminator's logits for videos, of their shape; nothing is left out at random."""

    def __init__(self, discriminator: Discriminator):
        super().__init__(auto_prefix=False)
        self.discriminator = discriminator
        self.gradient = ops.GradOperation()

    def construct(self, x: Tensor) -> Tensor:
        def total(video):
            return self.discriminator.tangent(video, ops.zeros_like(video))[0].sum()

        return self.gradient(total)(x)


def penalty_direction(slope: np.ndarray) -> tuple[float, np.ndarray]:
    """The gradient penalty of slopes (B, ...), and the direction along which the logits' change is its gradient.

    With the slopes ``g`` the penalty is the mean over rows of ``10 (|g| - 1)^2``. Its gradient by the weights is that
    of ``g . v`` for the fixed ``v = 20 (|g| - 1) / |g| g / B``, and ``g . v`` is how the sum of the logits changes
    along ``v``: the discriminator's `tangent`. So no second derivative is needed.
    """
    rows = slope.reshape(len(slope), -1).astype(np.float64)
    lengths = np.maximum(np.sqrt(np.square(rows).sum(1)), 1e-12)
    factors = 2 * PENALTY * (lengths - 1) / lengths / len(slope)
    direction = (rows * factors[:, None]).reshape(slope.shape).astype(np.float32)
    return float(PENALTY * np.square(lengths - 1).mean()), direction


class GeneratorLoss(nn.Cell):
    """The loss of an autoencoder, plus a weight times what its reconstruction loses before a discriminator."""

    def __init__(self, loss: PixelLoss | VideoLoss, discriminator: Discriminator, kind: str):
        super().__init__(auto_prefix=False)
        self.loss, self.discriminator, self.kind = loss, discriminator, kind

    def construct(self, weight: Tensor, x: Tensor, noise: Tensor) -> tuple[Tensor, tuple]:
        error, rest, parts, reconstruction = self.loss.reconstructed(x, noise)
        judged = generator_loss(self.discriminator(reconstruction), self.kind)
        return error + rest + weight * judged, (*parts, judged)


class _OneTerm(nn.Cell):
    """The term of the reconstruction, or of the judgement; and the reconstruction itself."""

    def __init__(self, loss: PixelLoss | VideoLoss, discriminator: Discriminator | None, kind: str):
        super().__init__(auto_prefix=False)
        self.loss, self.discriminator, self.kind = loss, discriminator, kind

    def construct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        error, _, _, reconstruction = self.loss.reconstructed(x, noise)
        if self.discriminator is not None:
            error = generator_loss(self.discriminator(reconstruction, False), self.kind)
        return error, reconstruction


class Probe(nn.Cell):
    """The weight of the judgement for a batch, and its reconstruction: ``(x, noise) -> (weight, published, video)``.

    Only gradients at ``last_layer``, a parameter of the autoencoder, are computed. The ``published`` weight is that of
    the published loss, a sum over a frame; `opensora.models.vae_loss` divides that, and ``weight`` likewise.
    """

    def __init__(
        self,
        loss: PixelLoss | VideoLoss,
        discriminator: Discriminator,
        kind: str,
        last_layer: Parameter,
        factor: float,
    ):
        super().__init__(auto_prefix=False)
        self.factor = factor
        self.of_pixels = ops.value_and_grad(_OneTerm(loss, None, kind), None, [last_layer], has_aux=True)
        self.of_judgement = ops.value_and_grad(_OneTerm(loss, discriminator, kind), None, [last_layer], has_aux=True)

    def construct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (_, reconstruction), pixels = self.of_pixels(x, noise)
        _, judgement = self.of_judgement(x, noise)
        values = x.shape[1] * x.shape[3] * x.shape[4]
        published = adaptive_weight(values * pixels[0], judgement[0], self.factor)
        return published / values, published, reconstruction


class DiscriminatorJudgement(nn.Cell):
    """The loss of a discriminator, and as further values the mean logits of real and of reconstructed videos.

    Args:
        lecam, penalty: weights of the two regularisers.
        lecam_decay: of the averages.
    """

    def __init__(self, discriminator: Discriminator, kind: str, lecam: float, penalty: float, lecam_decay: float):
        super().__init__(auto_prefix=False)
        self.discriminator, self.kind = discriminator, kind
        self.lecam, self.penalty, self.decay = lecam, penalty, lecam_decay

    def construct(self, real: Tensor, fake: Tensor, averages: Tensor, *direction: Tensor) -> tuple[Tensor, tuple]:
        """``averages`` (2,) are those of `LeCam` before this update; ``direction`` is that of `penalty_direction`."""
        of_real, of_fake = self.discriminator(real), self.discriminator(fake)
        loss = discriminator_loss(of_real, of_fake, self.kind)
        means = (ops.stop_gradient(of_real.mean()), ops.stop_gradient(of_fake.mean()))
        if self.lecam:
            average_real = self.decay * averages[0] + (1.0 - self.decay) * means[0]
            average_fake = self.decay * averages[1] + (1.0 - self.decay) * means[1]
            loss = loss + self.lecam * lecam_loss(of_real, of_fake, average_real, average_fake)
        if self.penalty:
            loss = loss + self.penalty * self.discriminator.tangent(real, direction[0])[1].sum()
        return loss, means


class Regularisers:
    """What `DiscriminatorJudgement` takes beside videos, for `mindone.train.adversarial.AdversarialStep`.

    What dropout leaves out is a function of ``seed``, the update and its phase: the same for real videos and their
    reconstructions.
    """

    def __init__(self, discriminator: Discriminator, penalty: float, averages: LeCam, seed: int):
        self.averages, self.penalty = averages, penalty
        self.seeds, self.seed = discriminator.seeds, seed
        self.frames_are_rows = discriminator.config.kind == "2d"
        self.slope = SlopeOfLogits(discriminator)
        self.slope.set_train(True)

    def before(self, update: int, phase: str) -> None:
        if self.seeds is not None:
            drawn = runtime.stream(self.seed, "discriminator", phase, update).integers(0, PRIME, 2)
            self.seeds.set_data(Tensor(drawn.astype(np.int32)))

    def extras(self, real: Tensor) -> tuple[Tensor, ...]:
        averages = Tensor(np.array([self.averages.real, self.averages.fake], np.float32))
        if not self.penalty:
            return (averages,)
        slope = self.slope(real).asnumpy()
        if not self.frames_are_rows:
            return averages, Tensor(penalty_direction(slope)[1])
        frames = slope.swapaxes(1, 2)
        direction = penalty_direction(frames.reshape(-1, *frames.shape[2:]))[1].reshape(frames.shape)
        return averages, Tensor(np.ascontiguousarray(direction.swapaxes(1, 2)))

    def after(self, aux: Sequence[float]) -> None:
        self.averages.update(aux[0], aux[1])

    def state(self) -> dict[str, float]:
        return {"lecam_real": self.averages.real, "lecam_fake": self.averages.fake}

    def load_state(self, numbers: Mapping[str, float]) -> None:
        self.averages.real = numbers.get("lecam_real", 0.0)
        self.averages.fake = numbers.get("lecam_fake", 0.0)
