"""Converts the video autoencoder of 1.2; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("convert-video-vae")
