"""Trains a denoiser; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.pipelines.train import main

if __name__ == "__main__":
    guarded(main)()
