"""The benchmark of compositional video generation on a toy world; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("benchmark-toy")
