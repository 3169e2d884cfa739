"""Downloads a model of a hub as safetensors; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("download")
