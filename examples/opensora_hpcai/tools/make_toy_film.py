"""Writes a film of toy scenes, or checks what was made of it; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("toy-film")
