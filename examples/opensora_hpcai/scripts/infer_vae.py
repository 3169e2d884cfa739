"""Caches latents of videos; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.pipelines.embed import video_main

if __name__ == "__main__":
    guarded(video_main)()
