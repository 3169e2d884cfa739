"""Open-Sora's first release: a DiT on one sequence of patches, IDDPM, CLIP, and videos as they are or compressed.

Its networks are DiT-XL, L, B and S with patches of 2, 4 or 8; ``model_arch`` of their config says how the text gets in.
Videos are raw pixels, latents of VideoGPT's VQ-VAE, or of Stable Diffusion's autoencoder (``vae_type``). Pixels are in
[-0.5, 0.5] for the first two, as published; the third is given what it was made for, [-1, 1].

Legend: `B` batch, `C` channels, `T` latent frames, `H`/`W` latent height and width, `P` side of a patch, `N` patches,
`L` text tokens, `D` caption channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from mindspore import Tensor, nn, ops

from mindone.errors import UserError
from mindone.train.loop import Place
from opensora.config.common import Refusals, Text
from opensora.config.generate import Sampler as SamplerSettings
from opensora.config.train import Flow
from opensora.families.base import NO_GIVEN_FRAMES, NO_PATCHES, Arrays, LatentBatch, PromptRules, SampleRequest, is_on
from opensora.families.cached import StepCache
from opensora.families.diffusion import DiffusionFamily, DiffusionLoss, DiffusionObjective, DiffusionSampler
from opensora.models.early_dit import EarlyDiT, EarlyDiTConfig
from opensora.networks import PREFIXES
from opensora.text.conditioner import ClipConditioner

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig

PREFIX = PREFIXES["early_dit"]


class NoText(nn.Cell):
    """Zeros stand for no text."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.y_embedding = Tensor(np.zeros((1, 1), np.float32))


