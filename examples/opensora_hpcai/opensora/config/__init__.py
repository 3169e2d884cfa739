"""The settings of every command, one dataclass tree each. Importing them does not import MindSpore."""

from opensora.config.convert import ConvertConfig
from opensora.config.embed import DecodeConfig, EmbedTextConfig, EmbedVideoConfig
from opensora.config.generate import GenerateConfig
from opensora.config.train import TrainConfig
from opensora.config.vae import EvaluateVaeConfig, TrainVaeConfig

__all__ = [
    "ConvertConfig",
    "DecodeConfig",
    "EmbedTextConfig",
    "EmbedVideoConfig",
    "EvaluateVaeConfig",
    "GenerateConfig",
    "TrainConfig",
    "TrainVaeConfig",
]
