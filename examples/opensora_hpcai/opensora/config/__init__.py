"""The settings of every command, one dataclass tree each. Importing them does not import MindSpore."""

from opensora.config.convert import ConvertConfig, ConvertFluxConfig, ConvertImageVaeConfig, ConvertVideoVaeConfig
from opensora.config.curation import CameraConfig, CutConfig, DuplicatesConfig, ScenesConfig, ScoresConfig
from opensora.config.data import (
    CaptionConfig,
    FilterConfig,
    IndexConfig,
    InfoConfig,
    MergeConfig,
    ReportConfig,
    RunDataConfig,
    SampleConfig,
)
from opensora.config.embed import DecodeConfig, EmbedTextConfig, EmbedVideoConfig
from opensora.config.evaluate import (
    ClipScoreConfig,
    CompareConfig,
    EvaluateLossConfig,
    FvdConfig,
    VbenchConfig,
    VideosConfig,
)
from opensora.config.first import SampleFirstConfig, TrainFirstConfig
from opensora.config.gallery import GalleryConfig
from opensora.config.generate import GenerateConfig
from opensora.config.lora import ConvertLoraConfig, MergeLoraConfig
from opensora.config.msr_vtt import CollateConfig, PreprocessConfig
from opensora.config.opendit import SampleOpenDiTConfig, TrainOpenDiTConfig
from opensora.config.plan import PlanConfig, PlanDataConfig
from opensora.config.prove import ProveConfig
from opensora.config.runs import PlotConfig, ReplayConfig
from opensora.config.search import SearchConfig
from opensora.config.serving import ServeConfig, WebConfig
from opensora.config.toy import (
    MeasuredConfig,
    MeasuredTextConfig,
    ScoreConfig,
    TinyClipConfig,
    TinyT5Config,
    ToyCaptionsConfig,
    ToyDataConfig,
    ToyFilmConfig,
)
from opensora.config.toy_benchmark import ToyBenchmarkConfig
from opensora.config.train import TrainConfig
from opensora.config.v2 import EmbedTextV2Config, InferenceV2Config
from opensora.config.vae import EvaluateVaeConfig, TrainVaeConfig
from opensora.config.world import WorldConfig

__all__ = [
    "MeasuredConfig",
    "MeasuredTextConfig",
    "SampleFirstConfig",
    "SampleOpenDiTConfig",
    "TrainFirstConfig",
    "TrainOpenDiTConfig",
    "CameraConfig",
    "CaptionConfig",
    "ClipScoreConfig",
    "CollateConfig",
    "CompareConfig",
    "ConvertConfig",
    "ConvertFluxConfig",
    "ConvertImageVaeConfig",
    "ConvertLoraConfig",
    "ConvertVideoVaeConfig",
    "CutConfig",
    "DecodeConfig",
    "DuplicatesConfig",
    "EmbedTextConfig",
    "EmbedTextV2Config",
    "EmbedVideoConfig",
    "EvaluateLossConfig",
    "EvaluateVaeConfig",
    "FilterConfig",
    "FvdConfig",
    "GalleryConfig",
    "GenerateConfig",
    "IndexConfig",
    "InferenceV2Config",
    "InfoConfig",
    "MergeConfig",
    "MergeLoraConfig",
    "PlanConfig",
    "PlanDataConfig",
    "PlotConfig",
    "PreprocessConfig",
    "ProveConfig",
    "ReplayConfig",
    "ReportConfig",
    "RunDataConfig",
    "SampleConfig",
    "ScenesConfig",
    "ScoreConfig",
    "SearchConfig",
    "ScoresConfig",
    "ServeConfig",
    "TinyClipConfig",
    "TinyT5Config",
    "ToyBenchmarkConfig",
    "ToyCaptionsConfig",
    "ToyDataConfig",
    "ToyFilmConfig",
    "TrainConfig",
    "TrainVaeConfig",
    "VbenchConfig",
    "VideosConfig",
    "WebConfig",
    "WorldConfig",
]
