"""A table of UCF-101 with captions from its folders' names; `--help` lists all settings."""

import sys

from opensora.cli import enter

if __name__ == "__main__":
    enter("data index", ["--layout", "ucf101", *sys.argv[1:]])
