"""Videos of Open-Sora 2.0; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("generate-v2")
