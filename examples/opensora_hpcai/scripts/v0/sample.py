"""Makes a video with the first release, by its published options; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("sample-v0")
