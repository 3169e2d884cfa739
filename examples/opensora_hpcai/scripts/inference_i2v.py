"""Makes videos from prompts and given pictures, as `inference.py` does; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("generate")
