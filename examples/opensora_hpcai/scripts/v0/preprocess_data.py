"""Makes a training table of captions and videos, by the first release's options; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("preprocess-v0")
