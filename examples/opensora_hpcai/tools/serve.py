"""Videos by HTTP, from a queue; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("serve")
