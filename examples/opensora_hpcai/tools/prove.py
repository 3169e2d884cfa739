"""Compares a recipe's training on many processes with that on one; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("prove")
