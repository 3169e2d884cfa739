"""Makes videos from cached latents; `--help` lists all settings."""

from mindone.errors import guarded
from opensora.embed.decode import main

if __name__ == "__main__":
    guarded(main)()
