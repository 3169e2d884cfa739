"""Graphs of `check_ascend_graph.py`: what all of them need, the autoencoders, and the older denoisers of 1.0."""

from __future__ import annotations


def zeros(*shape: int):
    from mindspore import float32, ops

    return ops.zeros(shape, float32)


def bfloat16(network):
    from mindspore import bfloat16

    from mindone.nn import set_compute_dtype

    set_compute_dtype(network, bfloat16)
    return network


def one_of(ranks: int):
    """The mesh of the second of so many ranks that share a video."""
    from mindspore.ops.operations import comm_ops

    from mindone.parallel import exchange
    from mindone.parallel.mesh import Mesh

    # There are no other ranks here, and the front end asks for nothing but their number.
    comm_ops.get_group_size, exchange.create_group = lambda group: ranks, lambda name, members: None
    return Mesh(1, ranks, sequence=ranks)


def training(loss, mean=None, slices=None):
    from mindone.train.ema import Ema
    from mindone.train.optim import AdamW
    from mindone.train.step import TrainStep

    parameters = slices.parameters if slices else loss.trainable_params()
    graph = TrainStep(loss, AdamW(parameters), Ema(parameters), max_grad_norm=1.0, mean=mean, slices=slices).graph
    object.__setattr__(graph, "counted", loss)
    return graph


def zero_train(stage: int) -> tuple:
    """The update of one of four ranks with slices of the optimizer (and weights), two pairs of blocks of STDiT3."""
    from dataclasses import replace

    from mindspore import int32, ops
    from mindspore.ops.operations import comm_ops

    from mindone.parallel.collectives import Mean
    from mindone.parallel.mesh import Mesh
    from mindone.parallel.zero import Slices, spread
    from opensora.families.stdit import FlowLoss
    from opensora.models.stdit3 import STDiT3, STDiT3_PRESETS

    mesh = Mesh(1, 4)
    # There are no other ranks here, and the front end asks for nothing but their number.
    comm_ops.get_group_size = lambda group: mesh.world_size
    denoiser = bfloat16(STDiT3(replace(STDiT3_PRESETS["STDiT3-XL/2"], depth=2), use_recompute=True))
    if stage == 3:
        spread(denoiser, mesh)
    latents, conditions = zeros(1, 4, 15, 90, 160), [zeros(1)] * 3
    text = (zeros(1, 1, 300, 4096), ops.zeros((1, 300), int32))
    loss = FlowLoss(denoiser)
    slices = Slices(loss.trainable_params(), mesh)
    return training(loss, Mean(mesh), slices), (
        *update_scalars(),
        *(latents, latents, zeros(1), *text, ops.zeros((1,), int32), None, *conditions),
    )


def update_scalars() -> tuple:
    """Learning rate, EMA rate, loss scale and the largest loss that is accepted."""
    return tuple(zeros(1)[0] for _ in range(4))


def autoencoder():
    from opensora.models.vae_v1_2 import VideoAutoencoder, VideoAutoencoderConfig

    return bfloat16(VideoAutoencoder(VideoAutoencoderConfig()))


def vae_forward() -> tuple:
    return autoencoder().set_train(False), (zeros(1, 3, 17, 256, 256),)


def vae_train() -> tuple:
    from opensora.models.vae_loss import LossWeights, VideoLoss

    loss = VideoLoss(autoencoder(), LossWeights())
    return training(loss), (*update_scalars(), zeros(1, 3, 17, 256, 256), zeros(1, 4, 5, 32, 32))


def named_autoencoder(name: str):
    from opensora.networks import autoencoder_config, build_autoencoder

    return bfloat16(build_autoencoder(autoencoder_config(name)))


def autoencoder_forward(name: str, *size: int) -> tuple:
    """Encoding and decoding of one video."""
    return named_autoencoder(name).set_train(False), (zeros(1, 3, *size),)


def autoencoder_train(name: str, *size: int) -> tuple:
    from opensora.models.vae_loss import LossWeights, PixelLoss

    network = named_autoencoder(name).set_train(True)
    noise = zeros(1, network.latent_channels, *network.latent_size(size))
    return training(PixelLoss(network, LossWeights())), (*update_scalars(), zeros(1, 3, *size), noise)


def discriminator_train(*size: int) -> tuple:
    """What a discriminator learns from one video and its reconstruction."""
    from opensora.models.adversarial import DiscriminatorJudgement
    from opensora.models.discriminators import DiscriminatorConfig, build_discriminator

    network = bfloat16(build_discriminator(DiscriminatorConfig()).set_train(True))
    judgement = DiscriminatorJudgement(network, "hinge", lecam=0.0, penalty=0.0, lecam_decay=0.999)
    return training(judgement), (*update_scalars(), zeros(1, 3, *size), zeros(1, 3, *size), zeros(2))


