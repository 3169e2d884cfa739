"""Entries of the training commands: settings are read and checked, and `--help` answers, before MindSpore is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from mindone.config import parse
from mindone.errors import guarded
from opensora.config import TrainConfig, TrainVaeConfig


@guarded
def train_main(argv: Sequence[str] | None = None) -> None:
    """Entry of ``scripts/train.py``."""
    config = parse(TrainConfig, argv, description="Trains a denoiser on videos and captions, or on their caches.")
    from opensora.training.denoiser import train

    train(config)


@guarded
def train_vae_main(argv: Sequence[str] | None = None) -> None:
    """Entry of ``scripts/train_vae.py``."""
    config = parse(TrainVaeConfig, argv, description="Trains the autoencoder of Open-Sora 1.2.")
    from opensora.training.autoencoder import train

    train(config)
