"""Caches latents of videos; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("embed-video")
