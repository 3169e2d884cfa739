"""Caches text embeddings of captions or prompts; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.embed.texts import text_main

if __name__ == "__main__":
    guarded(text_main)()
