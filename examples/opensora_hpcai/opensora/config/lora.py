"""Settings of the tools for low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mindone.config import FilePath, Settings
from mindone.errors import UserError
from opensora.config.common import Dtype, ModelVersion
from opensora.config.convert import MMDiTLayout
from opensora.config.generate import strengths


@dataclass
class AdaptedModel(Settings):
    """The denoiser that adapters belong to."""

    model_version: ModelVersion = "v1.2"
    """which Open-Sora it is"""
    model_name: str | None = None
    """size preset of the network; the model version's own if not given"""
    ckpt_path: FilePath | None = None
    """folder or file of the denoiser's weights; its config.json says the sizes"""
    target: FilePath | None = None
    """what is written"""

    aliases: ClassVar[dict[str, str]] = {"pretrained_model_path": "ckpt_path", "dst": "target"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        if not self.target:
            raise UserError("target is not set; give it as --target PATH")


@dataclass
class MergeLoraConfig(AdaptedModel):
    """A denoiser with adapters folded into its weights, as a model folder of its own."""

    lora: list[FilePath] | None = None
    """adapters: files, folders, or runs that trained them"""
    lora_scale: list[float] = field(default_factory=lambda: [1.0])
    """strength of the adapters, one for all or one per adapter"""
    dtype: Dtype | None = None
    """of floating tensors; as they are in ckpt_path if not given"""

    def check(self) -> None:
        super().check()
        for name in ("ckpt_path", "lora"):
            if not getattr(self, name):
                raise UserError(f"{name} is not set; give it as --{name} PATH")
        strengths(self.lora, self.lora_scale)


@dataclass
class ConvertLoraConfig(AdaptedModel):
    """An adapter in the naming of other tools, and for the layout in which they have the weights.

    Names with underscores for dots can only be read by somebody who knows the network, so it has to be said which one
    it is: by ckpt_path, or by model_version and model_name.
    """

    src: FilePath | None = None
    """the adapter: a file, a folder, or a run that trained it"""
    format: Literal["peft", "diffusers", "comfyui", "kohya"] = "comfyui"
    """peft is a folder, the others are .safetensors files"""
    layout: MMDiTLayout | None = None
    """of the MMDiT weights that it is for, as tools/convert_flux.py writes them; those of the network if not given"""

    def check(self) -> None:
        super().check()
        if not self.src:
            raise UserError("src is not set; give it as --src PATH")
