"""Trains a denoiser; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.pipelines.doors import train_main

if __name__ == "__main__":
    guarded(train_main)()
