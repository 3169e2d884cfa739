"""The measures of videos against the exact score of the toy world; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("measure-toy")
