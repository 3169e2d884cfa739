"""Caches text embeddings of captions or prompts; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("embed-text")
