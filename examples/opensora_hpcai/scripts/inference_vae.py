"""Measures how well an autoencoder reconstructs videos; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("evaluate-vae")
