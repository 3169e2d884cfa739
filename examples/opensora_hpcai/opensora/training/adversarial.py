"""The adversarial stage of an autoencoder: a discriminator, and the step that trains both."""

from __future__ import annotations

from dataclasses import replace

from mindspore import Parameter

from mindone.config import typed_entries
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh
from mindone.train.adversarial import AdversarialStep
from mindone.train.step import TrainStep
from opensora.config.vae import TrainVaeConfig, VaeLoss
from opensora.models.adversarial import DiscriminatorJudgement, GeneratorLoss, LeCam, Probe, Regularisers
from opensora.models.autoencoder import Autoencoder
from opensora.models.discriminators import Discriminator, DiscriminatorConfig, build_discriminator, require_size
from opensora.models.vae_loss import PixelLoss, VideoLoss
from opensora.models.vae_v1_2 import VideoAutoencoder
from opensora.training.run import make_step

PARTS = ("generator", "weight", "discriminator", "real_logits", "fake_logits")
"""What the log has beside the parts of the autoencoder's own loss."""


def make_adversarial_step(
    config: TrainVaeConfig, autoencoder: Autoencoder, loss: PixelLoss | VideoLoss, mesh: Mesh, seed: int
) -> AdversarialStep:
    """The step of both networks.

    Raises:
        UserError: a discriminator that cannot be, or one that cannot judge clips of this size.
    """
    settings, size = config.loss, (config.data.num_frames, config.data.image_size, config.data.image_size)
    described = discriminator_config(settings, size)
    for frames in _lengths(config):
        require_size(described, (frames, *size[1:]))
    discriminator = build_discriminator(described)
    discriminator.set_train(True)
    for parameter in discriminator.get_parameters():
        parameter.name = f"discriminator.{parameter.name}"
    generator = make_step(
        config.optimizer,
        config.model.dtype,
        autoencoder,
        GeneratorLoss(loss, discriminator, settings.generator_loss_type),
        mesh,
        trained=loss.trainable_params(),
        zero_stage=config.parallel.stage,
    )
    averages = LeCam()
    judgement = DiscriminatorJudgement(
        discriminator,
        settings.discriminator_loss_type,
        settings.lecam_loss_weight,
        settings.gradient_penalty_loss_weight,
        averages.decay,
    )
    return AdversarialStep(
        generator,
        _judge(config, discriminator, judgement, mesh),
        discriminator,
        Probe(loss, discriminator, settings.generator_loss_type, last_layer(autoencoder), settings.generator_factor),
        Regularisers(discriminator, settings.gradient_penalty_loss_weight, averages, seed),
        settings.discriminator_learning_rate,
        settings.discriminator_start,
        judge_aux=2,
    )


def _lengths(config: TrainVaeConfig) -> tuple[int, ...]:
    """The longest and the shortest videos of a training."""
    if config.data.mixed_strategy == "image_only":
        return (1,)
    return (config.data.num_frames, 1) if config.data.mixed_strategy else (config.data.num_frames,)


def _judge(
    config: TrainVaeConfig, discriminator: Discriminator, judgement: DiscriminatorJudgement, mesh: Mesh
) -> TrainStep:
    """The discriminator's own optimizer has the settings of the autoencoder's, but no average of its weights."""
    optimizer = replace(config.optimizer, use_ema=False)
    return make_step(optimizer, config.model.dtype, discriminator, judgement, mesh)


def discriminator_config(settings: VaeLoss, size: tuple[int, int, int]) -> DiscriminatorConfig:
    """The discriminator that the settings describe, for clips of ``size``.

    Raises:
        UserError: it cannot be.
    """
    entries = typed_entries(settings.discriminator, DiscriminatorConfig, "discriminator")
    if entries.get("kind") == "blurred":
        entries.setdefault("clip", size)
    return DiscriminatorConfig(**entries)


def last_layer(autoencoder: Autoencoder) -> Parameter:
    """The trained kernel that the pixels come from last.

    Raises:
        UserError: no decoder is trained.
    """
    parts = [autoencoder]
    if isinstance(autoencoder, VideoAutoencoder):
        parts = [autoencoder.spatial_vae, autoencoder.temporal_vae]
    for part in parts:
        kernels = [
            parameter
            for name, parameter in part.parameters_and_names()
            if "decoder." in name and parameter.requires_grad and parameter.ndim > 3
        ]
        if kernels:
            return kernels[-1]
    raise UserError("use_discriminator trains a decoder, and all are frozen by the settings")
