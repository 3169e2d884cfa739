"""Caches text embeddings of captions or prompts; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.pipelines.embed import text_main

if __name__ == "__main__":
    guarded(text_main)()
