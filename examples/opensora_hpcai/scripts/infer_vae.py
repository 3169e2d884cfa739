"""Caches latents of videos; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.embed.videos import video_main

if __name__ == "__main__":
    guarded(video_main)()
