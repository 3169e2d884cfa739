"""Measures how well an autoencoder reconstructs videos; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.pipelines.evaluate_vae import main

if __name__ == "__main__":
    guarded(main)()
