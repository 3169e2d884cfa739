"""Trains an autoencoder; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.pipelines.doors import train_vae_main

if __name__ == "__main__":
    guarded(train_vae_main)()
