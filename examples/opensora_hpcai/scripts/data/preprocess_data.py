"""An arrow data set of videos and the states of their captions; `--help` lists all settings."""

import sys

from opensora.cli import enter

SHORT = {"-c": "--captions", "-v": "--video_dir", "-o": "--output_dir", "-n": "--num_bins", "-t": "--text_model"}

if __name__ == "__main__":
    enter("data preprocess", [SHORT.get(word, word) for word in sys.argv[1:]])
