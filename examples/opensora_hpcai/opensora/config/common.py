"""Groups of settings that several commands share. Leaf names are the published flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from mindone.config import FilePath, SettingError, Settings, about, leaves, require, require_at_least
from mindone.errors import UserError
from mindone.train.intervals import parse_span

Dtype = Literal["fp32", "fp16", "bf16"]
ModelVersion = Literal["v0", "v1", "v1.1", "v1.2", "v2.0"]
VaeType = Literal[
    "raw",
    "VQ-VAE",
    "SD-VAE",
    "OpenSora-VAE-v1.2",
    "OpenSoraVAE_V1_2",
    "VideoAutoencoderKL",
    "Flux-AE",
    "Hunyuan-VAE",
    "Video-DC-AE",
]
VideoBackend = Literal["pyav", "cv2", "decord"]
SaveFormat = Literal["mp4", "gif", "png"]


@dataclass
class Device:
    """Device, mode and ranks."""

    device_target: Literal["auto", "CPU", "Ascend"] = "auto"
    """auto takes an Ascend NPU if there is one, else the CPU"""
    mode: Literal[0, 1] = 0
    """0: graph mode (fast); 1: PyNative (step by step)"""
    debug: bool = False
    """PyNative, for finding mistakes"""
    use_parallel: bool = False
    """join the processes that opensora launch (or msrun) started"""
    max_device_memory: str | None = None
    """limit of device memory, such as 59GB; Ascend only"""
    jit_level: Literal["O0", "O1", "O2"] | None = None
    """graph compiler level; Ascend only"""


@dataclass
class Runtime(Device):
    """Device, mode, ranks and seed."""

    seed: int | None = None
    """seed of all random numbers; a fresh one, printed and saved, if not given"""

    def check(self) -> None:
        require_at_least(self, seed=0)


@dataclass
class Autoencoder:
    """The autoencoder: pixels to latents and back."""

    vae_checkpoint: FilePath | None = None
    """folder or file of the autoencoder's weights"""
    vae_type: VaeType | None = None
    """which autoencoder it is, the model version's own if not given; OpenSoraVAE_V1_2 is OpenSora-VAE-v1.2; raw (no
    autoencoder), VQ-VAE and SD-VAE belong to v0"""
    vae_dtype: Dtype = "fp32"
    """precision of the autoencoder"""
    vae_micro_batch_size: int | None = None
    """frames that go through the 2D part at once; the model's own (4) if not given, 0: all"""
    vae_micro_frame_size: int | None = None
    """frames that go through the temporal part at once; the model's own (17) if not given"""
    sd_scale_factor: float | None = None
    """factor of an image autoencoder's latents, the model's own (0.18215) if not given; caches hold unscaled latents"""

    def check(self) -> None:
        require_at_least(self, vae_micro_batch_size=0, vae_micro_frame_size=0)
        if self.sd_scale_factor is not None and self.sd_scale_factor <= 0:
            raise SettingError(f"sd_scale_factor={self.sd_scale_factor} has to be larger than 0", "sd_scale_factor")


@dataclass
class Text:
    """The text encoder."""

    t5_model_name_or_path: FilePath | None = None
    """folder of the T5 encoder: config.json, weights and tokenizer"""
    clip_model_name_or_path: FilePath | None = None
    """folder of the CLIP text encoder (2.0): config.json, weights and tokenizer"""
    t5_dtype: Dtype = "fp32"
    """precision of the text encoder"""
    model_max_length: int | None = None
    """text tokens; the model version's own (1.2: 300) if not given"""

    def check(self) -> None:
        require_at_least(self, model_max_length=1)


@dataclass
class Shape:
    """Size and length of the videos: image_size, or resolution with aspect_ratio."""

    image_size: int | list[int] | None = None
    """height and width in pixels, or one number for a square"""
    resolution: str | None = None
    """named size: 144p, 240p, 360p, 480p, 720p, 1080p, 2k, 4k, 256, 512, 1024, 2048 or 2880"""
    aspect_ratio: str | None = None
    """height:width of a named size, such as 9:16 for landscape"""
    num_frames: int | str | None = None
    """frames, as a number or a length: 2s (51 frames), 4s, 8s, 16s, 32s, or 1x (51), 2x, 4x, 8x, 16x; the model
    version's own (1.2: 51) if not given; inference.py also takes seconds: 2.5sec"""

    @property
    def is_fixed(self) -> bool:
        """Whether height and width are given."""
        return self.image_size is not None or bool(self.resolution and self.aspect_ratio)

    def check(self) -> None:
        sides = [self.image_size] if isinstance(self.image_size, int) else self.image_size
        if sides is not None and (len(sides) not in (1, 2) or min(sides) < 1):
            raise UserError(f"image_size={self.image_size} has to be one positive number or two: height width")
        if isinstance(self.num_frames, int) and self.num_frames < 1:
            raise SettingError(f"num_frames={self.num_frames} has to be at least 1", "num_frames")
        if bool(self.resolution) != bool(self.aspect_ratio):
            raise UserError("resolution and aspect_ratio belong together; give both, or image_size instead")


def require_span_at_least(group: object, **minima: int) -> None:
    """As `require_at_least`, of settings that are lengths of time in updates, epochs or percent.

    Raises:
        UserError: one is no length of time, or too short.
    """
    for name, minimum in minima.items():
        with about(name):
            value = parse_span(getattr(group, name), name).value
        require(group, name, value > 0 or value >= minimum, f"at least {minimum}")


Refusals = Mapping[str, tuple[Callable[[object], bool], str]]
"""setting -> (whether its value is refused, what to use instead)"""


def refuse(config: Settings, refusals: Refusals, what: str) -> None:
    """Raises a `UserError` for the first setting of ``config`` whose value is refused.

    Args:
        what: who refuses it, for the message: "model_version v1.2".
    """
    for leaf in leaves(type(config)).values():
        is_refused, instead = refusals.get(leaf.name, (None, ""))
        value = getattr(_group(config, leaf.groups), leaf.name)
        if is_refused and is_refused(value):
            raise SettingError(f"{leaf.name}={value} is not supported by {what}; {instead}", leaf.name)


def _group(config: object, groups: tuple[str, ...]) -> object:
    for name in groups:
        config = getattr(config, name)
    return config


ALWAYS_FLOAT32 = "norms, softmax and timestep tables always run in float32, matrix products in dtype"

UNUSED_EVERYWHERE = {
    "save_graphs": "set the environment variable MS_DEV_SAVE_GRAPHS instead",
    "precision_mode": "dtype says it",
    "global_bf16": "use dtype bf16 instead",
    "amp_level": ALWAYS_FLOAT32,
    "vae_amp_level": ALWAYS_FLOAT32,
    "vae_keep_gn_fp32": ALWAYS_FLOAT32,
    "vae_param_dtype": "vae_dtype says it",
    "patchify": "the patch embedding keeps the published weights and runs in the fastest form of the device",
    "manual_pad": "videos are padded wherever the patch size asks for it",
    "enable_flash_attention": "attention runs in the best form of the device: flash attention on Ascend",
    "max_num_frames": "it belongs to pre_patchify",
}
