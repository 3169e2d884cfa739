"""Trains the first release, by its published options; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("train-v0")
