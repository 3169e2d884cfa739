"""Settings of the benchmark of compositional video generation on a toy world."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from mindone.config import FilePath, require_at_least
from mindone.errors import UserError
from opensora.config.embed import EmbedShape, EmbedTextConfig, EmbedVideoConfig
from opensora.config.train import TrainConfig

TABLE = "video_caption.csv"


@dataclass
class Benchmark:
    """Data, autoencoder and score."""

    output: FilePath | None = None
    """folder of all of it: clips, caches, models, videos, and the table benchmark.md with benchmark.json"""
    world: FilePath | None = None
    """description of the world, such as configs/tiny/world_two.yaml; the built-in one if not given"""
    sample_config: FilePath | None = None
    """recipe of inference.py that says how videos are sampled; the model version's own way if not given"""
    vae_configs: list[FilePath] | None = None
    """recipes of train_vae.py by which an autoencoder is trained on the world first, from vae_checkpoint if that is not
    None, and then each from the weights of the one before; vae_checkpoint stays as it is if not given"""
    vae_train_steps: int | None = None
    """updates of each of them; the recipe's if not given"""
    num_clips: int = 3120
    """clips to train on"""
    data_seed: int = 0
    """the same seed gives the same clips"""
    num_real: int = 90
    """real clips that are judged, as they are and through the autoencoder: no model can be better"""
    num_seen: int = 100
    """prompts of combinations that training has, of which videos are generated"""
    num_unseen: int = 100
    """prompts of combinations that it does not have"""

    def check(self) -> None:
        require_at_least(self, vae_train_steps=1, num_clips=1, data_seed=0, num_real=2, num_seen=1, num_unseen=0)
        if not self.output:
            raise UserError("no folder to write into; give one with --output DIR")

    @property
    def folder(self) -> Path:
        return Path(self.output or "")


@dataclass
class ToyBenchmarkConfig(TrainConfig):
    """Makes clips of a toy world, trains a denoiser on them and scores what it makes of seen and unseen prompts.

    All settings of train.py apply. Its tables, caches and output_path are those of the benchmark.
    """

    benchmark: Benchmark = field(default_factory=Benchmark)

    aliases: ClassVar[dict[str, str]] = TrainConfig.aliases
    accepted_but_unused: ClassVar[dict[str, str]] = TrainConfig.accepted_but_unused

    def check(self) -> None:
        self.training().check()
        if self.lora.lora_rank:
            raise UserError("the benchmark trains a denoiser, not an adapter; leave out lora_rank")
        if not self.shape.is_fixed:
            raise UserError("the benchmark has clips of one size; give image_size instead of bucket_config")

    def training(self) -> TrainConfig:
        """The settings of the training, in the benchmark's folder."""
        folder = self.benchmark.folder
        groups = {part.name: getattr(self, part.name) for part in fields(TrainConfig)}
        groups["data"] = replace(
            self.data,
            csv_path=str(folder / "clips" / TABLE),
            video_folder=str(folder / "clips"),
            text_embed_folder=str(folder / "text"),
            vae_latent_folder=str(folder / "latents"),
            video_column="video",
            caption_column="caption",
        )
        resume = False if self.train.overwrite else "auto"
        groups["train"] = replace(self.train, output_path=str(folder / "denoiser"), add_datetime=False, resume=resume)
        if self.benchmark.vae_configs:
            last = folder / f"vae_{len(self.benchmark.vae_configs)}" / "model"
            groups["autoencoder"] = replace(self.autoencoder, vae_checkpoint=str(last))
        return TrainConfig(**groups)


def text_settings(training: TrainConfig) -> EmbedTextConfig:
    """What makes the text embeddings of a training."""
    config = EmbedTextConfig(text=training.text, runtime=_device(training, EmbedTextConfig))
    config.data.csv_path = training.data.csv_path
    config.cache.output_path, config.cache.stale = training.data.text_embed_folder, "renew"
    config.model.model_version = training.model.model_version
    return config


def latent_settings(training: TrainConfig, clips: Path, latents: Path) -> EmbedVideoConfig:
    """What makes latents for a training, or for looking at them."""
    shape = {part.name: getattr(training.shape, part.name) for part in fields(EmbedShape)}
    config = EmbedVideoConfig(
        shape=EmbedShape(**shape), autoencoder=training.autoencoder, runtime=_device(training, EmbedVideoConfig)
    )
    config.data.csv_path, config.data.video_folder = str(clips / TABLE), str(clips)
    config.data.frame_stride, config.data.num_parallel_workers = training.data.frame_stride, 0
    config.cache.output_path, config.cache.stale = str(latents), "renew"
    config.cache.condition_kinds = [kind for kind in training.flow.condition_config or () if kind != "t2v"] or None
    config.model.model_version = training.model.model_version
    return config


def _device(training: TrainConfig, schema: type) -> Any:
    kind = type(schema().runtime)
    return kind(**{part.name: getattr(training.runtime, part.name) for part in fields(kind)})
