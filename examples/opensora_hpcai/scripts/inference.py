"""Makes videos from prompts; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.pipelines.generate import main

if __name__ == "__main__":
    guarded(main)()
