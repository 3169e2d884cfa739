"""MSR-VTT in one folder for each of its splits; `--help` lists all settings."""

import sys

from opensora.cli import enter

SHORT = {"-d": "--data_dir", "-o": "--output_dir"}

if __name__ == "__main__":
    enter("data collate", [SHORT.get(word, word) for word in sys.argv[1:]])
