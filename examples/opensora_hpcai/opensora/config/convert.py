"""Settings of ``opensora convert``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mindone.config import FilePath, Settings
from mindone.errors import UserError
from opensora.config.common import Dtype


@dataclass
class ConvertConfig(Settings):
    """A checkpoint in another format, with other names or another dtype."""

    src: FilePath | None = None
    """.safetensors, .bin, .pt, .pth, .ckpt, *.index.json, or a folder with one"""
    target: FilePath | None = None
    """the file to write: .safetensors or .ckpt"""
    names: Literal["keep", "published", "mindspore"] = "keep"
    """published: undo what MindSpore and wrappers do to names; mindspore: gamma and beta for norms"""
    dtype: Dtype | None = None
    """of floating tensors; as they are if not given"""

    aliases: ClassVar[dict[str, str]] = {"source": "src", "dst": "target"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        for name in ("src", "target"):
            if not getattr(self, name):
                raise UserError(f"{name} is not set; give it as --{name} PATH")
