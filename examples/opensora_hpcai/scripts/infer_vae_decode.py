"""Makes videos from cached latents; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("decode")
