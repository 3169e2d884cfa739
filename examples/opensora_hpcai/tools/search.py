"""Makes several videos of every prompt and keeps the best; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("search")
