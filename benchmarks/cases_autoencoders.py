"""The benchmark cases of autoencoders, see `cases`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch_autoencoders
import torch_vae
from bench import Case
from mindspore import Tensor, nn, ops
from pairs import TORCH, Maker, agree, same_weights, updates

from mindone.models.autoencoder_kl import AutoencoderKLConfig
from opensora.models.autoencoder import Autoencoder
from opensora.models.vae_dc_ae import DCAE, DCAEConfig, StagesConfig
from opensora.models.vae_flux import FluxAutoencoder, FluxAutoencoderConfig
from opensora.models.vae_hunyuan import AutoencoderKLCausal3D, HunyuanAutoencoderConfig
from opensora.models.vae_temporal import TemporalAutoencoderConfig
from opensora.models.vae_v1_2 import VideoAutoencoder, VideoAutoencoderConfig

# --- autoencoder -----------------------------------------------------------------------------------------------------


def autoencoder_pair(config: VideoAutoencoderConfig) -> tuple[VideoAutoencoder, torch_vae.VideoAutoencoder]:
    image, temporal = config.autoencoder_kl, config.vae_temporal
    settings = torch_vae.VideoAutoencoderSettings(
        torch_vae.AutoencoderKLSettings(
            image.block_out_channels, image.layers_per_block, image.latent_channels, image.norm_num_groups
        ),
        torch_vae.TemporalSettings(temporal.filters, temporal.num_res_blocks, num_groups=temporal.num_groups),
    )
    ours, theirs = VideoAutoencoder(config), torch_vae.VideoAutoencoder(settings)
    same_weights(ours, theirs)
    return ours.set_train(False), theirs


@contextlib.contextmanager
def autoencoder(config: VideoAutoencoderConfig, encode: bool) -> Iterator[Case]:
    """17 frames of 64x64 to latents, or back."""
    ours, theirs = autoencoder_pair(config)
    video = np.random.default_rng(0).uniform(-1, 1, (1, 3, 17, 64, 64)).astype(np.float32)
    x = torch.from_numpy(video)
    with torch.no_grad():
        z = theirs.encode(x)
    latents = z.numpy()

    @torch.no_grad()
    def torch_step() -> torch.Tensor:
        return theirs.encode(x) if encode else theirs.decode(z, 17)

    def our_step() -> np.ndarray:
        return (ours.encode(video) if encode else ours.decode(latents, 17)).asnumpy()

    agree(our_step(), torch_step())
    widths = config.autoencoder_kl.block_out_channels
    yield Case(f"widths {'/'.join(map(str, widths))}, 17 x 64 x 64", TORCH, our_step, torch_step)


VAE_TINY = VideoAutoencoderConfig(
    autoencoder_kl=AutoencoderKLConfig(block_out_channels=(8, 16, 32, 64), layers_per_block=1, norm_num_groups=4),
    vae_temporal=TemporalAutoencoderConfig(filters=16, num_res_blocks=1, num_groups=8),
    micro_batch_size=None,
)
VAE_HALF = VideoAutoencoderConfig(
    autoencoder_kl=AutoencoderKLConfig(block_out_channels=(64, 128, 256, 256)),
    vae_temporal=TemporalAutoencoderConfig(filters=64, num_res_blocks=4),
    micro_batch_size=None,
)


# --- the autoencoders of 2.0 -----------------------------------------------------------------------------------------

Pair = tuple[Autoencoder, torch.nn.Module]


def flux_pair() -> Pair:
    sizes = {"ch": 64, "ch_mult": (1, 2), "num_res_blocks": 1, "z_channels": 16}
    theirs = torch_autoencoders.FluxAutoencoder(torch_autoencoders.FluxSettings(**sizes))
    return FluxAutoencoder(FluxAutoencoderConfig(**sizes, micro_batch_size=None)), theirs


def hunyuan_pair() -> Pair:
    sizes = {"block_out_channels": (64, 64, 128, 128), "layers_per_block": 1, "latent_channels": 16}
    theirs = torch_autoencoders.CausalAutoencoder(torch_autoencoders.CausalSettings(**sizes))
    return AutoencoderKLCausal3D(HunyuanAutoencoderConfig(**sizes)), theirs


def dc_ae_pair() -> Pair:
    widths, depths, temporal = (64, 64, 128), (1, 1, 1), (False, True, False)
    theirs = torch_autoencoders.DeepAutoencoder(
        torch_autoencoders.DeepSettings(widths, depths, 1, temporal, latent_channels=32)
    )
    stages = StagesConfig(widths, depths, ("ResBlock", "EViTS5_GLU", "EViTS5_GLU"), temporal)
    sizes = {"latent_channels": 32, "time_compression_ratio": 2, "spatial_compression_ratio": 4}
    return DCAE(DCAEConfig(**sizes, encoder=stages, decoder=stages)), theirs


@contextlib.contextmanager
def codec(pair: Callable[[], Pair], frames: int, encode: bool) -> Iterator[Case]:
    """One clip of 64x64 to latents, or back."""
    ours, theirs = pair()
    same_weights(ours, theirs)
    ours.set_train(False)
    video = np.random.default_rng(0).uniform(-1, 1, (1, 3, frames, 64, 64)).astype(np.float32)
    x = torch.from_numpy(video)
    with torch.no_grad():
        z = theirs.encode(x)
    latents = ours.normalize(z.numpy())

    @torch.no_grad()
    def torch_step() -> torch.Tensor:
        return theirs.encode(x) if encode else theirs.decode(z)

    def our_step() -> np.ndarray:
        return (ours.posterior(video)[0] if encode else ours.decode(latents)).asnumpy()

    agree(our_step(), torch_step())
    yield Case(f"1 x 3 x {frames} x 64 x 64", TORCH, our_step, torch_step)


class ReconstructionError(nn.Cell):
    """Mean squared error of a reconstruction."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__(auto_prefix=False)
        self.autoencoder = autoencoder

    def construct(self, x):
        return ops.square(self.autoencoder(x)[0] - x).mean()


