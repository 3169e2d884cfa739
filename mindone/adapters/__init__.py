"""Adapters: small trained additions to a frozen network."""

from mindone.adapters.lora import Lora, LoraConfig, add_lora
from mindone.adapters.lora_files import LORA_FORMATS, LoraModule, LoraTensors, fitting, read_lora, write_lora
from mindone.adapters.merge import with_lora

__all__ = [
    "LORA_FORMATS",
    "Lora",
    "LoraConfig",
    "LoraModule",
    "LoraTensors",
    "add_lora",
    "fitting",
    "read_lora",
    "with_lora",
    "write_lora",
]
