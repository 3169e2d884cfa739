"""Writes an adapter in the naming of another tool; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("convert-lora")
