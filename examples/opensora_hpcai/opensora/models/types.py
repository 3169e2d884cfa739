"""What a denoiser and an autoencoder can be, for annotations: importing it imports every network."""

from __future__ import annotations

from opensora.models.dit import DiT, DiTConfig
from opensora.models.early_dit import EarlyDiT, EarlyDiTConfig
from opensora.models.mmdit import MMDiT, MMDiTConfig
from opensora.models.stdit_base import STDiTBase, STDiTBaseConfig
from opensora.models.vae_dc_ae import DCAEConfig
from opensora.models.vae_first import RawConfig, VQAutoencoderConfig
from opensora.models.vae_flux import FluxAutoencoderConfig
from opensora.models.vae_frames import FrameAutoencoderConfig
from opensora.models.vae_hunyuan import HunyuanAutoencoderConfig
from opensora.models.vae_v1_2 import VideoAutoencoderConfig

Denoiser = STDiTBase | DiT | EarlyDiT | MMDiT
DenoiserConfig = STDiTBaseConfig | DiTConfig | EarlyDiTConfig | MMDiTConfig
AutoencoderConfig = (
    RawConfig
    | VQAutoencoderConfig
    | FrameAutoencoderConfig
    | VideoAutoencoderConfig
    | FluxAutoencoderConfig
    | HunyuanAutoencoderConfig
    | DCAEConfig
)
