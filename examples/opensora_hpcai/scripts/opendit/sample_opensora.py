"""Makes videos with Open-Sora 1.0 by OpenDiT's options; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("sample-opendit")
