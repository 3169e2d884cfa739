"""Measures how well an autoencoder reconstructs videos; `--help` lists all settings. Refused until there is a way."""

from mindone.config import parse
from mindone.errors import guarded
from opensora.config import EvaluateVaeConfig

if __name__ == "__main__":
    guarded(parse)(EvaluateVaeConfig)
