"""Trains an autoencoder; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.pipelines.train_vae import main

if __name__ == "__main__":
    guarded(main)()
