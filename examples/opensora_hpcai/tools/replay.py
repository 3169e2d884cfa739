"""One past update of a training run, computed again; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("replay")
