"""Settings of ``opensora convert`` and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mindone.config import FilePath, Settings
from mindone.errors import UserError
from opensora.config.common import Dtype

SourceLayout = Literal["auto", "open-sora", "flux", "comfyui", "diffusers"]
MMDiTLayout = Literal["original", "open-sora", "flux", "comfyui", "diffusers"]


@dataclass
class Files(Settings):
    """A checkpoint to read and one to write."""

    src: FilePath | None = None
    """.safetensors, .bin, .pt, .pth, .ckpt, *.index.json, or a folder with one"""
    target: FilePath | None = None
    """the file to write: .safetensors or .ckpt"""

    aliases: ClassVar[dict[str, str]] = {"source": "src", "dst": "target"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        for name in ("src", "target"):
            if not getattr(self, name):
                raise UserError(f"{name} is not set; give it as --{name} PATH")


@dataclass
class ConvertConfig(Files):
    """A checkpoint in another format, with other names or another dtype.

    Networks here load published files as they are; a conversion is needed only for other MindSpore code.
    """

    names: Literal["keep", "published", "mindspore"] = "keep"
    """published: undo what MindSpore and wrappers do to names; mindspore: gamma and beta for norms"""
    dtype: Dtype | None = None
    """of floating tensors; as they are if not given"""
    weights: Literal["model", "ema", "all"] = "model"
    """of a training's checkpoint: the trained weights, their average (ema), or every tensor of the file"""
    strip: str = ""
    """take only what is behind this prefix of names"""


@dataclass
class ConvertImageVaeConfig(Files):
    """An image autoencoder with its published names, from PyTorch or from older MindSpore names."""


@dataclass
class ConvertVideoVaeConfig(Files):
    """The video autoencoder of Open-Sora 1.2 with its published names."""

    from_vae2d: bool = False
    """the source is a 2D autoencoder: it becomes spatial_vae.module.*"""


@dataclass
class ConvertFluxConfig(Files):
    """MMDiT weights between the layouts of Open-Sora 2.0, of Flux and ComfyUI, and of diffusers.

    Without a suffix ``target`` is a new folder, with the config.json of the layout's readers.
    """

    src_layout: SourceLayout = "auto"
    """what the source is; auto: what its names and its config.json say"""
    layout: MMDiTLayout = "open-sora"
    """what to write; original: open-sora for weights with cond_in, flux for the others"""
    dtype: Dtype | None = None
    """of floating tensors; as they are if not given"""
