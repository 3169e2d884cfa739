"""Plans memory and time of a training on several cards; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("validate")