@contextlib.contextmanager
def codec_train(pair: Callable[[], Pair], frames: int) -> Iterator[Case]:
    """A whole update of an autoencoder: loss, gradients, clipping, AdamW, EMA."""
    ours, theirs = pair()
    same_weights(ours, theirs)
    video = np.random.default_rng(0).uniform(-1, 1, (1, 3, frames, 64, 64)).astype(np.float32)
    x = torch.from_numpy(video)

    def torch_loss() -> torch.Tensor:
        return (theirs.decode(theirs.encode(x)) - x).square().mean()

    our_step, torch_step = updates(ReconstructionError(ours), [[Tensor(video)]], theirs, torch_loss)
    yield Case(f"1 x 3 x {frames} x 64 x 64", TORCH, lambda: our_step().asnumpy(), torch_step)


AUTOENCODERS: dict[str, Maker] = {
    "vae_encode_tiny": partial(autoencoder, VAE_TINY, True),
    "vae_decode_tiny": partial(autoencoder, VAE_TINY, False),
    "vae_encode_half": partial(autoencoder, VAE_HALF, True),
    "vae_decode_half": partial(autoencoder, VAE_HALF, False),
    "flux_ae_encode": partial(codec, flux_pair, 4, True),
    "flux_ae_decode": partial(codec, flux_pair, 4, False),
    "flux_ae_train": partial(codec_train, flux_pair, 4),
    "hunyuan_vae_encode": partial(codec, hunyuan_pair, 9, True),
    "hunyuan_vae_decode": partial(codec, hunyuan_pair, 9, False),
    "hunyuan_vae_train": partial(codec_train, hunyuan_pair, 9),
    "dc_ae_encode": partial(codec, dc_ae_pair, 8, True),
    "dc_ae_decode": partial(codec, dc_ae_pair, 8, False),
    "dc_ae_train": partial(codec_train, dc_ae_pair, 8),
}