class OnVideos(nn.Cell):
    """The network of patches, called like the other denoisers: on latents (B, C, T, H, W)."""

    condition_names = ()
    takes_frames_mask = False

    def __init__(self, denoiser: EarlyDiT):
        super().__init__(auto_prefix=False)
        self.denoiser, self.config = denoiser, denoiser.config
        self.y_embedder = NoText()

    def construct(
        self,
        x: Tensor,
        timestep: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        force_drop_ids: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, T, H, W), timestep (B,), text (B, 1, L, D), text_mask (B, L) → (B, out_channels, T, H, W)."""
        side, arch = self.config.patch_size, self.config.model_arch
        batch, channels, frames, height, width = x.shape
        rows, columns = height // side, width // side
        patches = x.reshape(batch, channels, frames, rows, side, columns, side).transpose(0, 2, 3, 5, 1, 4, 6)
        patches = patches.reshape(batch, -1, channels, side, side)
        text = text[:, 0]
        mask = None
        if arch == "cross-attn":
            mask = _seen(text_mask, patches.shape[1])
        elif arch == "token-concat":
            everything = ops.concat((text_mask, ops.ones((batch, patches.shape[1]), text_mask.dtype)), 1)
            mask = everything[:, None, :, None] * everything[:, None, None]
        told = text[:, 0] if arch == "adaln" else text
        y = self.denoiser(patches, timestep, told, mask, force_drop_ids)
        y = y.reshape(batch, frames, rows, columns, -1, side, side).transpose(0, 4, 1, 2, 5, 3, 6)
        return y.reshape(batch, -1, frames, height, width)


def _seen(text_mask: Tensor, queries: int) -> Tensor:
    """(B, L) of 0 and 1 → (B, 1, N, L): every patch sees the valid tokens."""
    return ops.tile(text_mask[:, None, None], (1, 1, queries, 1))


def require_whole_patches(shape: tuple[int, ...], config: EarlyDiTConfig) -> None:
    """Refuses latents (..., H, W) that patches do not cover.

    Raises:
        UserError: a side is not divisible by that of a patch.
    """
    height, width = shape[-2:]
    if height % config.patch_size or width % config.patch_size:
        raise UserError(
            f"latents of {height}x{width} are not whole patches of {config.patch_size}x{config.patch_size}; use an "
            f"image_size whose latents are divisible by {config.patch_size}"
        )


@dataclass(frozen=True)
class PatchObjective(DiffusionObjective):
    """IDDPM on the network of patches."""

    config: EarlyDiTConfig = EarlyDiTConfig()

    def loss_cell(self, denoiser: nn.Cell) -> nn.Cell:
        return DiffusionLoss(OnVideos(denoiser), self.diffusion.config)

    def loss_inputs(self, batch: LatentBatch, place: Place, at: float | None = None) -> tuple[Tensor | None, ...]:
        require_whole_patches(batch.latents.shape, self.config)
        return super().loss_inputs(batch, place, at)


class PatchSampler(DiffusionSampler):
    """Its steps on the network of patches."""

    def __init__(self, denoiser: EarlyDiT, settings: SamplerSettings):
        super().__init__(OnVideos(denoiser), settings)

    def steps(self, request: SampleRequest) -> Iterator[np.ndarray]:
        require_whole_patches(request.noise.shape, self._config)
        yield from super().steps(request)


@dataclass(frozen=True)
class FirstRelease(DiffusionFamily):
    """Open-Sora before 1.0."""

    name: str = "v0"
    model_max_length: int = ClipConditioner.max_length
    num_frames: int = 16
    denoiser_preset: str = f"{PREFIX}DiT-S/8"
    autoencoder_preset: str = "raw"
    networks = (PREFIX,)
    condition_names = ()
    text_encoders = ("clip_model_name_or_path",)

    refused: ClassVar[Refusals] = DiffusionFamily.refused | {
        **NO_PATCHES,
        **NO_GIVEN_FRAMES,
        "vae_type": (lambda value: value not in ("raw", "VQ-VAE", "SD-VAE"), "use raw, VQ-VAE or SD-VAE"),
        "enable_sequence_parallelism": (is_on, "leave it out; version 1.0 has it"),
        "dsp": (is_on, "leave it out; version 1.0 has it"),
        "guidance_parallel": (is_on, "leave it out; version 1.0 has it"),
        "step_cache": (lambda value: value != "none", "use none; version 1.0 has it"),
        "freeze_y_embedder": (is_on, "leave it out; its network has no null caption"),
    }

    def defaults(self) -> dict[str, Any]:
        defaults = super().defaults() | {"vae_type": "raw", "fps": 15, "sampling_steps": 250, "guidance_scale": 4.0}
        # All channels are guided.
        del defaults["guidance_channels"]
        return defaults

    def network_named(self, name: str) -> str:
        """As published, ``DiT-XL/2``, or as its README writes it, ``DiT/XL-2``."""
        short = name.removeprefix(PREFIX)
        if short.startswith("DiT/") and "-" in short:
            short = "DiT-" + short.removeprefix("DiT/").replace("-", "/")
        return super().network_named(f"{PREFIX}{short}")

    def prepare_prompt(self, prompt: str, rules: PromptRules) -> str:
        """As it is: the first release cleans nothing."""
        return prompt

    def conditioner(
        self, text: Text, denoiser_config: DenoiserConfig | None = None, batch_size: int = 1
    ) -> ClipConditioner:
        width = denoiser_config.text_embed_dim if denoiser_config else 0
        tokens = denoiser_config is None or denoiser_config.model_arch != "adaln"
        return ClipConditioner(text.clip_model_name_or_path, width, text.t5_dtype, batch_size, tokens)

    def objective(
        self, flow: Flow, denoiser_config: DenoiserConfig, null_text: Arrays | None = None
    ) -> DiffusionObjective:
        found = super().objective(flow, denoiser_config, null_text)
        return PatchObjective(found.diffusion, (), found.dropout, speed=found.speed, config=denoiser_config)

    def sampler(
        self, denoiser: nn.Cell, settings: SamplerSettings, step_cache: StepCache | None = None
    ) -> DiffusionSampler:
        return PatchSampler(denoiser, settings)


FAMILY = FirstRelease()
