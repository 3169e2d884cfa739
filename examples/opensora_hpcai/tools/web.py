"""A page in the browser that makes videos; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("web")
