"""Folds adapters into a denoiser's weights; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("merge-lora")