def dit_forward(preset: str) -> tuple:
    """Noise of a video of 16 frames of 256x256 and of the same without its text."""
    from mindspore import int32, ops

    from opensora.models.dit import DIT_PRESETS, DiT

    network = bfloat16(DiT(DIT_PRESETS[preset])).set_train(False)
    return network, (zeros(2, 4, 16, 32, 32), ops.zeros((2,), int32), zeros(2, 1, 1, network.config.caption_channels))


def pixart_forward(preset: str) -> tuple:
    """Noise of a video of 16 frames of 256x256 and of the same without its text."""
    from mindspore import int32, ops

    from opensora.models.pixart import PIXART_PRESETS, PixArt

    network = bfloat16(PixArt(PIXART_PRESETS[preset])).set_train(False)
    text, mask = zeros(2, 1, 120, network.config.caption_channels), ops.zeros((2, 120), int32)
    sizes = (zeros(2),) * 3 if network.config.multi_scale else ()
    return network, (zeros(2, 4, 16, 32, 32), ops.zeros((2,), int32), text, mask, *sizes)


def step_cache_part(part: str) -> tuple:
    """A step of 51 frames of 720x1280 with a cache, two pairs of STDiT3's blocks, both halves of guidance."""
    from dataclasses import replace

    from opensora.families import cached
    from opensora.families.stdit import GuidedPrediction
    from opensora.models.stdit3 import STDiT3, STDiT3_PRESETS

    guided = GuidedPrediction(bfloat16(STDiT3(replace(STDiT3_PRESETS["STDiT3-XL/2"], depth=2))))
    text = (zeros(1, 1, 300, 4096), zeros(1, 300))
    inputs = (zeros(1, 4, 15, 90, 160), zeros(1), *text, None, None, None, zeros(1), *[zeros(1)] * 3)
    tokens = zeros(2, 15, 45 * 80, 1152)
    if part == "broadcast":
        # Attention within frames is given, the others are computed.
        counts = guided.network.branch_counts
        return cached.Broadcasting(guided, (True, False, False), counts).set_train(False), (tokens, tokens, *inputs)
    if part == "compute":
        return cached.Computing(guided).set_train(False), inputs
    # Without a forecast; and with one by a line, where inputs are compared.
    if part == "repeat":
        return cached.Reusing(guided).set_train(False), (None, None, tokens, *inputs)
    return cached.Reusing(guided, 1).set_train(False), (tokens, zeros(2, 2), tokens, tokens, *inputs)


def step_cache_rows() -> tuple:
    """A step cache takes the rows of two steps."""
    from mindspore import bool_, ops

    from opensora.families import cached

    tokens = zeros(2, 15, 45 * 80, 1152)
    return cached.Chosen(), (ops.zeros((2,), bool_), tokens, tokens)


def step_cache_mmdit() -> tuple:
    """A step of 2.0 with both halves of guidance whose blocks do not run."""
    from dataclasses import replace

    from opensora.families.cached import Reusing
    from opensora.families.mmdit import GuidedVelocity
    from opensora.models.mmdit import MMDIT_PRESETS, MMDiT

    config = replace(MMDIT_PRESETS["MMDiT-11B"], depth=1, depth_single_blocks=1)
    guided = GuidedVelocity(bfloat16(MMDiT(config)), 2)
    tokens = 33 * 16 * 16
    text = (zeros(2, 512, config.context_in_dim), zeros(1), zeros(2, config.vec_in_dim))
    inputs = (zeros(1, 16, 33, 32, 32), zeros(1, tokens, 3), *text, zeros(1, 17, 33, 32, 32), zeros(1))
    kept = zeros(2, tokens, config.hidden_size)
    scales = (zeros(1)[0], zeros(33))
    return Reusing(guided, 1).set_train(False), (kept, zeros(2, 2), kept, kept, *inputs, *scales)


def short_rotary() -> tuple:
    """Rotation over 16 frames of 1800 places of 16 heads, which the fused operator refuses."""
    from mindspore import bfloat16, nn

    from mindone.nn import functional as F

    class Rotation(nn.Cell):
        def construct(self, x, cos, sin):
            return F.apply_rope_half(x, cos, sin) + F.apply_rope_interleaved(x, cos, sin)

    return Rotation(), (zeros(1800, 16, 16, 72).astype(bfloat16), zeros(16, 36), zeros(16, 36))
